"""How much a sampled frame differs from the one before it: the cheapest sign that something happens."""

import numpy as np
import numpy.typing as npt

LUMA = np.asarray([0.299, 0.587, 0.114], np.float32)
"""Weights of red, green and blue in luma (ITU-R BT.601)."""


def novelty(data_NHWC: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Return [N] float32: mean absolute luma change of each frame against the one before it, in [0, 1].

    The first frame has 1: nothing before it is known. One frame at a time is held as float.
    """
    novelty_N = np.ones(len(data_NHWC), np.float32)
    before_HW: npt.NDArray[np.float32] | None = None
    for index, data_HWC in enumerate(data_NHWC):
        luma_HW = data_HWC @ LUMA
        if before_HW is not None:
            novelty_N[index] = np.abs(luma_HW - before_HW).mean() / 255
        before_HW = luma_HW
    return novelty_N
