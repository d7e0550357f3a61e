"""Fewer tokens per frame by averaging neighbours on the grid.

Shape letters: N tokens (of one frame beside T or F), D hidden size, T frames, F frames of one plan, M cells.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import torch

from pipeline.config import CompressConfig
from pipeline.methods import Method
from pipeline.tokens import VisualTokens, by_frame, join, take

METHOD = Method(
    source="VideoRouter (arXiv 2605.05848), spatial pooling",
    stage="compress",
    what="averages the grid of a frame to the finest one its plan holds: 16 x 16 to 16 x 8, 8 x 8, 8 x 4 for 128, 64,"
    " 32 tokens",
    differs="the paper gives counts only; shape of the grid and plain averaging are ours. Cells never overlap",
    positions="destination",
)

MAX_STRETCH = 2.0
"""How many times harder one side of the grid may be pooled than the other."""


def pool_to_plan(tokens: VisualTokens, plan_T: Sequence[int], settings: CompressConfig) -> VisualTokens:
    """Return each frame averaged to the finest grid that its plan holds (see `pool_grid`). No setting is used."""
    del settings
    return pool_grid(tokens, plan_T)


def pool_grid(tokens: VisualTokens, plan_T: Sequence[int]) -> VisualTokens:
    """Return each frame averaged to the finest grid that its plan holds (see `pooled_grid`).

    VideoRouter (arXiv 2605.05848) pools spatially and gives token counts only; averaging over equal cells and the
    shape of the grid are ours. Cells never overlap, so weights (tokens per cell) sum to the tokens of a frame;
    `torch.nn.functional.adaptive_avg_pool2d` gives the same values where the grid divides and overlapping cells
    where it does not. A frame whose plan holds all its tokens is passed on untouched. Sums are taken in float32 or
    wider. O(N D) time and memory.
    """
    values_TND = by_frame(tokens, len(plan_T))
    if all(plan >= tokens.num_per_frame for plan in plan_T):
        return tokens
    frames_of: dict[int, list[int]] = {}
    for frame, plan in enumerate(plan_T):
        if plan > 0:
            frames_of.setdefault(min(plan, tokens.num_per_frame), []).append(frame)
    parts = [take(tokens, torch.zeros(0, dtype=torch.int64, device=tokens.source_N.device))]
    for plan, frames in frames_of.items():
        parts.append(_pool(tokens, values_TND, frames, plan))
    return join(parts)


@lru_cache(maxsize=4096)
def pooled_grid(grid: tuple[int, int], max_tokens: int) -> tuple[int, int]:
    """Return rows and columns of the finest grid of at most `max_tokens` cells that does not distort the picture.

    Most cells win, as long as one side is pooled at most twice as hard as the other; then the least distortion;
    then more rows. A 16 x 16 grid becomes 16 x 8 for 128 tokens, 8 x 8 for 64, 8 x 4 for 32.
    """
    rows, columns = grid

    def rank(candidate: tuple[int, int]) -> tuple[bool, int, float, int]:
        fewer_rows, fewer_columns = candidate
        stretch = abs(math.log((fewer_rows * columns) / (fewer_columns * rows)))
        too_far = stretch > math.log(MAX_STRETCH) + 1e-9
        return too_far, -fewer_rows * fewer_columns, stretch, -fewer_rows

    heights = range(1, min(rows, max_tokens) + 1)
    return min(((height, min(columns, max_tokens // height)) for height in heights), key=rank)


def _pool(tokens: VisualTokens, values_TND: torch.Tensor, frames: list[int], plan: int) -> VisualTokens:
    """Return some frames averaged to one plan, 1 to all tokens of a frame."""
    device = values_TND.device
    frames_F = torch.tensor(frames, dtype=torch.int64, device=device)
    if plan == tokens.num_per_frame:
        index_FN = frames_F[:, None] * plan + torch.arange(plan, device=device)
        return take(tokens, index_FN.flatten())
    inside_MN = _cells(tokens.grid, plan, device)
    size_M = inside_MN.sum(1)
    place_N = torch.arange(tokens.num_per_frame, device=device)
    first_M = torch.where(inside_MN, place_N, tokens.num_per_frame).amin(1)
    wide = torch.promote_types(values_TND.dtype, torch.float32)
    means_MN = inside_MN.to(wide) / size_M[:, None]
    values_FMD = means_MN @ values_TND[frames_F].to(wide)
    return VisualTokens(
        values_ND=values_FMD.flatten(0, 1).to(values_TND.dtype),
        source_N=(frames_F[:, None] * tokens.num_per_frame + first_M).flatten(),
        weight_N=size_M.to(tokens.weight_N.dtype).repeat(len(frames)),
        num_per_frame=tokens.num_per_frame,
        grid=tokens.grid,
    )


def _cells(grid: tuple[int, int], plan: int, device: torch.device) -> torch.Tensor:
    """Return which places of the grid each cell covers, bool [M, N]; every place lies in one cell."""
    rows, columns = grid
    num_rows, num_columns = pooled_grid(grid, plan)
    row_of = torch.arange(rows, device=device) * num_rows // rows
    column_of = torch.arange(columns, device=device) * num_columns // columns
    cell_N = (row_of[:, None] * num_columns + column_of).flatten()
    return cell_N == torch.arange(num_rows * num_columns, device=device)[:, None]
