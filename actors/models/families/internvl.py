"""InternVL: a square of patches, shuffled into one token each."""

from collections.abc import Mapping
from typing import Any

from actors.models.families.contract import Family, Grid, grid_of_patches


def _grid(config: Any, pixels: Mapping[str, Any]) -> Grid:
    return grid_of_patches(config, pixels, round(1 / config.downsample_ratio))


FAMILY = Family(before="<img>", after="</img>", options={"crop_to_patches": False}, grid=_grid)
