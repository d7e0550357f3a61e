"""Fewer tokens per clip by throwing away the places whose pixels did not change since the frame before.

Shape letters: N tokens of one frame, T frames, P planned frames, F = P - 1 compared ones, H W pixels.
"""

from collections.abc import Sequence

import torch

from pipeline.compress.dtd import cut_behind_first
from pipeline.compress.redundancy import chunks, keep_share, pick, planned_frames, squares
from pipeline.config import CompressConfig
from pipeline.errors import AnswerError
from pipeline.methods import Method
from pipeline.tokens import VisualTokens, by_frame

METHOD = Method(
    source="TimeChat-Online (arXiv 2504.17343), Differential Token Drop at pixel level",
    stage="compress",
    what="throws away the tokens whose patch of the picture changed least since the frame before, by mean absolute"
    " difference in 0 to 1; those below `compress.threshold`, or the `compress.prune_ratio` share of them",
    differs="compares single frames as the model saw them; the paper's model fuses two, and it compares the last of two"
    " with the first of the two before. Plans are kept to as in `dtd`",
    needs=("pixels",),
    settings=("prune_ratio", "threshold", "scope"),
)


def drop_unchanged(tokens: VisualTokens, plan_T: Sequence[int], settings: CompressConfig) -> VisualTokens:
    """Return the clip without the tokens whose patch looks as in the planned frame before.

    TimeChat-Online (arXiv 2504.17343). A patch is the part of the picture that a token's place on the grid covers.
    With `settings.threshold` (0 to 1) a token goes whose change is below it; without, a share as in `dtd`, the
    smallest changes first. O(T (H W + N D)) time.

    Raises:
        AnswerError: there are no pixels, or not one picture per frame, or fewer pixels than places on the grid; or
            tokens are not finite.
    """
    values_TND = by_frame(tokens, len(plan_T))
    pixels_THWC = _pixels(tokens, len(plan_T))
    frames = planned_frames(plan_T)
    squares(pick(values_TND, frames), frames)
    change_FN = patch_changes(pick(pixels_THWC, frames), tokens.grid).to(values_TND.device)
    if settings.threshold is not None:
        kept_FN = change_FN >= settings.threshold
    else:
        kept_FN = keep_share(-change_FN, settings.prune_ratio, settings.scope)
    return cut_behind_first(tokens, plan_T, kept_FN, -change_FN)


def patch_changes(pixels_PHWC: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Return the mean absolute difference of each patch to the same one of the frame before, [P - 1, N] in 0..1.

    Sums are of whole numbers and exact. Rows of pixels belong to rows of the grid as evenly as they divide.
    """
    (rows, columns), (height, width) = grid, pixels_PHWC.shape[1:3]
    device = pixels_PHWC.device
    row_H = torch.arange(height, device=device) * rows // height
    column_W = torch.arange(width, device=device) * columns // width
    total = torch.zeros(max(0, len(pixels_PHWC) - 1), rows, columns, dtype=torch.float64, device=device)
    before_FHWC, now_FHWC = pixels_PHWC[:-1], pixels_PHWC[1:]
    for part in chunks(now_FHWC):
        before, now = before_FHWC[part], now_FHWC[part]
        change = (torch.maximum(before, now) - torch.minimum(before, now)).flatten(2).float()
        by_row = change.new_zeros(len(change), rows, change.shape[2]).index_add_(1, row_H, change)
        total[part] = total[part].index_add_(2, column_W, by_row.unflatten(2, (width, -1)).double().sum(3))
    pixels = torch.bincount(row_H)[:, None] * torch.bincount(column_W)
    return (total / (255.0 * pixels_PHWC.shape[3] * pixels)).flatten(1)


def _pixels(tokens: VisualTokens, num_frames: int) -> torch.Tensor:
    """Return the pictures of all frames.

    Raises:
        AnswerError: see `drop_unchanged`.
    """
    pixels = tokens.pixels_THWC
    if pixels is None:
        msg = (
            "compressor dtd-pixels needs the frames as pictures beside their tokens (VisualTokens.pixels_THWC), and"
            " found none; take dtd, which compares tokens"
        )
        raise AnswerError(msg)
    rows, columns = tokens.grid
    if pixels.ndim != 4 or len(pixels) != num_frames or pixels.shape[1] < rows or pixels.shape[2] < columns:
        msg = (
            f"compressor dtd-pixels needs {num_frames} pictures [H, W, 3] of at least {rows}x{columns} px, found"
            f" {tuple(pixels.shape)}; take dtd, which compares tokens"
        )
        raise AnswerError(msg)
    return pixels
