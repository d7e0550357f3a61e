"""SmolVLM and the Idefics3 it came from: a frame is written as the lone, global view of an image without tiles."""

from collections.abc import Mapping
from typing import Any

from actors.models.families.contract import Family, Grid, VisionTower, grid_of_patches, tower_of


def _grid(config: Any, pixels: Mapping[str, Any]) -> Grid:
    return grid_of_patches(config, pixels, config.scale_factor)


def _tower(config: Any) -> VisionTower:
    return tower_of(config, patches_per_token=config.scale_factor**2, masked=True)


FAMILY = Family(
    before="<fake_token_around_image><global-img>",
    after="<fake_token_around_image>",
    inputs=("pixel_values", "pixel_attention_mask"),
    options={"do_image_splitting": False},
    grid=_grid,
    tower=_tower,
)
