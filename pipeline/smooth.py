"""Smoothing of relevance over time: what lasts counts more than one lucky frame, but a cut stays a cut.

A bilateral filter (Tomasi and Manduchi, 1998) over the frames of a window: neighbours count by their distance in time
and by how alike the frames are, so a shot is smoothed within itself and does not leak into the next.

Shape letters: N frames, P texts, E embedding.
"""

import numpy as np
import numpy.typing as npt

LIKENESS_POWER = 8
"""Sharpness of the likeness weight: frames at cosine .9 count .43, at .7 count .06."""


def smooth(
    relevance_NP: npt.NDArray[np.float32],
    pts_s_N: npt.NDArray[np.float64],
    width_s: float,
    embedding_NE: npt.NDArray[np.float32],
) -> npt.NDArray[np.float32]:
    """Return [N, P] float32: each frame's weighted mean over its neighbours in time.

    A frame dt seconds away weighs max(0, 1 - dt / width_s) * max(0, cosine of the embeddings) ** LIKENESS_POWER.
    Real, uneven times count; weights sum to 1 everywhere, at the ends too. Width 0 returns the input. Values stay
    between the smallest and the largest of their column. O(N^2) in frames of one window.

    Raises:
        ValueError: times, rows and embeddings do not have one length, or the width is negative.
    """
    lengths = (len(relevance_NP), len(pts_s_N), len(embedding_NE))
    if len(set(lengths)) != 1:
        msg = f"relevance, times and embeddings must have one length, found {lengths}"
        raise ValueError(msg)
    if width_s < 0:
        msg = f"smoothing width must be 0 s or more, found {width_s} s"
        raise ValueError(msg)
    if width_s == 0:
        return relevance_NP
    near_NN = np.maximum(0.0, 1.0 - np.abs(pts_s_N[:, None] - pts_s_N[None, :]) / width_s)
    norm_N1 = np.maximum(np.linalg.norm(embedding_NE, axis=1, keepdims=True), 1e-12)
    unit_NE = (embedding_NE / norm_N1).astype(np.float64)
    like_NN = np.clip(unit_NE @ unit_NE.T, 0.0, 1.0) ** LIKENESS_POWER
    np.fill_diagonal(like_NN, 1.0)  # a frame is like itself, also one whose embedding is all zeros
    weight_NN = near_NN * like_NN
    weight_NN /= weight_NN.sum(axis=1, keepdims=True)
    # one text at a time: the last bits of a product depend on how many columns it has
    columns = [weight_NN @ np.ascontiguousarray(relevance_N, np.float64) for relevance_N in relevance_NP.T]
    return np.stack(columns, axis=1).astype(np.float32) if columns else relevance_NP
