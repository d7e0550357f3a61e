"""LLaVA-OneVision: one token per patch, then a learnt newline behind each image.

A lone image would be cut into tiles; frames that come as one list of several images are not.
"""

from actors.models.families.contract import Family

FAMILY = Family(inputs=("pixel_values", "image_sizes", "batch_num_images"), nested=True, separators=1)
