"""Which pictures of a window are looked at: a table of samplers.

A sampler asks an open video for pictures, and may let what it sees decide what it asks for next. It runs in the
decoding child and hands on every picture as it comes. What it does not ask for is not decoded; a new request costs a
seek and the pictures from the key picture before on, so a sampler asks for all it may want in one go and breaks off
when it wants something else.
"""

import importlib
import math
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from pipeline.errors import ConfigError
from pipeline.frames import Shot
from pipeline.novelty import novelty
from pipeline.times import sample_times

if TYPE_CHECKING:
    from pipeline.config import WindowConfig

Look: TypeAlias = Callable[[Sequence[float]], Iterator[Shot]]
"""Deliver one shot per time, in time order; times are distinct seconds from the video's start, sorted.

It may be left before its end; the next request ends it.
"""

SampleFn: TypeAlias = Callable[[float, float, "WindowConfig", Look], Iterator[Shot]]
"""Yield the shots of a window [start_s, end_s), in time order, at most config.MAX_FRAMES."""

Picture: TypeAlias = npt.NDArray[np.uint8]

EVERY = 4
"""Change is measured on every fourth row and column: the same mean, at a small part of a decoded picture's cost."""


def sample_rate(start_s: float, end_s: float, config: "WindowConfig", look: Look) -> Iterator[Shot]:
    """Look `sample_fps` times a second, on a grid that all windows of a video share (times.py)."""
    yield from look(sample_times(start_s, end_s, config.sample_fps))


def sample_count(start_s: float, end_s: float, config: "WindowConfig", look: Look) -> Iterator[Shot]:
    """Look `count` times, in the middle of as many equal parts of the window."""
    middles_s = (start_s + (k + 0.5) * (end_s - start_s) / config.count for k in range(config.count))
    # parts of a window of a few ticks of float arithmetic have the same middle
    yield from look(sorted({time_s for time_s in middles_s if start_s <= time_s < end_s} or {start_s}))


def sample_adaptive(start_s: float, end_s: float, config: "WindowConfig", look: Look) -> Iterator[Shot]:
    """Look `sample_fps` times a second while the picture changes, `min_fps` times while it stands still.

    Change is the mean absolute luma change against the picture looked at before. When it was below `still_change`
    for 1 / `min_fps` seconds, only every picture that long after the one before is looked at; when one differs by
    `wake_change`, what was skipped since the one before is looked at after all, so that the onset is not missed.
    What begins and ends within one gap is. A time without a picture counts as change.

    Decoding is saved where groups of pictures are shorter than the gaps; a change of pace costs part of a group.
    """
    times_s = sample_times(start_s, end_s, config.sample_fps)
    yield from _shown_once(_follow(times_s, config, look))


def sample_scenes(start_s: float, end_s: float, config: "WindowConfig", look: Look) -> Iterator[Shot]:
    """Look `sample_fps` times a second for cuts, and hand on the middle picture of each scene.

    A scene longer than 1 / `min_fps` is cut into pieces of that length, each with its middle picture. Cuts are those
    of scenedetect's ContentDetector at its own threshold, told from our pictures, never from its way to open videos.

    Raises:
        ConfigError: the package is not installed.
    """
    try:
        # only who wants scenes pays for OpenCV
        scenedetect: Any = importlib.import_module("scenedetect")
    except ImportError as error:
        msg = f"sampler 'scenes' needs the package scenedetect ({error}); pip install 'reelsift[scenes]'"
        raise ConfigError(msg) from error

    # a scene may be one picture long at a low rate
    detector = scenedetect.ContentDetector(min_scene_len=0)

    def is_cut(index: int, picture_HWC: Picture) -> bool:
        bgr_HWC = np.ascontiguousarray(picture_HWC[..., ::-1])
        return bool(detector.process_frame(scenedetect.FrameTimecode(index, 1.0), bgr_HWC))

    shots = look(sample_times(start_s, end_s, config.sample_fps))
    yield from _shown_once(_middles(shots, _longest_gap(config), is_cut))


def _follow(times_s: Sequence[float], config: "WindowConfig", look: Look) -> Iterator[Shot]:
    """Yield shots at some of the times, all of them where something changes."""
    longest = _longest_gap(config)
    shown: Picture | None = None
    at = woken_at = 0
    while at < len(times_s):
        num_still = 0
        shots = look(times_s[at:])
        for shot in shots:
            change, shown = _change(shown, shot)
            yield shot
            at += 1
            num_still = num_still + 1 if change < config.still_change and at > woken_at else 0
            if num_still >= longest > 1:
                break
        else:
            return
        _leave(shots)
        if at == len(times_s):
            return
        picks = [*range(at + longest - 1, len(times_s) - 1, longest), len(times_s) - 1]
        shots = look([times_s[pick] for pick in picks])
        for pick, shot in zip(picks, shots, strict=True):
            change, picture_HWC = _change(shown, shot)
            if change >= config.wake_change:
                woken_at = pick + 1
                break
            shown = picture_HWC
            yield shot
            at = pick + 1
        else:
            return
        _leave(shots)


def _change(before: Picture | None, shot: Shot) -> tuple[float, Picture | None]:
    """Return how much a shot differs from the picture before it, in [0, 1], and the picture shown now."""
    sample, now = shot
    if sample.quality == "missing":
        return 1.0, before
    if now is None:
        return 0.0, before
    if before is None or before.shape != now.shape:
        return 1.0, now
    return float(novelty(np.stack((before[::EVERY, ::EVERY], now[::EVERY, ::EVERY])))[1]), now


def _middles(shots: Iterator[Shot], longest: int, is_cut: Callable[[int, Picture], bool]) -> Iterator[Shot]:
    """Yield the middle shot of every run of at most `longest` shots without a cut."""
    shown: Picture | None = None
    piece: list[Shot] = []
    for index, (sample, new_HWC) in enumerate(shots):
        shown = shown if new_HWC is None else new_HWC
        picture_HWC = None if sample.quality == "missing" else shown
        begins = picture_HWC is not None and is_cut(index, picture_HWC)
        if piece and (begins or len(piece) == longest):
            yield _middle(piece)
            piece = []
        piece.append((sample, picture_HWC))
    if piece:
        yield _middle(piece)


def _middle(piece: Sequence[Shot]) -> Shot:
    """Return the shot with a picture that is nearest the middle; the middle one if none has a picture."""
    middle = len(piece) // 2
    return piece[min(range(len(piece)), key=lambda k: (piece[k][1] is None, abs(k - middle)))]


def _longest_gap(config: "WindowConfig") -> int:
    """Return how many sampling periods may lie between two pictures handed on."""
    return max(1, math.floor(config.sample_fps / config.min_fps * (1 + 1e-9)))


def _shown_once(shots: Iterator[Shot]) -> Iterator[Shot]:
    """Yield shots of several requests as those of one: a picture that came before does not come again."""
    latest_s = -math.inf
    for sample, picture_HWC in shots:
        is_new = picture_HWC is not None and sample.pts_s > latest_s
        latest_s = sample.pts_s if is_new else latest_s
        yield sample, picture_HWC if is_new else None


def _leave(shots: Iterator[Shot]) -> None:
    """End a request before its end: two must not read one video at the same time."""
    if isinstance(shots, Generator):
        shots.close()


SAMPLERS: dict[str, SampleFn] = {
    "rate": sample_rate,
    "count": sample_count,
    "adaptive": sample_adaptive,
    "scenes": sample_scenes,
}
