"""Frame relevance from a CLIP- or SigLIP-like dual encoder of transformers.

Pictures and texts become unit vectors in one space; relevance is their cosine, calibrated to [0, 1]:

- SigLIP (arXiv 2303.15343, section 3.2) was trained on it as a probability: sigmoid(scale * cosine + bias).
- CLIP (arXiv 2103.00020) only ranks, a cosine means nothing by itself. It is set against neutral texts as in LERF
  (arXiv 2303.09553, section 3.3): the smallest of the pairwise softmaxes against each of them. 0.5 = the picture is
  as close to the query as to the closest text that says nothing. We use texts about pictures where LERF, which looks
  at parts of a scene, has "object, things, stuff, texture".

Frames are stretched to the model's square. CLIP was trained on central crops, but an event at the left or right
edge of a wide frame must be seen.

Weights stay float32: cosines are multiplied by about 100, so bfloat16's three digits would show.

Shape letters: N frames, H W pixels, E embedding, P texts, B neutral texts.
"""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from actors.models import Device, Floats, FrameScorer, ScorerEntry, ScorerFacts
from actors.models.loading import ModelFiles, fetch, load_model, read_config, read_preprocessing
from pipeline.config import ScoreConfig
from pipeline.errors import ModelError
from pipeline.frames import FrameSize
from pipeline.methods import Method

logger = logging.getLogger(__name__)

METHOD = Method(
    source="CLIP (arXiv 2103.00020), SigLIP (arXiv 2303.15343) and relatives, by folder or hub id",
    stage="score",
    what="cosine of picture and text, calibrated to [0, 1]",
    differs="CLIP only ranks, so it is set against neutral texts (LERF, arXiv 2303.09553); frames are stretched, not"
    " cropped",
    needs=("pixels", "weights"),
    query_dependent=True,
    positions="none",
)

NEUTRAL_TEXTS = ("a photo", "a picture of something", "a scene", "an image")
FRAMES_PER_CALL = {"cpu": 1, "cuda": 16}
"""Frames per forward pass. One on a CPU, where a batch gains nothing and the place of a frame in it changes the last
bits; on a GPU blank frames fill the last batch, so that every pass has one shape."""


def describe(config: ScoreConfig) -> ScorerFacts:
    """Return the model's name with its revision, and the frame size it takes; reads no weights.

    Raises:
        ModelError: see loading.py; or the model is no dual encoder.
    """
    files = fetch(config.model, config.revision, weights=False)
    _check_dual(files, read_config(files))
    _, images, _ = read_preprocessing(files)
    return ScorerFacts(f"{files.name}@{files.revision[:12]}", _frame_size(files, images))


def make(config: ScoreConfig, device: Device) -> FrameScorer:
    """Return the scorer with its weights on the device.

    Raises:
        ModelError: see `describe`; or the weights do not fit.
    """
    files = fetch(config.model, config.revision, weights=True)
    model_config = read_config(files)
    _check_dual(files, model_config)
    tokenizer, images, _ = read_preprocessing(files)
    model = load_model("AutoModel", files, "float32", device)
    limit = getattr(model_config.text_config, "max_position_embeddings", tokenizer.model_max_length)
    return DualEncoder(files.name, model, tokenizer, images, min(limit, tokenizer.model_max_length))


ENTRY = ScorerEntry(describe, make)


class DualEncoder:
    """Holds one model; see the module."""

    def __init__(self, name: str, model: Any, tokenizer: Any, images: Any, max_text_tokens: int) -> None:
        self.name = name
        self.model = model
        self.tokenizer = tokenizer
        self.images = images
        self.max_text_tokens = max_text_tokens
        self.scale = float(model.logit_scale.exp())
        bias = getattr(model, "logit_bias", None)
        self.bias = None if bias is None else float(bias)
        self.neutral_BE = None if bias is not None else self.embed_texts(NEUTRAL_TEXTS)

    def embed_texts(self, texts: Sequence[str]) -> Floats:
        """Return [P, E] float32 unit vectors; a text beyond the model's limit is cut, with a warning."""
        rows = [self._embed_text(text) for text in texts]
        return np.stack(rows) if rows else np.zeros((0, 0), np.float32)

    def embed_frames(self, data_NHWC: npt.NDArray[np.uint8]) -> Floats:
        """Return [N, E] float32 unit vectors.

        Raises:
            ModelError: the model computed something that is not a number.
        """
        num_frames, per_call = len(data_NHWC), FRAMES_PER_CALL[self.model.device.type]
        blank_NHWC = np.zeros((-num_frames % per_call, *data_NHWC.shape[1:]), np.uint8)
        padded_NHWC = np.concatenate([data_NHWC, blank_NHWC])
        parts: list[Floats] = []
        for start in range(0, len(padded_NHWC), per_call):
            frames = list(padded_NHWC[start : start + per_call])
            inputs = self.images(frames, return_tensors="pt", input_data_format="channels_last")
            parts.append(self._unit_vectors(self.model.get_image_features, inputs))
        return np.concatenate(parts)[:num_frames] if parts else np.zeros((0, 0), np.float32)

    def relevance(self, embeddings_NE: Floats, texts_PE: Floats) -> Floats:
        """Return [N, P] float32 in [0, 1]; see the module."""
        own_NP = self.scale * (embeddings_NE @ texts_PE.T)
        if self.neutral_BE is None:
            return _sigmoid(own_NP + (self.bias or 0.0))
        neutral_NB = self.scale * (embeddings_NE @ self.neutral_BE.T)
        return _sigmoid(own_NP - neutral_NB.max(axis=1, keepdims=True))

    def _embed_text(self, text: str) -> Floats:
        """Return [E]; one text at a time and always padded to the limit, as SigLIP was trained."""
        settings: dict[str, Any] = {"truncation": True, "max_length": self.max_text_tokens}
        ids = self.tokenizer(text, padding="max_length", return_tensors="pt", **settings)
        if len(self.tokenizer(text, verbose=False)["input_ids"]) > self.max_text_tokens:
            message = "scorer reads only the first %d tokens of the text %r; shorten it"
            logger.warning(message, self.max_text_tokens, text)
        ids = {name: ids[name] for name in ("input_ids", "attention_mask") if name in ids}
        return self._unit_vectors(self.model.get_text_features, ids)[0]

    def _unit_vectors(self, encode: Any, inputs: Any) -> Floats:
        """Return float32 unit vectors from one of the model's two towers."""
        with torch.inference_mode():
            out = encode(**{name: tensor.to(self.model.device) for name, tensor in inputs.items()})
            vectors = out if isinstance(out, torch.Tensor) else out.pooler_output
            vectors = torch.nn.functional.normalize(vectors.float(), dim=-1)
        if not bool(torch.isfinite(vectors).all()):
            msg = f"model {self.name!r} computed embeddings that are not finite numbers; its weights are damaged"
            raise ModelError(msg)
        return vectors.cpu().numpy()


def _sigmoid(logits: Floats) -> Floats:
    """Return 1 / (1 + exp(-x)), without overflow."""
    return (0.5 * (1 + np.tanh(0.5 * logits))).astype(np.float32)


def _check_dual(files: ModelFiles, config: Any) -> None:
    """Refuse a model that has not both towers."""
    from transformers import MODEL_MAPPING

    found = MODEL_MAPPING.get(type(config), None)
    if not (hasattr(found, "get_image_features") and hasattr(found, "get_text_features")):
        msg = (
            f"model {files.name!r} is a {config.model_type!r}, which does not embed pictures and texts into one"
            " space; expected a dual encoder such as CLIP or SigLIP"
        )
        raise ModelError(msg)


def _frame_size(files: ModelFiles, images: Any) -> FrameSize:
    """Return the size of the pictures that enter the vision tower, found by processing a blank one."""
    blank_HWC = np.zeros((64, 64, 3), np.uint8)
    pixels = images([blank_HWC], return_tensors="pt", input_data_format="channels_last")["pixel_values"]
    if pixels.ndim != 4:
        msg = (
            f"model {files.name!r}: its image processor returns pixel_values of shape {tuple(pixels.shape)},"
            " expected [1, 3, height, width]; models with packed patches (SigLIP 2 NaFlex) are not supported,"
            " take the fixed-resolution one"
        )
        raise ModelError(msg)
    return FrameSize(int(pixels.shape[2]), int(pixels.shape[3]), "stretch")
