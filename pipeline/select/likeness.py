"""How much frames differ by the scorer's embedding, and where a window falls apart into scenes.

Shape letters: N sampled frames of one window, E embedding.
"""

import numpy as np
import numpy.typing as npt

from pipeline.budget import Indices
from pipeline.errors import AnswerError
from pipeline.selection import SeenFrames

Wide = npt.NDArray[np.float64]

STILL = 1e-6
"""Change up to which two frames count as the same: what rounding leaves of float32 embeddings."""
MIN_SCENE_FRAMES = 8
"""A window is not cut into scenes of fewer frames than these, on average."""


def directions(frames: SeenFrames) -> Wide:
    """Return the embeddings scaled to length 1, float64 [N, E]; one of length 0 stays as it is.

    Raises:
        AnswerError: an embedding is not finite; the message names the frame.
    """
    wide_NE = frames.embedding_NE.astype(np.float64)
    bad_N = np.logical_not(np.isfinite(wide_NE)).any(axis=1)
    if bad_N.any():
        frame = int(bad_N.argmax())
        msg = (
            f"frame {frame} at {frames.pts_s_N[frame]:g} s has an embedding that is not finite, like"
            f" {np.count_nonzero(bad_N)} of {len(frames)} frames; expected numbers: check the scorer's weights, or take"
            " selector 'uniform', which needs no embeddings"
        )
        raise AnswerError(msg)
    return unit(wide_NE)


def unit(wide_NE: Wide) -> Wide:
    """Return rows scaled to length 1; a row of length 0 stays as it is."""
    length_N = np.linalg.norm(wide_NE, axis=1)
    return wide_NE / np.where(length_N > 0, length_N, 1.0)[:, None]


def change(before_NE: Wide, after_NE: Wide) -> Wide:
    """Return 1 - cosine of rows of length 1, float64 [N], from 0 to 2; exactly 0 for equal rows.

    Half the squared distance is the same number, without the cancellation; it is 1/2 where one row is zero.
    """
    return 0.5 * np.square(after_NE - before_NE).sum(axis=1)


def cut_scenes(direction_NE: Wide, most: int | None = None) -> list[Indices]:
    """Return the frames of each scene, in time order: cut where neighbours are least alike.

    TDC (arXiv 2504.10443) fixes the number of scenes, not a threshold: at most `most`. Ours besides: no more than one
    per MIN_SCENE_FRAMES frames, and no cut between equal frames. The earlier of two equal cuts is made.
    """
    num_frames = len(direction_NE)
    if not num_frames:
        return []
    wanted = -(-num_frames // MIN_SCENE_FRAMES)
    if most is not None:
        wanted = min(wanted, most)
    change_M = change(direction_NE[:-1], direction_NE[1:])
    order = np.argsort(-change_M, kind="stable")[: wanted - 1]
    cuts = np.sort(order[change_M[order] > STILL]) + 1
    return np.split(np.arange(num_frames), cuts)
