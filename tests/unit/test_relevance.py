"""Answers from relevance: spans, yes/no, choices, and a clear refusal of free text."""

import numpy as np
import pytest

from actors.models import Ask, Request, WindowView
from actors.models.relevance import RelevanceAnswerer
from pipeline.budget import Plan
from pipeline.queries import Query

RELEVANCE = np.array([0.1, 0.2, 0.9, 0.8, 0.1, 0.1], np.float32)
VIEW = WindowView(0.0, 6.0, np.arange(6.0), (), None)


def ask(kind, relevance=RELEVANCE, choices=(), table=None, threshold=0.5):
    query = Query("q", "a dog", kind, choices=choices)
    choices_NC = np.zeros((len(relevance), 0), np.float32) if table is None else table
    return Ask(query, Plan("fragment", (0,) * len(relevance), ""), relevance, choices_NC, threshold)


def answer(*asks):
    return RelevanceAnswerer().answer([Request(VIEW, asks)])[0]


def test_find_gives_spans_and_the_best_relevance():
    (found,) = answer(ask("find"))
    assert found.answer == "found"
    assert found.confidence == pytest.approx(0.9)
    assert [(s, e) for s, e, _ in found.spans] == [(2.0, 4.0)]
    assert found.spans[0][2] == pytest.approx(0.9)
    assert found.tokens_used == 0


def test_find_below_the_threshold_still_shows_the_best_frames():
    (nothing,) = answer(ask("find", threshold=0.95))
    assert (nothing.answer, nothing.spans) == ("not found", ())
    assert (2.0, pytest.approx(0.9), 0) in nothing.evidence


def test_flag_confidence_is_that_of_the_given_answer():
    yes, no = answer(ask("flag"), ask("flag", threshold=0.95))
    assert (yes.answer, yes.confidence) == ("yes", pytest.approx(0.9))
    assert (no.answer, no.confidence, no.spans) == ("no", pytest.approx(0.1), ())


def test_choose_takes_the_most_relevant_choice():
    table = np.stack([RELEVANCE * 0.5, RELEVANCE], axis=1)
    (chosen,) = answer(ask("choose", choices=("cat", "dog"), table=table))
    assert chosen.answer == "dog"
    assert 0.5 < chosen.confidence <= 1


def test_free_text_without_a_language_model_says_which_option_to_set():
    (refused,) = answer(ask("ask"))
    assert refused.answer == ""
    assert "--answer.model" in refused.error
