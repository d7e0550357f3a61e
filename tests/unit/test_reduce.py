"""From windows to a verdict."""

import pytest

from pipeline import rows
from pipeline.reduce import AGGREGATORS, MAX_EVIDENCE

reduce = AGGREGATORS["strongest-window"]

OWN_COLUMNS = {
    "answer", "confidence", "spans", "evidence", "num_windows", "num_failed_windows", "tokens_dense", "tokens_used",
    "error_type", "error_message",
}  # fmt: skip


def window(index: int, kind: str, answer: str, confidence: float, **more) -> rows.Row:
    """One window of 10 s, sampled once per second, as it comes back from a part file."""
    row = {
        "window_id": f"v:{index}",
        "start_s": index * 10.0,
        "end_s": index * 10.0 + 10,
        "query_id": "q",
        "kind": kind,
        "answer": answer,
        "confidence": confidence,
        "frames_planned": 10,
        "tokens_dense": 100,
        "tokens_used": 40,
        **more,
    }
    return rows.fill(row, rows.ANSWERS)


def failed(index: int, error_type: str = "DecodeError", message: str = "bytes end") -> rows.Row:
    return window(
        index, "flag", "", 0.0, error_type=error_type, error_message=message, tokens_used=0, tokens_dense=0
    )


def span(start_s: float, end_s: float, score: float) -> rows.Row:
    return {"start_s": start_s, "end_s": end_s, "score": score}


def frame(pts_s: float, score: float, tokens: int = 0) -> rows.Row:
    return {"pts_s": pts_s, "score": score, "tokens": tokens}


def test_columns_are_those_of_a_verdict():
    found = reduce([window(0, "flag", "no", 0.8)])
    assert found.keys() == OWN_COLUMNS
    assert found.keys() <= set(rows.VERDICTS.names)
    rows.to_table([found], rows.VERDICTS)


def test_find_ranks_spans_and_joins_them_over_a_border():
    found = reduce(
        [
            window(1, "find", "found", 0.9, spans=[span(10, 13, 0.9), span(15, 16, 0.7)]),
            window(0, "find", "found", 0.8, spans=[span(7, 10, 0.8), span(1, 2, 0.6)]),
            window(2, "find", "not found", 0.2),
        ]
    )
    assert found["answer"] == "found"
    assert found["confidence"] == 0.9
    assert found["spans"] == [span(7, 13, 0.9), span(15, 16, 0.7), span(1, 2, 0.6)]
    assert found["num_windows"] == 3
    assert (found["tokens_dense"], found["tokens_used"]) == (300, 120)


def test_the_first_frame_of_a_window_may_have_been_shown_since_before_the_border():
    first = window(0, "find", "found", 0.8, spans=[span(7, 10, 0.8)])
    second = window(1, "find", "found", 0.9, spans=[span(9.98, 13, 0.9)])
    assert reduce([first, second])["spans"] == [span(7, 13, 0.9)]


def test_an_event_that_starts_with_the_second_frame_is_another_one():
    first = window(0, "find", "found", 0.8, spans=[span(7, 10, 0.8)])
    second = window(1, "find", "found", 0.9, spans=[span(10.98, 13, 0.9)])
    assert len(reduce([first, second])["spans"]) == 2


def test_an_event_over_three_windows_is_one_span():
    spans = [span(5, 10, 0.6), span(10, 20, 0.9), span(20, 21, 0.7)]
    found = reduce([window(i, "find", "found", 0.9, spans=[spans[i]]) for i in range(3)])
    assert found["spans"] == [span(5, 21, 0.9)]


def test_a_failed_window_in_the_middle_is_not_bridged():
    spans = [span(5, 10, 0.6), None, span(20, 21, 0.7)]
    answers = [window(i, "find", "found", 0.9, spans=[spans[i]]) for i in (0, 2)] + [failed(1)]
    found = reduce(answers)
    assert len(found["spans"]) == 2
    assert (found["num_windows"], found["num_failed_windows"]) == (3, 1)
    assert found["error_type"] == ""


def test_find_nothing_has_the_highest_relevance():
    found = reduce([window(0, "find", "not found", 0.2), window(1, "find", "not found", 0.4)])
    assert (found["answer"], found["confidence"], found["spans"]) == ("not found", 0.4, [])


def test_flag_one_yes_is_enough():
    found = reduce(
        [
            window(0, "flag", "no", 0.99, evidence=[frame(1, 0.95)]),
            window(1, "flag", "yes", 0.6, spans=[span(11, 12, 0.6)], evidence=[frame(11, 0.6)]),
            window(2, "flag", "yes", 0.8, evidence=[frame(21, 0.8)]),
        ]
    )
    assert (found["answer"], found["confidence"]) == ("yes", 0.8)
    assert found["spans"] == [span(11, 12, 0.6)]
    assert found["evidence"] == [frame(11, 0.6), frame(21, 0.8)]


def test_flag_no_is_as_sure_as_its_least_sure_window():
    found = reduce([window(0, "flag", "no", 0.99), window(1, "flag", "no", 0.7)])
    assert (found["answer"], found["confidence"]) == ("no", 0.7)


@pytest.mark.parametrize("kind", ["choose", "ask"])
def test_choose_and_ask_take_the_surest_window(kind):
    found = reduce(
        [
            window(0, kind, "red", 0.5, evidence=[frame(2, 0.5)]),
            window(1, kind, "blue", 0.9, evidence=[frame(12, 0.9)]),
            window(2, kind, "red", 0.6, evidence=[frame(22, 0.6)]),
        ]
    )
    assert (found["answer"], found["confidence"]) == ("blue", 0.9)
    assert found["evidence"] == [frame(12, 0.9)]


def test_equal_confidence_goes_to_the_earlier_window():
    assert reduce([window(1, "ask", "late", 0.5), window(0, "ask", "early", 0.5)])["answer"] == "early"


def test_evidence_is_the_best_frames_in_time_order():
    frames = [frame(index, (index * 7 % 20) / 20) for index in range(20)]
    halves = [
        window(0, "ask", "a", 0.5, evidence=frames[:10]),
        window(1, "ask", "a", 0.6, evidence=frames[10:]),
    ]
    found = reduce(halves)["evidence"]
    assert len(found) == MAX_EVIDENCE
    assert [item["pts_s"] for item in found] == sorted(item["pts_s"] for item in found)
    assert {item["score"] for item in found} == {score / 20 for score in range(12, 20)}


def test_all_failed_gives_the_most_frequent_reason():
    found = reduce([failed(0), failed(1, "AnswerError", "no model"), failed(2), failed(3, message="gap")])
    assert found["error_type"] == "DecodeError"
    assert found["error_message"] == "all 4 windows failed, 3 with DecodeError: bytes end"
    assert (found["answer"], found["confidence"], found["num_failed_windows"]) == ("", 0.0, 4)


def test_a_video_without_windows_has_a_failed_verdict():
    found = reduce([])
    assert (found["error_type"], found["num_windows"]) == ("AnswerError", 0)
    assert found["error_message"] == "no window of this video was answered"


def test_an_unknown_kind_is_a_bug():
    with pytest.raises(ValueError, match="'guess', expected one of find, flag, ask, choose"):
        reduce([window(0, "guess", "?", 0.5)])


def test_rows_are_not_changed():
    answers = [window(i, "find", "found", 0.9, spans=[span(i * 10.0, i * 10.0 + 10, 0.9)]) for i in range(2)]
    copies = [{**row, "spans": [dict(item) for item in row["spans"]]} for row in answers]
    reduce(answers)
    assert answers == copies
