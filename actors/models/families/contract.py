"""What differs between families of video language models, on the way from frames to the text decoder.

A family is a value: strings and functions. The defaults are those of a model whose frames are square pictures with
one token per patch and whose positions are counted, so that a family file says only what is special about it.

Shape letters: L tokens of a prompt head (all up to its last placeholder), C visual tokens, D hidden size, P position
axes (3 for Qwen's M-RoPE, else 1).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

Grid = tuple[int, int]
"""Rows and columns of one frame's visual tokens."""


def grid_of_patches(config: Any, pixels: Mapping[str, Any], patches_per_side: int = 1) -> Grid:
    """Return the grid where pixel_values are pictures: one token per square of merged patches.

    Args:
        config: the model's configuration.
        pixels: processed frames.
        patches_per_side: patches along one side of the square that becomes one token.
    """
    patch_px = config.vision_config.patch_size
    side_px = (patch_px if isinstance(patch_px, int) else patch_px[0]) * patches_per_side
    height_px, width_px = pixels["pixel_values"].shape[-2:]
    return int(height_px) // side_px, int(width_px) // side_px


@dataclass(frozen=True, slots=True)
class VisionTower:
    """What decides how much memory the vision tower's pass takes; see memory.py."""

    width: int
    mlp: int
    """Width inside the MLP."""
    mlp_tensors: int = 2
    """Tensors of that width alive at once: before and behind the activation; 3 where it is gated too."""
    kept: int = 1
    """Tensors of its width that live through an MLP beside the layer's input, the residual sum and its norm."""
    turned: int = 0
    """Size of a head whose queries and keys are turned by their place, in float32; 0 = they are not."""
    patches_per_token: int = 1
    """Patches that are merged into one visual token."""
    patch_values: int = 0
    """Numbers that the image processor writes per patch."""
    copied: bool = False
    """The model copies pixels as they come, in float32, before it begins."""
    masked: bool = False
    """The processor also writes an int64 mask; the model copies it, and the pixels in its own format."""


def tower_of(config: Any, **changes: Any) -> VisionTower:
    """Return the vision tower as most configurations describe it, with what a family does otherwise."""
    vision = config.vision_config
    patch_px = vision.patch_size
    side_px = patch_px if isinstance(patch_px, int) else patch_px[0]
    sizes: dict[str, Any] = {"width": vision.hidden_size, "patch_values": 3 * side_px**2}
    if "mlp" not in changes:
        sizes["mlp"] = vision.intermediate_size
    return VisionTower(**(sizes | changes))


def count_kept(
    model: Any, config: Any, head_L: torch.Tensor, keep_L: torch.Tensor, grid: Grid, num_frames: int
) -> tuple[torch.Tensor, int]:
    """Return positions counted through over the kept tokens: they close up, as in the papers of the compressors."""
    del model, config, grid, num_frames
    kept = int(keep_L.sum())
    return torch.arange(kept, device=head_L.device)[None], kept


def pooled_features(out: Any) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Return the pooled features of all frames, [C, D], and no layers."""
    return join_frames(out.pooler_output), []


def join_frames(parts: Any) -> torch.Tensor:
    """Return [C, D] from one tensor [N, K, D], or from several [N, K, D] or [K, D]: N frames of K tokens."""
    return torch.cat([part.flatten(0, -2) for part in parts])


def text_decoder(model: Any) -> Any:
    """Return the text decoder inside a model: what runs between its embeddings and its `lm_head`."""
    return model.get_decoder()


def no_inputs(visual_L: torch.Tensor, layers_CD: list[torch.Tensor]) -> dict[str, Any]:
    """Return nothing: the decoder takes visual features from its embeddings alone."""
    del visual_L, layers_CD
    return {}


@dataclass(frozen=True, slots=True)
class Family:
    """What differs between video language models; a family file makes one of these.

    With these, `decoder(model)(inputs_embeds=[B, L, D], position_ids=[B, L] or [3, B, L], past_key_values=...,
    use_cache=True, **deepstack_inputs(...)).last_hidden_state` put through `model.lm_head` is what the model's own
    forward returns for the same frames and prompt. A cache is always handed in: without one, and without a mask,
    transformers takes a jump in plain positions for the start of another sequence.
    """

    before: str = ""
    """Text in front of a frame's placeholders."""
    after: str = ""
    """Text behind them."""
    inputs: tuple[str, ...] = ("pixel_values",)
    """What the image processor returns and `get_image_features` takes."""
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Image processor settings that make one frame one image: tiling is for stills."""
    nested: bool = False
    """The processor takes the frames of one prompt as an inner list."""
    separators: int = 0
    """Learnt tokens that follow each frame's grid. They carry no picture: never compressed, not counted."""
    grid: Callable[[Any, Mapping[str, Any]], Grid] = grid_of_patches
    """(configuration, processed frames) -> rows and columns of one frame's visual tokens."""
    tower: Callable[[Any], VisionTower] = tower_of
    """(configuration) -> what the memory of a vision pass follows from."""
    axes: int = 1
    """P: coordinates of a position. With one, `position_ids` are [B, L]; with more, [P, B, L]."""
    positions: Callable[[Any, Any, torch.Tensor, torch.Tensor, Grid, int], tuple[torch.Tensor, int]] = (
        count_kept
    )
    """(model, configuration, head_L, keep_L, grid, frames) -> ([P, kept] int64, position of the first token behind).

    `head_L` are the tokens of the uncompressed head, `keep_L` [L] bool says which of them stay. The token behind the
    head has its position on every axis, and text behind it is counted on from there.
    """
    features: Callable[[Any], tuple[torch.Tensor, list[torch.Tensor]]] = pooled_features
    """`get_image_features(..., return_dict=True)` -> ([C, D], layers), separators among the C.

    C runs over all frames in order. Layers, each [C, D], are added inside the first layers of the decoder.
    """
    decoder: Callable[[Any], Any] = text_decoder
    """The text decoder of the whole model."""
    deepstack_inputs: Callable[[torch.Tensor, list[torch.Tensor]], dict[str, Any]] = no_inputs
    """(visual_L, layers) -> further keyword arguments of the decoder, for one row of tokens (of one prompt or more).

    `visual_L` [L] bool says which embeddings of this call are visual tokens (separators too); `layers` hold their
    features in the same order, pruned with the same index. Text alone needs none of this.
    """
