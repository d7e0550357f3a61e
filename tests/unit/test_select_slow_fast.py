"""Which pictures are slow, and how a budget is shared between slow and fast ones."""

import math

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import AnswerError
from pipeline.select.slow_fast import mark_slow, show_slow_and_fast
from tests.selecting import seen

ROWS, COLUMNS, SIDE = 4, 5, 28


def picture(values) -> np.ndarray:
    """Twenty grey patches of 28 px each."""
    levels = np.asarray(values, np.uint8).reshape(ROWS, COLUMNS)
    return np.repeat(np.kron(levels, np.ones((SIDE, SIDE), np.uint8))[..., None], 3, axis=2)


def reference_marks(data) -> list[bool]:
    found, last = [], None
    for data_HWC in data:
        hsv = np.asarray(Image.fromarray(data_HWC).convert("HSV"), np.float64)
        patches = [
            hsv[row * SIDE : (row + 1) * SIDE, column * SIDE : (column + 1) * SIDE].ravel()
            for row in range(data_HWC.shape[0] // SIDE)
            for column in range(data_HWC.shape[1] // SIDE)
        ]
        same = 0
        for patch, before in zip(patches, last or patches, strict=True):
            lengths = np.linalg.norm(patch), np.linalg.norm(before)
            if min(lengths) == 0:
                same += max(lengths) == 0
            else:
                same += patch @ before / (lengths[0] * lengths[1]) > 0.7
        found.append(last is None or same / len(patches) < 0.9)
        if found[-1]:
            last = patches
    return found


def test_marks_equal_a_plain_loop_over_patches():
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (5, 3))
    data = np.zeros((40, 3 * SIDE, 4 * SIDE, 3), np.uint8)
    patches = rng.integers(0, 5, (3, 4))
    for index in range(len(data)):
        patches[rng.integers(3), rng.integers(4)] = rng.integers(5)
        data[index] = np.kron(colours[patches], np.ones((SIDE, SIDE, 1))).astype(np.uint8)
        data[index] += rng.integers(0, 3, data[index].shape).astype(np.uint8)
    marks = mark_slow(data).tolist()
    assert marks == reference_marks(data)
    assert 1 < sum(marks) < len(marks)


def test_a_picture_is_compared_with_the_last_slow_one_not_with_the_one_before():
    """Each has one more white patch of twenty: two changed are nine tenths, three are fewer."""
    data = np.stack([picture([255] * count + [0] * (20 - count)) for count in range(10)])
    assert np.flatnonzero(mark_slow(data)).tolist() == [0, 3, 6, 9]


def test_black_stays_black_and_a_still_picture_is_slow_once():
    for level in (0, 90):
        assert mark_slow(np.stack([picture([level] * 20)] * 5)).tolist() == [True] + [False] * 4
    assert mark_slow(np.stack([picture([0] * 20), picture([9] * 20)])).tolist() == [True, True]


def test_noise_is_all_slow():
    """Whole patches of one colour each: noise of single pixels is alike in every patch."""
    rng = np.random.default_rng(0)
    data = np.stack([picture(rng.permutation([0] * 10 + [255] * 10)) for _ in range(6)])
    assert mark_slow(data).all()


@pytest.mark.parametrize("size", [(1, 1), (10, 2000), (434, 462), (436, 470), (1080, 1920), (96, 160)])
def test_any_size_of_picture_can_be_compared(size):
    data = np.zeros((2, *size, 3), np.uint8)
    data[1] = 255
    assert mark_slow(data).tolist() == [True, True]
    assert mark_slow(data[:0]).tolist() == []


SLOW = [True, False, False, True, False, False, False, False, False, False]


def tokens(budget: int, slow=SLOW, per_frame: int = 768) -> list[int]:
    frames = seen(np.zeros((len(slow), 1)), slow=slow)
    return list(show_slow_and_fast(frames, budget_tokens=budget, tokens_per_frame=per_frame).tokens_N)


@pytest.mark.parametrize(
    ("budget", "slow", "fast"),
    [(2200, 500, 150), (2199, 499, 149), (584, 100, 48), (480, 48, 48), (10**6, 768, 230), (3376, 768, 230)],
)
def test_the_slow_size_is_the_largest_that_fits(budget, slow, fast):
    """768 tokens a frame are the code's own account: at most 768, at least 48, three tenths of a slow frame."""
    assert tokens(budget) == [slow if is_slow else fast for is_slow in SLOW]


@pytest.mark.parametrize("per_frame", [1, 7, 64, 256])
def test_the_search_equals_a_walk_down_from_the_largest_size(per_frame):
    smallest = max(1, per_frame // 16)
    for budget in range(10 * smallest, 10 * per_frame + 2, 3):
        for slow in range(per_frame, smallest - 1, -1):
            fast = min(slow, max(smallest, math.floor(slow * 3 / 10 + 1e-9)))
            if 2 * slow + 8 * fast <= budget:
                break
        assert tokens(budget, per_frame=per_frame) == [slow if is_slow else fast for is_slow in SLOW]


def test_what_does_not_fit_at_the_smallest_size_is_thinned_fast_frames_first():
    assert tokens(470) == [48, 48, 48, 48, 48, 0, 48, 48, 48, 48]
    assert tokens(96) == [48, 0, 0, 48] + [0] * 6
    assert tokens(95) == [0, 0, 0, 48] + [0] * 6
    with pytest.raises(AnswerError, match=r"47 tokens buys nothing: .* costs 48"):
        tokens(47)


def test_still_windows_cost_little_and_noise_all_that_there_is():
    assert tokens(10**6, [True] + [False] * 9) == [768] + [230] * 9
    assert tokens(7680, [True] * 10) == [768] * 10
    assert tokens(5, []) == []
    assert tokens(768, [True]) == [768]
