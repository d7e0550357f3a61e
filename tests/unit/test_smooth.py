import numpy as np
import pytest

from pipeline.smooth import smooth


def column(*values: float) -> np.ndarray:
    return np.asarray(values, np.float32)[:, None]


def alike(count: int) -> np.ndarray:
    """Frames that all look the same: only time counts."""
    return np.ones((count, 3), np.float32)


def test_width_zero_is_the_input() -> None:
    relevance_NP = column(0.1, 0.9, 0.3)
    assert smooth(relevance_NP, np.asarray([0.0, 1.0, 2.0]), 0.0, alike(3)) is relevance_NP


def test_triangle_on_even_times_by_hand() -> None:
    # width 2: weights 1 at the frame, 1/2 one second away
    found = smooth(column(0.0, 1.0, 0.0, 0.0), np.asarray([0.0, 1.0, 2.0, 3.0]), 2.0, alike(4))
    expected = [0.5 / 1.5, 1 / 2, 0.5 / 2, 0.0]
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-6)
    assert found.dtype == np.float32


def test_real_times_count_not_positions() -> None:
    # the second frame is 0.5 s after the first, the third far away
    found = smooth(column(0.0, 1.0, 1.0), np.asarray([0.0, 0.5, 60.0]), 1.0, alike(3))
    np.testing.assert_allclose(found[:, 0], [0.5 / 1.5, 1 / 1.5, 1.0], rtol=1e-6)


def test_no_column_depends_on_the_others_to_the_last_bit() -> None:
    dice = np.random.default_rng(1)
    relevance_NP, embedding_NE = dice.random((60, 9), np.float32), dice.random((60, 5), np.float32)
    whole = smooth(relevance_NP, np.arange(60.0), 3.0, embedding_NE)
    for some in ([0], [4], [1, 2], [8, 3, 5]):
        assert np.array_equal(
            smooth(relevance_NP[:, some], np.arange(60.0), 3.0, embedding_NE), whole[:, some]
        )


def test_frames_farther_than_the_width_do_not_meet() -> None:
    relevance_NP = column(0.2, 0.8, 0.4)
    found = smooth(relevance_NP, np.asarray([0.0, 3.0, 6.0]), 3.0, alike(3))
    np.testing.assert_allclose(found, relevance_NP, rtol=1e-6)


def test_constant_stays_constant_and_columns_stay_apart() -> None:
    rng = np.random.default_rng(0)
    times_s_N = np.cumsum(rng.uniform(0.01, 2.0, 50))
    relevance_NP = np.stack([np.full(50, 0.7), rng.uniform(0, 1, 50)], axis=1).astype(np.float32)
    found = smooth(relevance_NP, times_s_N, 3.0, rng.uniform(-1, 1, (50, 8)).astype(np.float32))
    np.testing.assert_allclose(found[:, 0], 0.7, rtol=1e-6)
    assert relevance_NP[:, 1].min() <= found[:, 1].min() <= found[:, 1].max() <= relevance_NP[:, 1].max()


@pytest.mark.parametrize("shape", [(0, 3), (4, 0), (1, 1)])
def test_empty_and_single(shape: tuple[int, int]) -> None:
    relevance_NP = np.full(shape, 0.25, np.float32)
    found = smooth(relevance_NP, np.arange(shape[0], dtype=np.float64), 3.0, alike(shape[0]))
    np.testing.assert_array_equal(found, relevance_NP)


def test_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match=r"one length, found \(2, 3, 2\)"):
        smooth(column(0.1, 0.2), np.arange(3.0), 1.0, alike(2))
    with pytest.raises(ValueError, match="found -1"):
        smooth(column(0.1), np.arange(1.0), -1.0, alike(1))


def test_a_cut_stays_a_cut() -> None:
    relevance_NP = column(1.0, 1.0, 0.0, 0.0)
    shots_NE = np.asarray([[1, 0], [1, 0], [0, 1], [0, 1]], np.float32)
    found = smooth(relevance_NP, np.arange(4.0), 3.0, shots_NE)
    np.testing.assert_allclose(found, relevance_NP, atol=1e-7)


def test_weights_by_hand() -> None:
    # cosine .5 half a second away, width 1: .5 * .5 ** 8
    pair_NE = np.asarray([[1, 0], [0.5, np.sqrt(0.75)]], np.float32)
    found = smooth(column(0.0, 1.0), np.asarray([0.0, 0.5]), 1.0, pair_NE)
    weight = 0.5 * 0.5**8
    np.testing.assert_allclose(found[:, 0], [weight / (1 + weight), 1 / (1 + weight)], rtol=1e-5)


def test_frames_without_an_embedding_keep_their_value() -> None:
    relevance_NP = column(0.2, 0.8)
    found = smooth(relevance_NP, np.arange(2.0), 3.0, np.zeros((2, 4), np.float32))
    np.testing.assert_allclose(found, relevance_NP, rtol=1e-6)
