"""When to look at a stream again: often while it changes, seldom while it stands still.

The rule is sampler `adaptive`'s (pipeline/sampling.py), for a stream that cannot be looked back into: what began within
a long gap is seen from the gap's end on.
"""

import math

from pipeline.config import WindowConfig


class Pace:
    """Tells the time of the next frame from the changes of those before.

    Between `sample_fps` and `min_fps` frames per second, by two borders, so that a change near one of them does not
    switch to and fro: still for 1 / `min_fps` seconds, each frame's change below `still_change`, it falls asleep; a
    change of `wake_change` wakes it.
    """

    def __init__(self, config: WindowConfig) -> None:
        self.config = config
        self.is_asleep = False
        self._longest = max(1, math.floor(config.sample_fps / config.min_fps * (1 + 1e-9)))
        self._num_still = 0

    def next_s(self, pts_s: float, change: float) -> float:
        """Return when to look next, in seconds.

        Args:
            pts_s: time of the frame just looked at.
            change: how much it differs from the one before, in [0, 1]: mean absolute luma change, as novelty.py
                measures it, 1 for the first frame. One that is no number counts as change.
        """
        if self.is_asleep:
            if not change < self.config.wake_change:
                self.is_asleep, self._num_still = False, 0
        else:
            self._num_still = self._num_still + 1 if change < self.config.still_change else 0
            self.is_asleep = self._num_still >= self._longest > 1
        return pts_s + (self._longest if self.is_asleep else 1) / self.config.sample_fps
