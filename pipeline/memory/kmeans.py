"""Weighted k-means without a random start, on the inner products of points alone.

A cluster's centre is a sum of points with shares, so every distance to it follows from inner products between points:
the long vectors are touched once, whatever the number of iterations.

Shape letters: P points, F features, K clusters.
"""

import torch

MOST_ITERATIONS = 10


def weighted_kmeans(points_PF: torch.Tensor, weight_P: torch.Tensor, most: int) -> torch.Tensor:
    """Return which share each point has in the centre of each cluster, float64 [K, P], K at most `most`.

    Rows sum to 1 and no two rows share a point; centres are `shares @ points`. Starts from the clusters that Ward's
    merges leave (always the pair that adds the least to the weighted squared error), then at most 10 rounds of Lloyd's
    two steps. A cluster that loses its last point is gone. Points that need no cluster of several keep one of their
    own. O(P^2 F + (P - K) P^2) time.
    """
    num = len(points_PF)
    member_KP = torch.eye(num, dtype=torch.float64, device=points_PF.device)
    if num <= most:
        return member_KP
    # around their mean: inner products of nearly equal long vectors would leave no digits for their distances
    centred_PF = points_PF - points_PF.mean(0)
    inner_PP = (centred_PF @ centred_PF.T).to(torch.float64)
    weight_P = weight_P.to(torch.float64)
    for _ in range(num - most):
        member_KP = _merge_cheapest(member_KP, inner_PP, weight_P)
    for _ in range(MOST_ITERATIONS):
        shares_KP = _shares(member_KP, weight_P)
        far_KP = _square_distances(shares_KP, inner_PP)
        nearest_P = far_KP.argmin(0)
        moved_KP = (torch.arange(len(member_KP), device=nearest_P.device)[:, None] == nearest_P).to(
            torch.float64
        )
        moved_KP = moved_KP[moved_KP.any(1)]
        if torch.equal(moved_KP, member_KP):
            break
        member_KP = moved_KP
    return _shares(member_KP, weight_P)


def _shares(member_KP: torch.Tensor, weight_P: torch.Tensor) -> torch.Tensor:
    """Return the share of each point in its cluster's centre."""
    weighed_KP = member_KP * weight_P
    return weighed_KP / weighed_KP.sum(1, keepdim=True)


def _square_distances(shares_KP: torch.Tensor, inner_PP: torch.Tensor) -> torch.Tensor:
    """Return the squared distance of each point to each centre, [K, P]."""
    cross_KP = shares_KP @ inner_PP
    return (cross_KP * shares_KP).sum(1)[:, None] - 2 * cross_KP + inner_PP.diagonal()


def _merge_cheapest(member_KP: torch.Tensor, inner_PP: torch.Tensor, weight_P: torch.Tensor) -> torch.Tensor:
    """Return one cluster fewer: the pair is joined whose centres are cheapest to join."""
    shares_KP = _shares(member_KP, weight_P)
    inner_KK = shares_KP @ inner_PP @ shares_KP.T
    square_K = inner_KK.diagonal()
    weight_K = member_KP @ weight_P
    cost_KK = (square_K[:, None] + square_K - 2 * inner_KK).clamp(min=0.0)
    cost_KK = cost_KK * (weight_K[:, None] * weight_K / (weight_K[:, None] + weight_K))
    # each pair once, never a cluster with itself
    cost_KK = cost_KK.masked_fill(torch.ones_like(cost_KK, dtype=torch.bool).tril(), torch.inf)
    one, other = divmod(int(cost_KK.argmin()), len(cost_KK))
    joined_KP = member_KP.clone()
    joined_KP[one] += joined_KP[other]
    return torch.cat([joined_KP[:other], joined_KP[other + 1 :]])
