"""Windows as selectors see them, made of a few numbers."""

import numpy as np

from pipeline.selection import SeenFrames


def seen(embedding, *, relevance=None, slow=None, pts_s=None, end_s=None) -> SeenFrames:
    """A window of one frame a second, of which everything is slow and nothing relevant unless told."""
    embedding_NE = np.asarray(embedding, np.float32)
    count = len(embedding_NE)
    times_s = np.arange(count, dtype=np.float64) if pts_s is None else np.asarray(pts_s, np.float64)
    return SeenFrames(
        pts_s_N=times_s,
        end_s=float(count) if end_s is None else end_s,
        embedding_NE=embedding_NE,
        relevance_N=np.zeros(count, np.float32) if relevance is None else np.asarray(relevance, np.float32),
        novelty_N=np.ones(count, np.float32),
        slow_N=np.ones(count, bool) if slow is None else np.asarray(slow, bool),
    )


def path(count: int, seed: int, width: int = 6) -> np.ndarray:
    """Embeddings that drift, with a jump now and then."""
    rng = np.random.default_rng(seed)
    steps = rng.standard_normal((count, width)) * np.where(rng.random(count) < 0.2, 2.0, 0.2)[:, None]
    return 1.0 + np.cumsum(steps, axis=0)


def unit_rows(embedding) -> list[np.ndarray]:
    """Each row at length 1, in double precision."""
    wide = np.asarray(np.asarray(embedding, np.float32), np.float64)
    return [row / np.linalg.norm(row) if np.linalg.norm(row) else row for row in wide]


def unlike(one: np.ndarray, other: np.ndarray) -> float:
    """1 - cosine of two vectors, none of which is zero."""
    return 1.0 - float(one @ other) / float(np.linalg.norm(one) * np.linalg.norm(other))
