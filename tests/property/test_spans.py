"""What every list of spans obeys, whatever the scores and times."""

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.spans import find_spans

FRAMES = st.lists(st.tuples(st.floats(0, 1, width=32), st.floats(0.001, 100)), max_size=60)
SHARES = st.floats(0, 1)


def unpack(frames, start_s):
    scores = [score for score, _ in frames]
    edges_s = np.cumsum([start_s, *(length for _, length in frames)])
    return scores, edges_s[:-1], float(edges_s[-1])


@given(FRAMES, st.floats(0, 1e5), SHARES, SHARES)
def test_spans_are_disjoint_inside_the_window_and_ranked(frames, start_s, threshold, hysteresis):
    scores, pts_s, end_s = unpack(frames, start_s)
    spans = find_spans(scores, pts_s, end_s, threshold, hysteresis)
    in_time = sorted(spans, key=lambda span: span.start_s)
    assert all(span.start_s < span.end_s for span in spans)
    assert all(before.end_s < after.start_s for before, after in pairwise(in_time))
    assert not spans or (in_time[0].start_s >= pts_s[0] and in_time[-1].end_s <= end_s)
    assert [(-span.score, span.start_s) for span in spans] == sorted((-s.score, s.start_s) for s in spans)


@given(FRAMES, st.floats(0, 1e5), SHARES, SHARES)
def test_every_relevant_frame_is_inside_and_every_hopeless_one_outside(
    frames, start_s, threshold, hysteresis
):
    scores, pts_s, end_s = unpack(frames, start_s)
    spans = find_spans(scores, pts_s, end_s, threshold, hysteresis)
    for score, time_s in zip(scores, pts_s, strict=True):
        inside = [span for span in spans if span.start_s <= time_s < span.end_s]
        if score >= threshold:
            assert len(inside) == 1
            assert inside[0].score >= score
        elif score < threshold - hysteresis:
            assert not inside
    assert all(span.score >= threshold for span in spans)


@given(FRAMES, st.floats(0, 1e5), SHARES)
def test_without_hysteresis_covered_time_is_the_time_of_relevant_frames(frames, start_s, threshold):
    scores, pts_s, end_s = unpack(frames, start_s)
    spans = find_spans(scores, pts_s, end_s, threshold, hysteresis=0)
    lengths = np.diff([*pts_s, end_s])
    expected = sum(length for score, length in zip(scores, lengths, strict=True) if score >= threshold)
    np.testing.assert_allclose(sum(span.end_s - span.start_s for span in spans), expected, atol=1e-6)
