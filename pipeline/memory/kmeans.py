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
    own. O(P^2 F + (P - K) P^2) time, and O(K P^2) for each round.
    """
    num = len(points_PF)
    if num <= most:
        return torch.eye(num, dtype=torch.float64, device=points_PF.device)
    # around their mean: inner products of nearly equal long vectors would leave no digits for their distances
    centred_PF = points_PF - points_PF.mean(0)
    inner_PP = (centred_PF @ centred_PF.T).to(torch.float64)
    weight_P = weight_P.to(torch.float64)
    member_KP = _merge_cheapest(inner_PP, weight_P, most)
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


def _merge_cheapest(inner_PP: torch.Tensor, weight_P: torch.Tensor, most: int) -> torch.Tensor:
    """Return which points are together when, until `most` clusters are left, the pair cheapest to join is joined.

    What it costs to join the new cluster with others follows from what it cost before (Lance and Williams' update for
    Ward's merges), so that a merge takes O(P^2). A cluster has the place of its first point, and of equally cheap pairs
    the first is joined.
    """
    square_P = inner_PP.diagonal()
    cost_PP = (square_P[:, None] + square_P - 2 * inner_PP).clamp(min=0.0)
    cost_PP = cost_PP * (weight_P[:, None] * weight_P / (weight_P[:, None] + weight_P))
    cost_PP = cost_PP.fill_diagonal_(torch.inf)
    held_P = weight_P.clone()
    member_PP = torch.eye(len(weight_P), dtype=torch.float64, device=weight_P.device)
    for _ in range(len(weight_P) - most):
        one, other = divmod(int(cost_PP.argmin()), len(cost_PP))
        joined_P = (held_P[one] + held_P) * cost_PP[one] + (held_P[other] + held_P) * cost_PP[other]
        joined_P = (joined_P - held_P * cost_PP[one, other]) / (held_P[one] + held_P[other] + held_P)
        cost_PP[one] = cost_PP[:, one] = joined_P.clamp(min=0.0)
        cost_PP[other] = cost_PP[:, other] = torch.inf
        held_P[one] += held_P[other]
        member_PP[one] += member_PP[other]
        member_PP[other] = 0.0
    return member_PP[member_PP.any(1)]
