"""Pictures that show something new get more tokens than those that repeat it.

Shape letters: N frames, H W pixels, C channels, P patches.
"""

import math
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.budget import Plan
from pipeline.methods import Method
from pipeline.select.spending import check_buys, nothing_to_show, plan_of, spend_on_two_sizes
from pipeline.selection import SeenFrames

METHOD = Method(
    source="Keye-VL 1.5 (arXiv 2509.01563), slow-fast allocation",
    stage="select",
    what="a frame of which a tenth has changed since the last such frame is slow, any other fast and gets 30 % of its"
    " tokens; the slow size is the largest that fits the budget",
    differs="the border is the code's .9 (the report says .95). No frame has more tokens than the model gives it or"
    " fewer than 1/16 of that (48 of 768 in the code). What does not fit even so is thinned, slow frames last",
    needs=("pixels",),
)

PATCH_PX = 28
MAX_PATCHES = 256
SAME_PATCH = 0.7
"""Cosine above which a patch counts as the same."""
SAME_SHARE = 0.9
"""Share of same patches below which a picture is slow."""
FAST_TENTHS = 3
"""Tenths of a slow frame's tokens that a fast one gets."""
SMALLEST_SHARE = 16
BLACK = 0.01
"""Length below which a patch has no direction."""

Patches: TypeAlias = npt.NDArray[np.float32]


def mark_slow(data_NHWC: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Return which pictures are slow, [N] bool: the first, and each that differs from the last slow one.

    Keye-VL 1.5 (arXiv 2509.01563): pictures are brought to at most 256 patches of 28 px, in HSV; a patch is the same
    when the cosine between its values is above .7, or when both are black; a picture is slow when fewer than nine
    tenths of its patches are the same. Each comparison depends on those before it, so pictures are taken one by one;
    two are held as float.
    """
    slow_N = np.zeros(len(data_NHWC), bool)
    reference: tuple[Patches, Patches] | None = None
    for index, data_HWC in enumerate(data_NHWC):
        patches_PC = _patches(data_HWC)
        length_P = np.sqrt(np.einsum("pc,pc->p", patches_PC, patches_PC))
        if reference is None or _same_share(*reference, patches_PC, length_P) < SAME_SHARE:
            slow_N[index] = True
            reference = patches_PC, length_P
    return slow_N


def show_slow_and_fast(frames: SeenFrames, *, budget_tokens: int, tokens_per_frame: int) -> Plan:
    """Return slow frames as large as the budget allows, and fast ones at 30 % of that."""
    if not len(frames):
        return nothing_to_show()
    smallest = max(1, tokens_per_frame // SMALLEST_SHARE)
    check_buys(budget_tokens, smallest, tokens_per_frame)

    def fast_of(slow: int) -> int:
        return min(slow, max(smallest, slow * FAST_TENTHS // 10))

    tokens_N = spend_on_two_sizes(
        frames.slow_N, budget_tokens, largest=tokens_per_frame, smallest=smallest, rest_of=fast_of
    )
    shares = [tokens_N[kind_N] for kind_N in (frames.slow_N, ~frames.slow_N)]
    slow, fast = (
        f"{np.count_nonzero(share)} of {len(share)} {name} frames at {share.max(initial=0)} tokens"
        for name, share in zip(("slow", "fast"), shares, strict=True)
    )
    return plan_of(tokens_N, f"{slow}, {fast}")


def _patches(data_HWC: npt.NDArray[np.uint8]) -> Patches:
    """Return a picture's patches in HSV as float32 [P, 28 x 28 x 3], values 0 to 255."""
    height, width = data_HWC.shape[:2]
    rows, columns = (max(1, round(side / PATCH_PX)) for side in (height, width))
    if rows * columns > MAX_PATCHES:
        scale = math.sqrt(MAX_PATCHES / (height * width))
        rows, columns = (min(MAX_PATCHES, max(1, math.floor(side * scale))) for side in (height, width))
    picture = Image.fromarray(data_HWC)
    if (height, width) != (rows * PATCH_PX, columns * PATCH_PX):
        picture = picture.resize((columns * PATCH_PX, rows * PATCH_PX), Image.Resampling.BILINEAR)
    hsv_HWC = np.asarray(picture.convert("HSV"), np.float32)
    grid = hsv_HWC.reshape(rows, PATCH_PX, columns, PATCH_PX * 3).swapaxes(1, 2)
    return grid.reshape(rows * columns, PATCH_PX * PATCH_PX * 3)


def _same_share(before_PC: Patches, before_P: Patches, now_PC: Patches, now_P: Patches) -> float:
    """Return the share of patches that are the same in both pictures, given with their lengths."""
    lengths_P = before_P * now_P
    cosine_P = np.einsum("pc,pc->p", before_PC, now_PC) / np.maximum(lengths_P, BLACK**2)
    black_P = (before_P < BLACK) & (now_P < BLACK)
    return float(np.mean((cosine_P > SAME_PATCH) | black_P))
