"""Spans that a model confirms stay with its probability, what it rejects goes, what it could not see stays."""

import numpy as np
import pytest

from actors.confirm import candidates, confirm
from actors.models import Answer, Ask, Cost, WindowView
from pipeline.budget import Plan
from pipeline.queries import Query

PTS_S = np.arange(6) * 2.0
WINDOW = WindowView(0.0, 12.0, PTS_S, [1, 2, 4], None)
EARLY, LATE = (2.0, 6.0, 0.9), (8.0, 10.0, 0.7)
FOUND = Answer("found", 0.9, (EARLY, LATE), ((2.0, 0.9, 0), (8.0, 0.7, 0)))
COST = Cost(vision_frames=2, prefills=1, prefill_tokens=30, decode_steps=0)


def find(tokens=(0, 16, 4, 0, 16, 0), query_id="dog"):
    query = Query(query_id, "a dog", "find", threshold=0.6, budget_tokens=40)
    relevance_N = np.array([0, 0.9, 0.8, 0, 0.7, 0], np.float32)
    return Ask(query, Plan("fragment", tokens, "why"), relevance_N, np.zeros((6, 0), np.float32), 0.6)


def said(text, confidence, *evidence, cost=COST):
    spent = sum(tokens for _, _, tokens in evidence)
    return Answer(text, confidence, evidence=evidence, tokens_dense=96, tokens_used=spent, cost=cost)


def failed(why):
    return Answer("", 0.0, tokens_dense=96, cost=COST, error=why)


YES = said("yes", 0.8, (2.0, 0.9, 16), (4.0, 0.8, 4))
NO = said("no", 0.9, (8.0, 0.7, 16), cost=Cost(1, 1, 25))


def test_each_span_is_a_flag_on_its_own_frames():
    [(early, first), (late, second)] = candidates(WINDOW, find(), FOUND)
    assert (early, late) == (EARLY, LATE)
    assert first.plan.tokens_N == (0, 16, 4, 0, 0, 0)
    assert second.plan.tokens_N == (0, 0, 0, 0, 16, 0)
    for ask in (first, second):
        assert (ask.query.kind, ask.query.text, ask.plan.route) == ("flag", "a dog", "fragment")


def test_a_span_is_half_open_its_end_belongs_to_the_next():
    [(_, first), _] = candidates(WINDOW, find((0, 1, 1, 1, 1, 1)), FOUND)
    assert first.plan.tokens_N == (0, 1, 1, 0, 0, 0)


def test_a_span_without_frames_in_the_plan_is_not_asked_about():
    [(span, _)] = candidates(WINDOW, find((0, 0, 0, 0, 16, 0)), FOUND)
    assert span == LATE
    assert candidates(WINDOW, find((0,) * 6), FOUND) == []
    assert candidates(WINDOW, find(), Answer("not found", 0.2)) == []


def test_confirmed_spans_are_scored_by_the_model_best_first():
    surer = said("yes", 0.95, (8.0, 0.7, 16))
    answer = confirm(FOUND, [(EARLY, YES), (LATE, surer)])
    assert (answer.answer, answer.confidence, answer.error) == ("found", 0.95, "")
    assert answer.spans == ((8.0, 10.0, 0.95), (2.0, 6.0, 0.8))


def test_rejected_spans_go():
    answer = confirm(FOUND, [(EARLY, YES), (LATE, NO)])
    assert (answer.answer, answer.confidence) == ("found", 0.8)
    assert answer.spans == ((2.0, 6.0, 0.8),)


def test_where_all_are_rejected_nothing_is_found():
    answer = confirm(FOUND, [(EARLY, said("no", 0.7, (2.0, 0.9, 16))), (LATE, NO)])
    assert (answer.answer, answer.spans, answer.error) == ("not found", (), "")
    assert answer.confidence == pytest.approx(0.3)  # how sure it is that something is there
    assert answer.evidence == ((2.0, 0.9, 16), (8.0, 0.7, 16))


def test_yes_and_no_as_likely_as_each_other_is_a_yes():
    for answer in ("yes", "no"):
        assert confirm(FOUND, [(EARLY, said(answer, 0.5)), (LATE, NO)]).spans == ((2.0, 6.0, 0.5),)


@pytest.mark.parametrize("checked", [YES, said("no", 0.99, (2.0, 0.9, 16))], ids=["confirmed", "rejected"])
def test_a_span_that_could_not_be_shown_stays_as_it_was(checked):
    answer = confirm(FOUND, [(EARLY, checked)])
    assert answer.answer == "found"
    assert LATE in answer.spans
    assert len(answer.spans) == (2 if checked is YES else 1)


def test_nothing_to_confirm_leaves_the_answer_alone():
    assert confirm(FOUND, []) is FOUND
    nothing = Answer("not found", 0.2, (), ((2.0, 0.2, 0),))
    assert confirm(nothing, []) is nothing


def test_one_failed_check_fails_the_answer_and_what_was_spent_is_kept():
    answer = confirm(FOUND, [(EARLY, YES), (LATE, failed("out of memory"))])
    assert answer.error == "a span could not be confirmed: out of memory"
    assert (answer.answer, answer.confidence, answer.spans, answer.evidence) == ("", 0.0, (), ())
    assert (answer.tokens_used, answer.tokens_dense) == (0, 96)
    assert answer.cost == Cost(4, 2, 60, 0)


def test_tokens_and_costs_are_sums_over_the_checks_rejected_ones_too():
    answer = confirm(FOUND, [(EARLY, YES), (LATE, NO)])
    assert answer.tokens_used == 36 == sum(tokens for _, _, tokens in answer.evidence)
    assert answer.tokens_dense == 96  # of the window: once
    assert answer.cost == Cost(vision_frames=3, prefills=2, prefill_tokens=55, decode_steps=0)
    assert [pts_s for pts_s, _, _ in answer.evidence] == [2.0, 4.0, 8.0]
