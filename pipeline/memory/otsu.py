"""Otsu's threshold: where a histogram falls into two parts that differ most.

Shape letters: L rows, N values of one row, B bins.
"""

import torch

BINS = 128


def otsu_thresholds(values_LN: torch.Tensor, top: float) -> torch.Tensor:
    """Return the threshold of each row, float64 [L]: the upper edge of the last bin of its lower part.

    128 bins from 0 to `top`; of equally good thresholds the lowest. A row whose values share one bin gets that bin's
    upper edge. Counts are whole numbers, so rows do not depend on each other. O(L (N + B)).
    """
    rows = len(values_LN)
    bin_LN = (values_LN.to(torch.float64) / top * BINS).long().clamp(0, BINS - 1)
    flat = (bin_LN + BINS * torch.arange(rows, device=values_LN.device)[:, None]).flatten()
    count_LB = torch.bincount(flat, minlength=rows * BINS).reshape(rows, BINS).to(torch.float64)
    moment_LB = count_LB * torch.arange(BINS, dtype=torch.float64, device=values_LN.device)
    below_LB, mass_LB = count_LB.cumsum(1), moment_LB.cumsum(1)
    above_LB = below_LB[:, -1:] - below_LB
    gap_LB = mass_LB / below_LB - (mass_LB[:, -1:] - mass_LB) / above_LB
    # an empty part is 0 / 0: no threshold
    between_LB = (below_LB * above_LB * gap_LB.square()).nan_to_num(-1.0)
    best_L = between_LB.argmax(1)
    lone_L = (count_LB > 0).sum(1) == 1
    best_L = torch.where(lone_L, count_LB.argmax(1), best_L)
    return (best_L + 1).to(torch.float64) * (top / BINS)
