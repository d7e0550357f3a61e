"""What every entry of AGGREGATORS obeys."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import rows
from pipeline.queries import KINDS
from pipeline.reduce import AGGREGATORS

pytestmark = pytest.mark.parametrize("name", sorted(AGGREGATORS))
ANSWERS_OF = {"find": ("found", "not found"), "flag": ("yes", "no"), "ask": ("a", "b"), "choose": ("a", "b")}
SHARES = st.sampled_from([0.1, 0.5, 0.5000001, 0.9])
"""Few values, so that ties are frequent."""


@st.composite
def windows(draw) -> list[rows.Row]:
    """The windows of one video in time order, some of them failed."""
    kind = draw(st.sampled_from(KINDS))
    found = []
    for index in range(draw(st.integers(0, 6))):
        start_s = index * 10.0
        row = {"window_id": f"v:{index:02}", "start_s": start_s, "end_s": start_s + 10, "kind": kind}
        row |= {
            "query_id": "q",
            "frames_planned": 10,
            "tokens_dense": 9,
            "tokens_used": draw(st.integers(0, 9)),
        }
        if draw(st.integers(0, 3)) == 0:
            row |= {
                "error_type": draw(st.sampled_from(["DecodeError", "AnswerError"])),
                "error_message": draw(st.text()),
            }
        else:
            cuts = sorted(draw(st.sets(st.integers(0, 20), max_size=6)))
            pairs = list(zip(cuts[::2], cuts[1::2], strict=False))
            row |= {"answer": draw(st.sampled_from(ANSWERS_OF[kind])), "confidence": draw(SHARES)}
            row["spans"] = [
                {"start_s": start_s + a / 2, "end_s": start_s + b / 2, "score": draw(SHARES)}
                for a, b in pairs
            ]
            row["evidence"] = [
                {"pts_s": start_s + cut / 2, "score": draw(SHARES), "tokens": cut} for cut in cuts
            ]
        found.append(rows.fill(row, rows.ANSWERS))
    return found


@given(windows(), st.randoms())
def test_order_of_windows_does_not_matter(name, answers, random):
    mixed = random.sample(answers, len(answers))
    assert AGGREGATORS[name](mixed) == AGGREGATORS[name](answers)


@given(windows())
def test_verdict_is_a_row_that_adds_up(name, answers):
    verdict = AGGREGATORS[name](answers)
    rows.to_table([verdict], rows.VERDICTS)
    good = [row for row in answers if not row["error_type"]]
    assert verdict["num_windows"] == len(answers)
    assert verdict["num_failed_windows"] == len(answers) - len(good)
    assert verdict["tokens_used"] == sum(row["tokens_used"] for row in answers)
    assert bool(verdict["error_type"]) == (not good)
    if good:
        assert (verdict["answer"], verdict["confidence"]) in {
            (row["answer"], row["confidence"]) for row in good
        }


@given(windows())
def test_spans_are_disjoint_ranked_and_cover_what_windows_found(name, answers):
    verdict = AGGREGATORS[name](answers)
    spans = sorted(verdict["spans"], key=lambda span: span["start_s"])
    assert all(before["end_s"] < after["start_s"] for before, after in pairwise(spans))
    assert verdict["spans"] == sorted(spans, key=lambda span: (-span["score"], span["start_s"]))
    for row in answers:
        if not row["error_type"] and row["answer"] == verdict["answer"]:
            for inner in row["spans"]:
                assert any(
                    outer["start_s"] <= inner["start_s"]
                    and inner["end_s"] <= outer["end_s"]
                    and inner["score"] <= outer["score"]
                    for outer in spans
                )
