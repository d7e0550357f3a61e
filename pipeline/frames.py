"""Decoded pictures, and the size they are asked for."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class FrameSize:
    """The size a model wants its frames in."""

    height_px: int
    width_px: int
    fit: Literal["stretch", "inside"] = "stretch"
    """stretch = exactly this size, the aspect ratio is lost; inside = the largest size of the video's own aspect
    ratio that fits, never enlarged."""


@dataclass(frozen=True, slots=True)
class Frames:
    """Pictures of one span of one video."""

    data_NHWC: npt.NDArray[np.uint8]
    """[N, height, width, 3] uint8 RGB, upright."""
    pts_s_N: npt.NDArray[np.float64]
    """[N] float64, strictly increasing: presentation times in seconds from the video's start."""

    def __post_init__(self) -> None:
        """Refuse pictures and times that do not belong together."""
        if self.data_NHWC.ndim != 4 or self.data_NHWC.shape[3] != 3 or self.data_NHWC.dtype != np.uint8:
            msg = f"frames must be uint8 [N, H, W, 3], found {self.data_NHWC.dtype} {self.data_NHWC.shape}"
            raise ValueError(msg)
        if len(self.data_NHWC) != len(self.pts_s_N):
            msg = f"{len(self.data_NHWC)} frames have {len(self.pts_s_N)} times"
            raise ValueError(msg)
        if not np.all(np.diff(self.pts_s_N) > 0):
            msg = f"frame times must increase strictly, found {self.pts_s_N[:8]}"
            raise ValueError(msg)

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self.pts_s_N)

    def __repr__(self) -> str:
        """Show shapes, never pixels."""
        return f"Frames(data={self.data_NHWC.shape}, pts_s={self.pts_s_N[:1]}..{self.pts_s_N[-1:]})"
