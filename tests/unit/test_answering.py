"""A model's words as an answer: what it rests on, what it cost, or why there is none."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from actors.models import Ask, WindowView
from actors.models.answering import cut_at, free_text, given, likeliest, refused, why_not
from pipeline.budget import Plan
from pipeline.errors import AnswerError
from pipeline.queries import Query

WINDOW = WindowView(10.0, 14.0, 10.0 + np.arange(4.0), (0, 2, 3), None)
SHOWN = ((0, 4), (2, 2))
FLAG = Ask(
    Query("q", "Is there a fire?", "flag"),
    Plan("global", (4, 0, 0, 2), ""),
    np.array([0.1, 0.2, 0.9, 0.8], np.float32),
    np.zeros((4, 0), np.float32),
    0.5,
)


def test_an_answer_rests_on_what_was_shown():
    found = given(WINDOW, FLAG, ("yes", 0.7), SHOWN, 8)
    assert (found.answer, found.confidence, found.error) == ("yes", 0.7, "")
    assert [frame[0] for frame in found.evidence] == [10.0, 13.0]
    assert [frame[1] for frame in found.evidence] == pytest.approx([0.1, 0.8])
    assert [frame[2] for frame in found.evidence] == [4, 2]
    assert (found.tokens_used, found.tokens_dense) == (6, 32)
    [span] = found.spans
    assert span == pytest.approx((12.0, 14.0, 0.9))


def test_only_a_yes_has_spans():
    assert given(WINDOW, FLAG, ("no", 0.7), SHOWN, 8).spans == ()
    asked = replace(FLAG, query=Query("q", "What is it?", "ask"))
    assert given(WINDOW, asked, ("yes", 0.7), SHOWN, 8).spans == ()


def test_frames_are_scored_by_who_judged_them_last_and_spans_by_the_proposer():
    refined = replace(FLAG, refined_N=np.array([0.6, 0, 0, 0.3], np.float32))
    found = given(WINDOW, refined, ("yes", 0.7), SHOWN, 8)
    assert [score for _, score, _ in found.evidence] == pytest.approx([0.6, 0.3])
    assert found.spans == given(WINDOW, FLAG, ("yes", 0.7), SHOWN, 8).spans


def test_a_refusal_says_what_all_frames_would_have_cost():
    found = refused(WINDOW, "no room", 8)
    assert (found.answer, found.error, found.tokens_dense, found.tokens_used) == ("", "no room", 32, 0)


def test_why_a_question_is_not_put():
    assert (
        why_not(WINDOW, FLAG)
        == "query 'q': its plan shows none of the 3 evidence frames; raise plan.budget_tokens"
    )
    assert "none of the 3 evidence frames whole, at 8 tokens each; raise" in why_not(WINDOW, FLAG, 8)
    assert "find is answered from relevance" in why_not(
        WINDOW, replace(FLAG, query=Query("q", "a fire", "find"))
    )


def test_text_is_cut_at_the_first_stop_string():
    assert cut_at("a\nb. c", (".", "\n")) == "a"
    assert cut_at("abc", ()) == "abc"
    assert cut_at("abc", ("x",)) == "abc"
    assert cut_at("", ("x",)) == ""


def test_nothing_left_of_a_text_is_no_answer():
    assert free_text("  red. And", (".",), 4) == "red"
    with pytest.raises(AnswerError, match=r"no text.*4 tokens before its end"):
        free_text(" . And", (".",), 4)


def test_the_likeliest_label_is_answered():
    assert likeliest(FLAG.query, torch.tensor([0.25, 0.75])) == ("no", 0.75)
    choose = Query("q", "Which colour?", "choose", ("Red", "Blue"))
    assert likeliest(choose, torch.tensor([0.75, 0.25])) == ("Red", 0.75)
