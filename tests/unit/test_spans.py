"""Spans of time out of relevance per frame."""

import pytest

from pipeline.errors import DecodeError
from pipeline.spans import Span, find_spans


def test_example_of_the_docstring():
    assert find_spans([0.2, 0.8, 0.6], [0, 1, 3], 4, 0.5) == [Span(1.0, 4.0, 0.8)]


def test_nothing_relevant_and_nothing_at_all():
    assert find_spans([0.1, 0.4], [0, 1], 2, 0.5) == []
    assert find_spans([], [], 5, 0.5) == []


def test_best_first_then_earlier_first():
    scores = [0.6, 0.0, 0.9, 0.0, 0.6]
    found = find_spans(scores, range(5), 5, 0.5)
    assert found == [Span(2, 3, 0.9), Span(0, 1, 0.6), Span(4, 5, 0.6)]


def test_hysteresis_bridges_a_dip_but_does_not_open():
    assert find_spans([0.45, 0.6, 0.45, 0.6, 0.45], range(5), 5, 0.5) == [Span(1, 5, 0.6)]
    assert find_spans([0.6, 0.45, 0.6], range(3), 3, 0.5, hysteresis=0) == [Span(0, 1, 0.6), Span(2, 3, 0.6)]
    assert find_spans([0.6, 0.39, 0.6], range(3), 3, 0.5) == [Span(0, 1, 0.6), Span(2, 3, 0.6)]


def test_irregular_times():
    found = find_spans([0.9, 0.1, 0.7], [10.0, 10.04, 17.5], 20.0, 0.5)
    assert found == [Span(10.0, 10.04, 0.9), Span(17.5, 20.0, 0.7)]


@pytest.mark.parametrize(
    ("times", "end_s", "message"),
    [
        ([0, 1], 2, "3 frames have relevance but 2 have a time"),
        ([0, 1, 1], 2, r"found 1.0 s followed by 1.0 s"),
        ([0, 1, 2], 2, r"end before 2 s, found 2.0 s followed by 2.0 s"),
    ],
)
def test_times_that_cannot_be_placed(times, end_s, message):
    with pytest.raises(DecodeError, match=message):
        find_spans([0.5, 0.5, 0.5], times, end_s, 0.5)
