"""A selector of frames that somebody else trained, as a folder of two small ONNX graphs written here."""

import json
from dataclasses import replace

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from actors.models import embedded_image as onnx
from actors.models import external
from actors.models.tables import find_scorer
from pipeline.config import ScoreConfig
from pipeline.errors import ModelError

WORDS = {"[UNK]": 0, "red": 1, "green": 2, "blue": 3, "?": 4}
TABLE = np.asarray([[0, 0, 0], [9, -9, -9], [-9, 9, -9], [-9, -9, 9], [0, 0, 0]], np.float32)
FACTS = {"height_px": 8, "width_px": 6, "mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}
FLOAT, INT64 = 1, 7


def value(name, kind, shape):
    """As of embedded_image, also with named sizes."""
    sizes = [onnx._field(2, one.encode()) if isinstance(one, str) else onnx._field(1, one) for one in shape]
    dims = b"".join(onnx._field(1, size) for size in sizes)
    typed = onnx._field(1, onnx._field(1, kind) + onnx._field(2, dims))
    return onnx._field(1, name.encode()) + onnx._field(2, typed)


def graph(nodes, inputs, output, tensors=()):
    body = b"".join([
        *(onnx._field(1, node) for node in nodes), onnx._field(2, b"selector"),
        *(onnx._field(5, onnx._tensor(name, data)) for name, data in tensors),
        *(onnx._field(11, one) for one in inputs), onnx._field(12, output),
    ])  # fmt: skip
    return onnx._field(1, 8) + onnx._field(7, body) + onnx._field(8, onnx._field(2, 17))


def mean(source, output, axis, keep):
    return onnx._node(
        "ReduceMean", [source], output, [onnx._attr_ints("axes", axis), onnx._attr_int("keepdims", keep)]
    )


@pytest.fixture
def folder(tmp_path):
    """Features are mean colours; a frame is relevant by how much more of the asked colour it has than the others."""
    (tmp_path / "selector.json").write_text(json.dumps(FACTS))
    tokenizer = Tokenizer(models.WordLevel(WORDS, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    frames = graph(
        [mean("pixels", "features", (2, 3), 0)],
        [value("pixels", FLOAT, ("n", 3, 8, 6))],
        value("features", FLOAT, ("n", 3)),
    )
    select = graph(
        [
            onnx._node("Gather", ["table", "input_ids"], "words"),
            mean("words", "asked", (0,), 1),
            mean("features", "usual", (0,), 1),
            onnx._node("Sub", ["features", "usual"], "own"),
            onnx._node("Mul", ["own", "asked"], "like"),
            mean("like", "logits", (1,), 0),
        ],
        [value("features", FLOAT, ("n", 3)), value("input_ids", INT64, ("l",))],
        value("logits", FLOAT, ("n",)),
        [("table", TABLE)],
    )
    (tmp_path / "frames.onnx").write_bytes(frames)
    (tmp_path / "select.onnx").write_bytes(select)
    return tmp_path


def scored(folder, data, texts):
    config = ScoreConfig(scorer="external", model=str(folder))
    scorer = find_scorer(config).make(config, "cpu")
    return scorer, scorer.relevance(scorer.embed_frames(data), scorer.embed_texts(texts))


@pytest.fixture
def colours():
    """A red, a green, a blue and a black frame."""
    data = np.zeros((4, 8, 6, 3), np.uint8)
    for channel in range(3):
        data[channel, ..., channel] = 255
    return data


def test_frames_are_seen_together_with_each_question(folder, colours):
    scorer, found = scored(folder, colours, ["red", "blue ?"])
    assert found.dtype == np.float32
    features = colours.reshape(4, -1, 3).mean(1) / 255
    assert np.allclose(scorer.embed_frames(colours), features, atol=1e-6)
    own = features - features.mean(0)
    for column, words in enumerate(([1], [3, 4])):
        logits = (own * TABLE[words].mean(0)).mean(1)
        assert np.allclose(found[:, column], 1 / (1 + np.exp(-logits)), atol=1e-6)
    assert found[:, 0].argmax() == 0
    assert found[:, 1].argmax() == 2
    assert (found[0, 0] > 0.5) & (found[2, 0] < 0.5)


def test_a_long_window_is_seen_in_equal_runs(folder, colours):
    scorer, _ = scored(folder, colours, [])
    features = scorer.embed_frames(np.concatenate([colours, colours[:1]]))
    asked = scorer.embed_texts(["green"])
    short = external.External(
        "x", replace(scorer.facts, max_frames=3), scorer.tokenizer, scorer.frames, scorer.select
    )
    halves = [scorer.relevance(features[part], asked) for part in (slice(0, 3), slice(3, 5))]
    assert np.array_equal(short.relevance(features, asked), np.concatenate(halves))


def test_nothing_to_look_at_or_to_ask(folder, colours):
    scorer, found = scored(folder, colours[:0], ["red"])
    assert found.shape == (0, 1)
    assert scorer.relevance(scorer.embed_frames(colours), scorer.embed_texts([])).shape == (4, 0)


def test_a_text_is_cut_and_put_into_the_prompt(folder, colours):
    facts = {**FACTS, "max_text_tokens": 2, "prompt": "red {question}"}
    (folder / "selector.json").write_text(json.dumps(facts))
    scorer, _ = scored(folder, colours, [])
    assert scorer.embed_texts(["blue ? ?", ""]).tolist() == [[1, 3], [1, -1]]


def test_the_driver_reads_size_and_what_tells_it_apart(folder):
    config = ScoreConfig(scorer="external", model=str(folder))
    before = external.describe(config)
    assert (before.frame_size.height_px, before.frame_size.width_px) == (8, 6)
    assert before.name.startswith(f"{folder}@")
    weights = bytearray((folder / "select.onnx").read_bytes())
    weights[-40] ^= 1
    (folder / "select.onnx").write_bytes(weights)
    assert external.describe(config).name != before.name


def test_what_is_no_selector_is_named(folder, colours, tmp_path):
    config = ScoreConfig(scorer="external", model=str(folder))
    with pytest.raises(
        ModelError, match=r"found no selector\.json, tokenizer\.json, frames\.onnx, select\.onnx"
    ):
        external.describe(ScoreConfig(scorer="external", model=str(tmp_path / "none")))
    (folder / "selector.json").write_text(json.dumps({**FACTS, "height": 3}))
    with pytest.raises(ModelError, match=r"selector\.json cannot be used: .*height"):
        external.describe(config)
    (folder / "selector.json").write_text(json.dumps(FACTS))
    select = (folder / "select.onnx").read_bytes()
    (folder / "select.onnx").write_bytes((folder / "frames.onnx").read_bytes())
    with pytest.raises(
        ModelError, match=r"select\.onnx takes pixels and gives features, expected features, input_ids"
    ):
        external.make(config, "cpu")
    (folder / "select.onnx").write_bytes(b"no graph")
    with pytest.raises(ModelError, match=r"select\.onnx cannot be loaded"):
        external.make(config, "cpu")
    damaged = select.replace(TABLE[1].tobytes(), np.full(3, np.nan, np.float32).tobytes())
    (folder / "select.onnx").write_bytes(damaged)
    with pytest.raises(ModelError, match="not a number"):
        scored(folder, colours, ["red"])
