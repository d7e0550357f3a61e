"""Cosines between tokens that are the same to the bit, however a stream is cut into chunks.

Each is summed along its own row. A matrix product would add up in an order that depends on how many rows there are.

Shape letters: T frames, N tokens of one frame, D hidden size.
"""

import torch


def norms(values_TND: torch.Tensor) -> torch.Tensor:
    """Return the length of each token, [T, N], float32 or wider."""
    wide = torch.promote_types(values_TND.dtype, torch.float32)
    return values_TND.to(wide).square().sum(-1).sqrt()


def cosines(
    one_TND: torch.Tensor, other_TND: torch.Tensor, one_TN: torch.Tensor, other_TN: torch.Tensor
) -> torch.Tensor:
    """Return the cosine between tokens of the same place, [T, N], float32 or wider.

    Args:
        one_TND: tokens.
        other_TND: tokens to compare them with.
        one_TN: lengths of the tokens, as `norms` gives them.
        other_TN: lengths of the others.

    A token of length 0 is like none: 0.
    """
    dots_TN = (one_TND.to(one_TN.dtype) * other_TND.to(one_TN.dtype)).sum(-1)
    return (dots_TN / (one_TN * other_TN)).nan_to_num(0.0, posinf=0.0, neginf=0.0)
