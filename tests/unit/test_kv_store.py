"""A video's keys and values on disk: answers as from memory, the cap, and folders that are not to be trusted."""

import json
from itertools import pairwise

import numpy as np
import pytest
import torch

from actors.kv.blocks import Blocks
from actors.kv.indexing import answer_from, index_video, open_index, pieces
from actors.kv.prefill import say
from actors.kv.rekv import ReKv
from actors.kv.settings import KvSettings
from actors.kv.store import KvStore, Manifest
from actors.kv.tokens import of_prompt
from actors.models import video_llm
from actors.models.prompting import write_prompt
from pipeline.config import AnswerConfig, CompressConfig
from pipeline.errors import AnswerError, ConfigError, DecodeError, ModelError, StoreError
from pipeline.frames import Frames
from pipeline.queries import Query
from tests.tiny_models import build

FRAME_PX = 56
SETTINGS = KvSettings(window_tokens=100, retrieve_frames=4, group_frames=3)
KINDS = ("internvl", "qwen2_5_vl", "qwen3_vl", "llava_onevision")


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    kept, root = {}, tmp_path_factory.mktemp("models")

    def get(kind):
        if kind not in kept:
            config = AnswerConfig(
                model=str(build(kind, root / kind)), frame_px=FRAME_PX, max_new_tokens=4, dtype="float32"
            )
            kept[kind] = video_llm.make(config, CompressConfig(compressor="none"), "cpu")
        return kept[kind]

    return get


def make_frames(count, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 255, (count, FRAME_PX, FRAME_PX, 3), dtype=np.uint8)
    return Frames(pixels, np.arange(count) * 2.0)


def cut(frames, *sizes):
    edges = np.cumsum([0, *sizes])
    return [Frames(frames.data_NHWC[a:b], frames.pts_s_N[a:b]) for a, b in pairwise(edges)]


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_are_the_prompt_of_all_frames(load, kind):
    llm, frames = load(kind), make_frames(5)
    found = list(pieces(llm, cut(frames, 2, 3), 2))
    features = llm.encode(frames.data_NHWC)
    clip = llm.reduce(features, range(5), [(row, llm.parts.tokens_per_frame) for row in range(5)])
    head = llm.assemble(
        write_prompt(llm.parts, frames.pts_s_N.tolist(), Query("q", "Is it?", "ask")).head, clip
    )
    assert torch.allclose(torch.cat([piece.embeds_LD for piece in found]), head.embeds_LD, atol=1e-5)
    positions, end = [], 0
    for piece in found:
        positions.append(piece.tokens.lay_out(end))
        end += piece.tokens.extent
    assert torch.equal(torch.cat(positions, 1), head.positions_PL)
    assert end == head.next_position
    assert [len(piece.embeds_LD) for piece in found] == [len(piece.tokens) for piece in found]


@pytest.mark.parametrize("kind", KINDS)
def test_a_video_is_answered_from_its_folder(load, kind, tmp_path):
    llm, frames, question = load(kind), make_frames(7), "What colour is the car?"
    store = index_video(llm, cut(frames, 4, 3), tmp_path / "kv", SETTINGS)
    assert len(store.extents) == 7
    memory = ReKv(llm.language.decoder, SETTINGS)
    for piece in pieces(llm, [frames], SETTINGS.group_frames):
        memory.feed(piece)
    tail = write_prompt(llm.parts, (0.0,), Query("q", question, "ask")).tail
    expected = llm.decode(say(memory, llm.language, tail, llm.config.max_new_tokens).ids)
    assert answer_from(llm, tmp_path / "kv", question, SETTINGS) == expected
    disk = open_index(llm, tmp_path / "kv", SETTINGS)
    embeds = llm.language.embed(torch.tensor(tail))
    hidden = memory.ask(embeds), disk.ask(embeds)
    # files have 11 bits of each number
    assert torch.allclose(*hidden, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("kind", ["internvl", "qwen2_5_vl"])
def test_text_that_stands_before_the_frames_is_kept(load, kind, tmp_path):
    llm = load(kind)
    store = index_video(llm, [make_frames(2)], tmp_path, SETTINGS)
    layers, tokens = store.read_init()
    assert len(layers) == llm.language.num_layers
    assert len(tokens) == layers[0].shape[0]
    head = write_prompt(llm.parts, (0.0,), Query("q", "Is it?", "ask")).head
    before = head[: head.index(llm.parts.config.image_token_id)]
    # the first frame's time is its own: a question that does not find the frame is not shown it
    assert "0.0" not in llm.parts.tokenizer.decode(before[: len(tokens)])
    assert "0.0" in llm.parts.tokenizer.decode(before[len(tokens) :]).replace(" ", "")
    assert len(store.tokens(0)) == len(before) - len(tokens) + llm.parts.tokens_per_frame


def test_what_does_not_fit_is_refused(load, tmp_path):
    llm = load("internvl")
    with pytest.raises(ConfigError, match="window_tokens"):
        index_video(llm, [make_frames(2)], tmp_path / "a")
    with pytest.raises(AnswerError, match="no frame"):
        index_video(llm, [], tmp_path / "b", SETTINGS)
    index_video(llm, [make_frames(100)], tmp_path / "c", SETTINGS)
    with pytest.raises(AnswerError, match="retrieve_frames"):
        answer_from(llm, tmp_path / "c", "Is it dark?", KvSettings(retrieve_frames=90))


def test_a_reading_that_fails_leaves_a_folder_for_the_next_try(load, tmp_path):
    def broken():
        yield make_frames(7)
        msg = "the video ends in noise"
        raise DecodeError(msg)

    llm = load("internvl")
    (tmp_path / "notes.txt").write_text("someone's")
    with pytest.raises(DecodeError, match="noise"):
        index_video(llm, broken(), tmp_path, SETTINGS)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    assert len(index_video(llm, [make_frames(7)], tmp_path, SETTINGS).extents) == 7
    with pytest.raises(StoreError, match="already holds"):
        index_video(llm, broken(), tmp_path, SETTINGS)
    assert len(open_index(llm, tmp_path).archive.extents) == 7


def test_folders_that_are_not_what_they_should_be(load, tmp_path):
    llm = load("internvl")
    with pytest.raises(StoreError, match="index the video first"):
        open_index(llm, tmp_path)
    folder = tmp_path / "kv"
    index_video(llm, [make_frames(2)], folder, SETTINGS)
    with pytest.raises(StoreError, match="already holds"):
        index_video(llm, [make_frames(2)], folder, SETTINGS)
    manifest = json.loads((folder / "manifest.json").read_text())
    with pytest.raises(ModelError, match="was indexed with"):
        open_index(load("qwen2_5_vl"), folder)
    for change, match in (
        ({"is_complete": False}, "index again"),
        ({"version": 9}, "version 9"),
        ({"x": 1}, "no KV"),
    ):
        (folder / "manifest.json").write_text(json.dumps(manifest | change))
        with pytest.raises(StoreError, match=match):
            open_index(llm, folder)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "group-000000.safetensors").unlink()
    with pytest.raises(StoreError, match="cannot be read"):
        answer_from(llm, folder, "Is it dark?", KvSettings(retrieve_frames=1))


# --- the store alone -------------------------------------------------------------------------------------------


def blocks(means, length=4, start_s=0.0):
    """Return one block per mean key, of some tokens."""
    count = len(means)
    visual = torch.tensor([False, *[True] * (length - 1)] * count)
    tokens = of_prompt(
        torch.arange(count * length)[None], visual, [start_s + n for n in range(count)], count * length
    )
    layers = [torch.randn(count * length, 2, 2, 8) for _ in range(2)]
    return Blocks(layers, torch.tensor(means)[:, None].repeat(1, 2, 1), [length] * count, tokens)


def make_store(folder, bytes_per_hour=0):
    return KvStore.create(folder, Manifest("m", "r", 2, "float16", bytes_per_hour))


def test_blocks_come_back_as_they_went(tmp_path):
    store, new = make_store(tmp_path), blocks([[1.0, 0], [0, 1.0], [1.0, 0]])
    store.add(new)
    store.finish()
    again = KvStore.open(tmp_path, "m", "r")
    assert torch.equal(again.load(1, 2), new.layers[1][8:12].half())
    assert torch.equal(again.means(0), new.means_BlE[:, 0])
    assert again.tokens(1).time_s_L[1] == 1.0
    assert again.extents == [4, 4, 4]


def test_blocks_that_say_least_go_first_and_of_equal_ones_the_oldest(tmp_path):
    store = make_store(tmp_path)
    store.add(blocks([[1.0, 0], [1.0, 0], [0, 1.0]]))
    store.add(blocks([[0, 1.0], [1.0, 0.2]], start_s=3.0))
    times = lambda: [time_s for group in store.manifest.groups for time_s in group.times_s]  # noqa: E731
    each = store.num_bytes // 5
    store.trim(store.num_bytes - each // 2)
    assert times() == [0.0, 2.0, 3.0, 4.0]
    store.trim(store.num_bytes - each // 2)
    assert times() == [0.0, 2.0, 4.0]
    store.trim(0)
    assert len(times()) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"manifest.json", store.manifest.groups[0].file}
    assert store.load(0, 0).shape == (4, 2, 2, 8)


def test_the_folder_keeps_to_its_cap_while_it_grows(tmp_path):
    generator = torch.Generator().manual_seed(0)
    sizes = []
    store = make_store(tmp_path, bytes_per_hour=3600 * 400)
    for group in range(12):
        store.add(blocks(torch.randn(8, 2, generator=generator).tolist(), length=16, start_s=group * 8.0))
        sizes.append(store.num_bytes / (400 * 8 * (group + 1)))
    assert max(sizes[1:]) <= 1.25
    store.finish()
    assert store.num_bytes <= 400 * 96
    assert KvStore.open(tmp_path, "m", "r").num_bytes == store.num_bytes


def test_numbers_beyond_the_format_are_refused(tmp_path):
    new = blocks([[1.0, 0]])
    new.layers[0][0, 0, 0, 0] = 1e6
    with pytest.raises(StoreError, match="--dtype bfloat16"):
        make_store(tmp_path).add(new)
    store = KvStore.create(tmp_path / "wide", Manifest("m", "r", 2, "bfloat16", 0))
    store.add(new)
    assert float(store.load(0, 0)[0, 0, 0, 0]) == pytest.approx(1e6, rel=0.01)
