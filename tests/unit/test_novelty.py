import numpy as np

from pipeline.novelty import novelty


def test_novelty_is_the_luma_change_since_the_frame_before():
    data_NHWC = np.zeros((4, 8, 8, 3), np.uint8)
    data_NHWC[1] = 255
    data_NHWC[2] = 255
    data_NHWC[3, :4] = 255
    np.testing.assert_allclose(novelty(data_NHWC), [1, 1, 0, 0.5], atol=1e-6)
    assert novelty(data_NHWC[:0]).shape == (0,)
    assert novelty(data_NHWC).dtype == np.float32
