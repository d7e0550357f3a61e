"""LLaVA-OneVision: one token per patch, then a learnt newline behind each image.

A lone image would be cut into tiles; frames that come as one list of several images are not.
"""

from typing import Any

from actors.models.families.contract import Family, VisionTower, tower_of


def _tower(config: Any) -> VisionTower:
    return tower_of(config, copied=True)


FAMILY = Family(
    inputs=("pixel_values", "image_sizes", "batch_num_images"), nested=True, separators=1, tower=_tower
)
