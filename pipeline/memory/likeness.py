"""Cosines between tokens that are the same to the bit, however a stream is cut into chunks.

Each is summed along its own row. A matrix product would add up in an order that depends on how many rows there are.

Shape letters: T frames, B frames before them, F both, N tokens of one frame, D hidden size, M held tokens, Q tokens
of a question.
"""

import torch
from torch.nn.functional import normalize

from pipeline.errors import AnswerError


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


def lagged_likeness(values_TND: torch.Tensor, before_BND: torch.Tensor, most_back: int) -> torch.Tensor:
    """Return each token's largest cosine with its place in the frames up to `most_back` before its own, [T, N].

    Args:
        values_TND: frames in the order of time.
        before_BND: the frames before these, the latest last; fewer than `most_back` at the beginning of a stream. A
            frame without any before it is like none: -1.
        most_back: how far back to look, in frames.
    """
    all_FND = torch.cat([before_BND, values_TND])
    all_FN = norms(all_FND)
    num_before = len(before_BND)
    best_TN = all_FN.new_full(values_TND.shape[:2], -1.0)
    for back in range(1, most_back + 1):
        first = max(num_before, back)
        if first >= len(all_FND):
            break
        other = slice(first - back, len(all_FND) - back)
        found_KN = cosines(all_FND[first:], all_FND[other], all_FN[first:], all_FN[other])
        best_TN[first - num_before :] = torch.maximum(best_TN[first - num_before :], found_KN)
    return best_TN


def matches(values_MD: torch.Tensor, query_QD: torch.Tensor) -> torch.Tensor:
    """Return the cosine of each held token with each token of a question, [M, Q].

    A matrix product: what is held has one shape, whatever chunks it came in.

    Raises:
        AnswerError: the question is not finite.
    """
    if not bool(query_QD.isfinite().all()):
        msg = (
            "the tokens of the question are not finite, expected numbers; embed it with answer.dtype float32"
        )
        raise AnswerError(msg)
    wide = torch.promote_types(torch.promote_types(values_MD.dtype, query_QD.dtype), torch.float32)
    return normalize(values_MD.to(wide), dim=1) @ normalize(query_QD.to(values_MD.device, wide), dim=1).T
