"""When frames are looked at: a grid over the whole video, so that windows share it without gaps or doubles."""

import math
from fractions import Fraction


def sample_times(start_s: float, end_s: float, sample_fps: float) -> list[float]:
    """Return the sampling times in [start_s, end_s), in seconds from the video's start, strictly increasing.

    The grid is k / sample_fps for integers k, counted from the video's start and not from the window's, so that
    the times of windows that tile a video are the times of the video: at 2 fps [0.7, 2.0) holds 1.0 and 1.5.
    The rate is taken as the simple fraction it stands for (0.3 is 3/10, 29.97003 is 30000/1001), so that k = 3 at
    0.3 fps is 10.0 and not a rounding error beside it. Membership is decided on the rounded grid value;
    neighbouring windows compare it with the same border, so no time falls to both or to neither. A window too
    short to hold a grid time is looked at once, at its start.
    """
    if end_s <= start_s:
        return []
    rate = Fraction(sample_fps).limit_denominator(10_000) or Fraction(sample_fps)
    first = max(0, math.floor(start_s * rate) - 1)
    last = math.ceil(end_s * rate) + 1
    grid_s = (k * rate.denominator / rate.numerator for k in range(first, last + 1))
    return [time_s for time_s in grid_s if start_s <= time_s < end_s] or [start_s]
