"""Sizes of video language models: the published ones, and three of each class for checking rules about memory.

The published sizes are those of their config.json files. Parameters are counted as published, the output matrix
included where it is not the embedding once more.
"""

from dataclasses import dataclass
from typing import Literal

from pipeline.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Vision:
    """The vision tower: square pictures of `frame_px`, cut into patches; `merge` x `merge` patches are one token."""

    width: int
    layers: int
    heads: int
    mlp: int
    frame_px: int
    patch_px: int
    merge: int


@dataclass(frozen=True, slots=True)
class Text:
    """The language model."""

    width: int
    layers: int
    heads: int
    kv_heads: int
    mlp: int
    vocabulary: int
    tied: bool = False
    """The output matrix is the embedding."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Class and sizes of a model."""

    family: Literal["internvl", "smolvlm", "qwen2_5_vl"]
    vision: Vision
    text: Text

    @property
    def tokens_per_frame(self) -> int:
        """Visual tokens of a frame of `vision.frame_px`; Qwen's grow with the frame, the others' do not."""
        return (self.vision.frame_px // self.vision.patch_px // self.vision.merge) ** 2


_INTERNVIT_300M = Vision(1024, 24, 16, 4096, 448, 14, 2)
_SIGLIP_BASE = Vision(768, 12, 12, 3072, 512, 16, 4)
SHAPES: dict[str, Shape] = {
    "tiny": Shape("internvl", Vision(32, 2, 4, 64, 56, 14, 2), Text(64, 3, 4, 2, 128, 1024)),
    "smolvlm-256m": Shape("smolvlm", _SIGLIP_BASE, Text(576, 30, 9, 3, 1536, 49280)),
    "internvl3-1b": Shape("internvl", _INTERNVIT_300M, Text(896, 24, 14, 2, 4864, 151674)),
    "internvl3-8b": Shape("internvl", _INTERNVIT_300M, Text(3584, 28, 28, 4, 18944, 151674)),
    "qwen2.5-vl-3b": Shape(
        "qwen2_5_vl", Vision(1280, 32, 16, 3420, 448, 14, 2), Text(2048, 36, 16, 2, 11008, 151936, tied=True)
    ),
    # three sizes of each class, for checking what a rule fitted to one of them says about the others
    "internvl-30m": Shape("internvl", Vision(256, 6, 4, 1024, 224, 14, 2), Text(448, 8, 7, 1, 1280, 8192)),
    "internvl-120m": Shape("internvl", Vision(512, 12, 8, 2048, 448, 14, 2), Text(640, 12, 10, 2, 1920, 16384)),
    "internvl-350m": Shape("internvl", Vision(768, 12, 12, 3072, 448, 14, 2), Text(1024, 16, 16, 4, 3072, 32768)),
    "smolvlm-30m": Shape("smolvlm", Vision(256, 6, 4, 1024, 256, 16, 4), Text(448, 8, 7, 1, 1152, 8192)),
    "smolvlm-120m": Shape("smolvlm", Vision(512, 12, 8, 2048, 512, 16, 4), Text(640, 12, 10, 2, 1920, 16384)),
    "smolvlm-350m": Shape("smolvlm", _SIGLIP_BASE, Text(1024, 16, 16, 4, 3072, 32768)),
    "qwen2_5_vl-30m": Shape(
        "qwen2_5_vl", Vision(256, 8, 4, 684, 224, 14, 2), Text(448, 9, 7, 1, 1280, 8192, tied=True)
    ),
    "qwen2_5_vl-120m": Shape(
        "qwen2_5_vl", Vision(512, 12, 8, 1368, 448, 14, 2), Text(640, 14, 10, 2, 1920, 16384, tied=True)
    ),
    "qwen2_5_vl-350m": Shape(
        "qwen2_5_vl", Vision(768, 12, 12, 2052, 448, 14, 2), Text(1024, 18, 16, 4, 3072, 32768, tied=True)
    ),
}  # fmt: skip


def find_shape(name: str) -> Shape:
    """Return a shape.

    Raises:
        ConfigError: no such shape.
    """
    if name in SHAPES:
        return SHAPES[name]
    msg = f"shape {name!r} is not known; expected one of {', '.join(SHAPES)}"
    raise ConfigError(msg)
