"""A video that is drawn instead of decoded: what the samplers see of it, and what they asked for."""

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from pipeline.frames import Sample, Shot

SIDE_PX = 16


class DrawnVideo:
    """Pictures of one grey each, changing at times of a `picture_s` grid."""

    def __init__(
        self,
        grey: Callable[[float], float],
        picture_s: float = 1 / 32,
        missing: Callable[[float], bool] | None = None,
    ) -> None:
        self._grey, self._picture_s = grey, picture_s
        self._is_missing = missing or (lambda _time_s: False)
        self.asked: list[list[float]] = []
        """Times of each request."""
        self.looked_at: list[float] = []
        """Times whose pictures were taken."""

    def look(self, times_s: Sequence[float]) -> Iterator[Shot]:
        """Deliver one shot per time; a picture that is the same as before is None."""
        assert list(times_s) == sorted(set(times_s))
        self.asked.append(list(times_s))
        latest_s = -1.0
        for time_s in times_s:
            self.looked_at.append(time_s)
            if self._is_missing(time_s):
                yield Sample(time_s, math.nan, 0.0, False, "missing", "a hole"), None
                continue
            pts_s = math.floor(time_s / self._picture_s + 1e-9) * self._picture_s
            picture_HWC = np.full((SIDE_PX, SIDE_PX, 3), round(self._grey(pts_s) * 255), np.uint8)
            yield Sample(time_s, pts_s, 0.0, False, "ok", ""), None if pts_s == latest_s else picture_HWC
            latest_s = pts_s
