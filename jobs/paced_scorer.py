"""A frame scorer that keeps a GPU's seat as long as a large model would: the embedded one, and a wait per frame.

It is how a cluster can be watched while it grows where there is no GPU: scores are the embedded scorer's, and work
piles up in front of it whatever the CPUs can do.
"""

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from actors.models import Device, ScorerEntry, ScorerFacts, embedded
from pipeline.config import ScoreConfig

PER_FRAME_S = 0.6
Floats = npt.NDArray[np.float32]


def describe(config: ScoreConfig) -> ScorerFacts:
    """Return the embedded scorer's facts, but for its name and that it wants a GPU."""
    facts = embedded.describe(config)
    return replace(facts, name=f"paced {facts.name}", uses_gpu=True)


class PacedScorer:
    """See `actors.models.FrameScorer`."""

    def __init__(self) -> None:
        self._scorer = embedded.EmbeddedScorer()

    def embed_texts(self, texts: Sequence[str]) -> Floats:
        """Return the embedded scorer's texts."""
        return self._scorer.embed_texts(texts)

    def embed_frames(self, data_NHWC: npt.NDArray[np.uint8]) -> Floats:
        """Return the embedded scorer's frames, after the wait."""
        time.sleep(PER_FRAME_S * len(data_NHWC))
        return self._scorer.embed_frames(data_NHWC)

    def relevance(self, embeddings_NE: Floats, texts_PE: Floats) -> Floats:
        """Return the embedded scorer's relevance."""
        return self._scorer.relevance(embeddings_NE, texts_PE)


def make(config: ScoreConfig, device: Device) -> PacedScorer:  # noqa: ARG001
    """Return the scorer; it computes on the CPU, whatever its seat."""
    return PacedScorer()


PACED = ScorerEntry(describe, make)
