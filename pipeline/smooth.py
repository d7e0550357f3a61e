"""Smoothing of relevance over time: what lasts counts more than one lucky frame.

Shape letters: N frames, P texts.
"""

import numpy as np
import numpy.typing as npt


def smooth(
    relevance_NP: npt.NDArray[np.float32], pts_s_N: npt.NDArray[np.float64], width_s: float
) -> npt.NDArray[np.float32]:
    """Return [N, P] float32: each frame's mean over its neighbours in time, weighted by a triangle.

    A frame dt seconds away weighs max(0, 1 - dt / width_s), so width_s is where the weight reaches 0 on either side
    and real, uneven times count; weights sum to 1 everywhere, at the ends too. Width 0 returns the input. Values stay
    between the smallest and the largest of their column. O(N^2) in frames of one window.

    Raises:
        ValueError: times and rows do not have one length, or the width is negative.
    """
    if len(relevance_NP) != len(pts_s_N):
        msg = f"{len(relevance_NP)} rows of relevance have {len(pts_s_N)} times"
        raise ValueError(msg)
    if width_s < 0:
        msg = f"smoothing width must be 0 s or more, found {width_s} s"
        raise ValueError(msg)
    if width_s == 0:
        return relevance_NP
    weight_NN = np.maximum(0.0, 1.0 - np.abs(pts_s_N[:, None] - pts_s_N[None, :]) / width_s)
    weight_NN /= weight_NN.sum(axis=1, keepdims=True)
    return (weight_NN @ relevance_NP.astype(np.float64)).astype(np.float32)
