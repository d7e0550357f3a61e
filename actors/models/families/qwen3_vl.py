"""Qwen3-VL: frames and positions as in Qwen2.5-VL, and DeepStack (arXiv:2406.04334).

Features of earlier vision layers are added to the visual tokens inside the first layers of the decoder.
"""

from dataclasses import replace
from typing import Any

import torch

from actors.models.families import qwen2_5_vl
from actors.models.families.contract import join_frames


def _features(out: Any) -> tuple[torch.Tensor, list[torch.Tensor]]:
    return join_frames(out.pooler_output), [join_frames(layer) for layer in out.deepstack_features]


def _deepstack_inputs(visual_L: torch.Tensor, layers_CD: list[torch.Tensor]) -> dict[str, Any]:
    return {"visual_pos_masks": visual_L[None], "deepstack_visual_embeds": layers_CD}


FAMILY = replace(
    qwen2_5_vl.FAMILY, features=_features, deepstack_inputs=_deepstack_inputs, tower=qwen2_5_vl.turned_tower
)
