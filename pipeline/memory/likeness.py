"""How like a token is to what came before it in a stream, and to a question.

Shape letters: T frames, B frames before them, F both, N tokens of one frame, D hidden size, M held tokens, Q tokens
of a question.
"""

import torch
from torch.nn.functional import normalize

from pipeline.compress.redundancy import lagged_cosines, squares
from pipeline.errors import AnswerError


def lagged_likeness(values_TND: torch.Tensor, before_BND: torch.Tensor, most_back: int) -> torch.Tensor:
    """Return each token's largest cosine with its place in the frames up to `most_back` before its own, [T, N].

    The same to the bit, however a stream is cut into chunks: sums go along a token's own row (redundancy.py).

    Args:
        values_TND: frames in the order of time, finite.
        before_BND: the frames before these, the latest last; fewer than `most_back` at the beginning of a stream. A
            frame without any before it is like none: -1.
        most_back: how far back to look, in frames.
    """
    all_FND = torch.cat([before_BND, values_TND])
    squares_FN = squares(all_FND, range(len(all_FND)))
    return lagged_cosines(all_FND, squares_FN, most_back, len(before_BND)).amax(0).clamp(min=-1.0)


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
