"""What is asked of a decoder, and what it delivers: pictures, and what came of every wanted time."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import BinaryIO, Literal, Protocol, TypeAlias

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
class Policy:
    """Which picture may stand for a wanted time."""

    kind: Literal["exact", "near", "keyframe"] = "exact"
    """exact = the one shown then; near = the cheapest to decode within `near_s` of it; keyframe = the last key
    picture before."""
    near_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Sample:
    """What came of one wanted time."""

    wanted_s: float
    """Seconds from the video's start."""
    pts_s: float
    """Presentation time of the delivered picture; NaN when there is none."""
    off_s: float
    """How far the delivered picture lies from the one shown at `wanted_s`, later is positive; 0 under `exact`. Under
    `keyframe` it is counted from `wanted_s` itself, because what lies between is not looked at: a bound."""
    is_key: bool
    quality: Literal["ok", "stale", "missing"]
    """ok = the picture asked for; stale = an older one that stands in; missing = none can be had."""
    reason: str
    """Why the quality is not ok."""


Shot: TypeAlias = "tuple[Sample, npt.NDArray[np.uint8] | None]"
"""A sample with its picture, uint8 [height, width, 3] RGB, upright; None when it is missing or the same as before."""


class LookFn(Protocol):
    """Deliver the pictures at given times of an open video, one shot per time, in time order.

    `times_s` are distinct seconds from the video's start, sorted.
    """

    def __call__(self, times_s: Sequence[float], size: FrameSize, policy: Policy) -> Iterator[Shot]: ...


Decoder: TypeAlias = "Callable[[BinaryIO, str], AbstractContextManager[LookFn]]"
"""Opens a video for looking at pictures, from a seekable file object and the name it goes by in messages.

Raises DecodeError when it cannot be opened. It runs in the decoding child: no other file can be opened there.
"""


@dataclass(frozen=True, slots=True)
class Frames:
    """Pictures of one span of one video."""

    data_NHWC: npt.NDArray[np.uint8]
    """[N, height, width, 3] uint8 RGB, upright."""
    pts_s_N: npt.NDArray[np.float64]
    """[N] float64, strictly increasing: presentation times in seconds from the video's start."""
    samples: tuple[Sample, ...] = ()
    """One per wanted time, in time order."""

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


def gather(shots: Iterator[Shot], capacity: int) -> Frames:
    """Return shots as arrays, in an array allocated once; `capacity` is the most pictures that may come.

    Raises:
        ValueError: more pictures than that, or pictures of different sizes.
    """
    data_NHWC = np.empty((0, 0, 0, 3), np.uint8)
    pts_s: list[float] = []
    samples: list[Sample] = []
    for sample, picture_HWC in shots:
        samples.append(sample)
        if picture_HWC is None:
            continue
        if not pts_s:
            data_NHWC = np.empty((capacity, *picture_HWC.shape), np.uint8)
        if len(pts_s) >= capacity or picture_HWC.shape != data_NHWC.shape[1:]:
            msg = (
                f"expected {capacity} pictures of {data_NHWC.shape[1:]}, found another of {picture_HWC.shape}"
            )
            raise ValueError(msg)
        data_NHWC[len(pts_s)] = picture_HWC
        pts_s.append(sample.pts_s)
    return Frames(data_NHWC[: len(pts_s)], np.asarray(pts_s, np.float64), tuple(samples))
