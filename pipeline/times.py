"""When frames are looked at: a grid over the whole video, so that windows share it without gaps or doubles."""

import math


def sample_times(start_s: float, end_s: float, sample_fps: float) -> list[float]:
    """Return the sampling times in [start_s, end_s), in seconds from the video's start, strictly increasing.

    The grid is k / sample_fps for integers k, counted from the video's start and not from the window's, so that
    the times of windows that tile a video are the times of the video: at 2 fps [0.7, 2.0) holds 1.0 and 1.5.
    Membership is decided on the rounded grid value itself; neighbouring windows compare it with the same border,
    so no rounding can give a time to both or to neither. A window too short to hold a grid time is looked at
    once, at its start.
    """
    if end_s <= start_s:
        return []
    first = max(0, math.floor(start_s * sample_fps) - 1)
    last = math.ceil(end_s * sample_fps) + 1
    times_s = [k / sample_fps for k in range(first, last + 1) if start_s <= k / sample_fps < end_s]
    return times_s or [start_s]
