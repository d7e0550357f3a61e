"""InternVL: a square of patches, shuffled into one token each."""

from collections.abc import Mapping
from typing import Any

from actors.models.families.contract import Family, Grid, VisionTower, grid_of_patches, tower_of


def _grid(config: Any, pixels: Mapping[str, Any]) -> Grid:
    return grid_of_patches(config, pixels, round(1 / config.downsample_ratio))


def _tower(config: Any) -> VisionTower:
    # kept: the first embeddings, and what attention added
    return tower_of(config, kept=2, patches_per_token=round(1 / config.downsample_ratio) ** 2)


FAMILY = Family(before="<img>", after="</img>", options={"crop_to_patches": False}, grid=_grid, tower=_tower)
