"""Frames that stand for groups of alike frames.

Shape letters: N sampled frames of one window, E embedding, K clusters.
"""

import numpy as np
import numpy.typing as npt

from pipeline.budget import Indices, Plan, evenly
from pipeline.methods import Method
from pipeline.select.likeness import STILL, Wide, directions
from pipeline.select.spending import check_buys, nothing_to_show, plan_of, quarter_of
from pipeline.selection import SeenFrames

METHOD = Method(
    source="Flash-VStream (arXiv 2506.23825), the Qwen2-VL version",
    stage="select",
    what="weighted k-means of the embeddings; of each cluster the frame nearest its centre is shown at half resolution,"
    " of the largest clusters, up to half of them, with all its tokens",
    differs="a window at a time, without a trained memory: real frames stand for centroids too, and the frame of a"
    " large cluster is shown once, whole, not twice. Weights are the seconds that a picture is shown. k-means starts"
    " from frames at equal distances. Clusters of equal frames are one",
    needs=("embeddings",),
)

MAX_ITERATIONS = 10


def show_clusters(frames: SeenFrames, *, budget_tokens: int, tokens_per_frame: int) -> Plan:
    """Return one frame of each cluster; as many clusters as the budget buys with every second one whole.

    The paper has 60 slots at half resolution and 30 at full. Tokens that empty clusters leave make more frames whole;
    a budget for all frames shows them all.
    """
    num_frames = len(frames)
    if not num_frames:
        return nothing_to_show()
    quarter = quarter_of(tokens_per_frame)
    check_buys(budget_tokens, quarter, tokens_per_frame)
    num_wanted = max(1, 2 * budget_tokens // (tokens_per_frame + quarter))
    shown, weight_K = pick_of_clusters(directions(frames), _shown_s(frames), num_wanted)
    spare = budget_tokens - quarter * len(shown)
    num_whole = len(shown) if tokens_per_frame == quarter else spare // (tokens_per_frame - quarter)
    largest_first = np.argsort(-weight_K, kind="stable")
    tokens_N = np.zeros(num_frames, np.int64)
    tokens_N[shown] = quarter
    tokens_N[shown[largest_first[:num_whole]]] = tokens_per_frame
    return plan_of(
        tokens_N,
        f"{len(shown)} clusters of {num_frames} frames, the {min(num_whole, len(shown))} largest at"
        f" {tokens_per_frame} tokens, others at {quarter}",
    )


def pick_of_clusters(
    point_NE: Wide, weight_N: npt.NDArray[np.float64], num_wanted: int
) -> tuple[Indices, npt.NDArray[np.float64]]:
    """Return the frame nearest the centre of each cluster, in time order, and the weights of the clusters.

    Weighted k-means from frames at equal distances, at most 10 rounds; a frame goes to the earlier of two equally
    near centres, and of a cluster the earlier of two equally near frames is picked. A cluster that lost its frames is
    dropped. When there are as many clusters as frames each is its own. O(N K E) time a round.
    """
    num_frames = len(point_NE)
    if num_wanted >= num_frames:
        return np.arange(num_frames), weight_N
    centre_KE = point_NE[evenly(num_frames, num_wanted)]
    cluster_N = _nearest(point_NE, centre_KE)
    for _ in range(MAX_ITERATIONS):
        member_KN = (cluster_N == np.arange(num_wanted)[:, None]) * weight_N
        weight_K = member_KN.sum(axis=1)
        mean_KE = member_KN @ point_NE / np.maximum(weight_K, np.finfo(float).tiny)[:, None]
        centre_KE = np.where(weight_K[:, None] > 0, mean_KE, centre_KE)
        before_N, cluster_N = cluster_N, _nearest(point_NE, centre_KE)
        if np.array_equal(before_N, cluster_N):
            break
    weight_K = np.asarray(np.bincount(cluster_N, weight_N, minlength=num_wanted), np.float64)
    away_N = np.square(point_NE - centre_KE[cluster_N]).sum(axis=1).round(12)
    order = np.lexsort((away_N, cluster_N))
    used, first = np.unique(cluster_N[order], return_index=True)
    picked = order[first]
    in_time = np.argsort(picked)
    return picked[in_time], weight_K[used][in_time]


def _nearest(point_NE: Wide, centre_KE: Wide) -> Indices:
    """Return the nearest centre of each point, [N]; what differs by rounding only is equally near."""
    squared_NK = np.square(centre_KE).sum(axis=1) - 2.0 * point_NE @ centre_KE.T
    return (squared_NK <= squared_NK.min(axis=1, keepdims=True) + STILL**2).argmax(axis=1)


def _shown_s(frames: SeenFrames) -> npt.NDArray[np.float64]:
    """Return for how long each picture is shown, to the millisecond."""
    return np.diff(frames.pts_s_N, append=frames.end_s).round(3).clip(min=1e-3)
