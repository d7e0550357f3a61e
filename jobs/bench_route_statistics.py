"""How sure a share of right answers is, when questions come in clusters: a bootstrap over videos.

Questions about one video share its frames and their plans, so they are not independent; videos are. Every sample draws
as many videos as there are, with replacement, and all questions of each.

Shape letters: Q questions, V videos, S samples.
"""

import numpy as np
import numpy.typing as npt

SAMPLES = 2000

Right = npt.NDArray[np.float64]


class Bootstrap:
    """The same samples of videos for every method, so that differences are paired."""

    def __init__(self, video_Q: npt.ArrayLike, seed: int = 0) -> None:
        self.video_Q = np.asarray(video_Q)
        num = int(self.video_Q.max()) + 1
        drawn = np.random.default_rng(seed).integers(0, num, (SAMPLES, num))
        self.weight_SV = np.stack([np.bincount(sample, minlength=num) for sample in drawn])
        self.asked_S = self.weight_SV @ np.bincount(self.video_Q, minlength=num)

    def interval(self, values_Q: Right) -> tuple[float, float]:
        """Return the 95 % interval of the mean of some values: of right answers, or of their difference."""
        sum_V = np.bincount(self.video_Q, weights=values_Q, minlength=self.weight_SV.shape[1])
        low, high = np.percentile(self.weight_SV @ sum_V / self.asked_S, [2.5, 97.5])
        return float(low), float(high)

    def ci95(self, values_Q: Right) -> float:
        """Return half the width of that interval."""
        low, high = self.interval(values_Q)
        return (high - low) / 2
