"""A scorer for `reelsift bench chaos` that counts its work."""

import os
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from actors.models import Device, ScorerEntry, ScorerFacts
from pipeline.config import ScoreConfig
from pipeline.frames import FrameSize

WINDOW_S, SLOW_WINDOW_S = 0.1, 0.5
"""How long a window takes at least, so that there is a middle of a run to be killed in; the second is what a large
model takes for a short window."""
SIDE = 4


class CountingScorer:
    """Scores by brightness, and writes one byte per window it has looked at below a folder, in its process's file."""

    def __init__(self, folder: str, window_s: float = WINDOW_S) -> None:
        self.counted = Path(folder) / str(os.getpid())
        self.window_s = window_s

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Return [P, 1] numbers that differ from text to text."""
        return np.array([[len(text) % 7 / 7] for text in texts], np.float32).reshape(-1, 1)

    def embed_frames(self, data_NHWC: np.ndarray) -> np.ndarray:
        """Return the mean brightness of SIDE x SIDE fields [N, SIDE * SIDE]."""
        with self.counted.open("ab") as file:
            file.write(b".")
        time.sleep(self.window_s)
        count, height, width, _ = data_NHWC.shape
        fields = data_NHWC.reshape(count, SIDE, height // SIDE, SIDE, width // SIDE, 3)
        return fields.mean(axis=(2, 4, 5), dtype=np.float64).reshape(count, -1).astype(np.float32) / 255

    def relevance(self, embeddings_NE: np.ndarray, texts_PE: np.ndarray) -> np.ndarray:
        """Return [N, P] in [0, 1]: nearer brightness is more relevant."""
        return 1 - abs(embeddings_NE.mean(axis=1, keepdims=True) - texts_PE[:, 0])


def _describe(config: ScoreConfig) -> ScorerFacts:
    del config
    return ScorerFacts("counting", FrameSize(64, 64), uses_gpu=False)


def _make(config: ScoreConfig, device: Device, window_s: float = WINDOW_S) -> CountingScorer:
    del device
    time.sleep(WINDOW_S)  # a process that loads a model can be killed while it does
    return CountingScorer(config.model, window_s)


COUNTING = ScorerEntry(describe=_describe, make=_make)
"""`score.model` names the folder in which it counts."""
SLOW = ScorerEntry(describe=_describe, make=partial(_make, window_s=SLOW_WINDOW_S))


def num_counted(folder: Path) -> int:
    """Return how many windows were looked at, by all processes together."""
    return sum(path.stat().st_size for path in folder.iterdir())
