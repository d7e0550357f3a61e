"""Qwen2-VL and Qwen2.5-VL: frames as images, with M-RoPE positions (time, height, width) of the uncompressed prompt.

Frames are not written as a video. transformers 5.23 moves the text behind a video of Qwen2.5-VL on by only
max(height, width) // merge, below the last frame's time, while its `rope_deltas` are counted from the largest
position: its own `generate` and a decoding loop that trusts `rope_deltas` then disagree. An image is one step in
time, so both counts agree on it; and since every call is told its positions, `rope_deltas` is never read.
"""

from collections.abc import Mapping
from typing import Any

import torch

from actors.models.families.contract import Family, Grid, VisionTower, tower_of


def grid_of_thw(config: Any, pixels: Mapping[str, Any]) -> Grid:
    """Return the grid where the processor reports time, height and width in patches."""
    _, height, width = pixels["image_grid_thw"][0].tolist()
    merged = config.vision_config.spatial_merge_size
    return height // merged, width // merged


def keep_coordinates(
    model: Any, config: Any, head_L: torch.Tensor, keep_L: torch.Tensor, grid: Grid, num_frames: int
) -> tuple[torch.Tensor, int]:
    """Return [3, kept] M-RoPE coordinates of the uncompressed head: kept tokens keep theirs, dropped ones leave gaps.

    The token behind follows the largest coordinate of the whole uncompressed head, whatever was dropped, so that a
    question stands where it would stand behind all tokens. See the module for what is not relied on.
    """
    merged = config.vision_config.spatial_merge_size
    rows, columns = grid
    positions_PBL, _ = model.model.get_rope_index(
        head_L[None],
        mm_token_type_ids=(head_L == config.image_token_id)[None].int(),
        image_grid_thw=torch.tensor([[1, rows * merged, columns * merged]] * num_frames),
    )
    return positions_PBL[:, 0, keep_L], int(positions_PBL.max()) + 1


def _tower(config: Any) -> VisionTower:
    vision = config.vision_config
    if config.model_type == "qwen2_vl":  # calls its width embed_dim, and the text's hidden_size
        changes = {"width": vision.embed_dim, "mlp": int(vision.embed_dim * vision.mlp_ratio)}
        # quick_gelu, x * sigmoid(1.702 x), holds one tensor more
        return turned_tower(config, mlp_tensors=3, **changes)
    return turned_tower(config, mlp_tensors=3)


def turned_tower(config: Any, **changes: Any) -> VisionTower:
    """Return the vision tower of a model that merges squares of patches and knows places by rotation."""
    vision = config.vision_config
    width: int = changes.get("width", vision.hidden_size)
    return tower_of(
        config,
        kept=0,
        turned=width // vision.num_heads,
        patches_per_token=vision.spatial_merge_size**2,
        # a still is written once per frame of the time patch
        patch_values=3 * vision.patch_size**2 * vision.temporal_patch_size,
        **changes,
    )


FAMILY = Family(
    before="<|vision_start|>",
    after="<|vision_end|>",
    inputs=("pixel_values", "image_grid_thw"),
    grid=grid_of_thw,
    axes=3,
    positions=keep_coordinates,
    tower=_tower,
)
