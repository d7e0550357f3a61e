"""The searches of labelling, with a model that is a plain rule: answered when certain frames are shown."""

import pytest

from jobs.training.search import Judged, Show, probe, search_frames, trust_frames
from pipeline.errors import AnswerError


def found_by(search, is_answered):
    """Run a search against a rule; return what it found and how often it asked."""
    asked = 0
    frames = next(search)
    try:
        while True:
            asked += 1
            assert list(frames) == sorted(set(frames))
            assert frames
            frames = search.send(is_answered(set(frames)))
    except StopIteration as stop:
        return stop.value, asked


def test_one_frame_that_matters_is_found_wherever_it_ranks():
    for place in range(16):
        found, asked = found_by(search_frames(range(16), 8), lambda shown, place=place: place in shown)
        assert found.relevant == (place,)
        assert not found.masked_answerable
        assert asked <= 20


def test_frames_that_are_needed_together():
    found, _ = found_by(search_frames([5, 3, 0, 1, 2, 4, 6, 7], 8), lambda shown: {1, 6} <= shown)
    assert found.relevant == (1, 6)
    assert not found.masked_answerable


def test_every_frame_that_shows_the_thing_is_found_for_without_it_the_answer_must_be_gone():
    found, _ = found_by(search_frames(range(12), 8), lambda shown: bool(shown & {2, 7, 9}))
    assert found.relevant == (2, 7, 9)
    assert not found.masked_answerable


def test_what_is_answered_anyhow_is_marked():
    found, _ = found_by(search_frames(range(20), 3), lambda _: True)
    assert found.masked_answerable
    assert len(found.relevant) == 3
    found, _ = found_by(search_frames(range(2), 8), lambda _: True)
    assert found.masked_answerable, "no frame is left to tell from these"


def test_a_question_that_is_never_answered_has_no_frames():
    with pytest.raises(AnswerError, match="with all 4 frames shown"):
        found_by(search_frames(range(4), 8), lambda _: False)


def test_given_frames_are_taken_and_their_necessity_is_asked_for():
    found, asked = found_by(trust_frames([1, 2], 4), lambda shown: 1 in shown)
    assert (found.relevant, found.masked_answerable, asked) == ((1, 2), False, 1)
    found, _ = found_by(trust_frames([1, 2], 4), lambda shown: 0 in shown)
    assert found.masked_answerable
    with pytest.raises(AnswerError, match="none of the 4 frames"):
        found_by(trust_frames([], 4), lambda _: True)


SCALES = {"budget_tokens": 32, "scale_global": 2, "scale_relevant": 1, "scale_background": 4}


def test_frames_of_the_search_are_shown_whole_however_many_and_no_others():
    show = Show(8, SCALES, tokens_per_frame=16)
    assert show([1, 5]).tokens_N == (0, 16, 0, 0, 0, 16, 0, 0)
    assert show(range(1, 8)).tokens_N == (0, *[16] * 7)


def run_probe(answered, min_likelihood=0.5):
    """Probe with a rule on the frames a plan shows."""
    show = Show(4, SCALES, 16)
    policies = {"global": show(range(4)), "fragment": show([0])}
    probing = probe(policies, show, search_frames(range(4), 4), min_likelihood)
    plan = next(probing)
    try:
        while True:
            shown = {frame for frame, tokens in enumerate(plan.tokens_N) if tokens}
            plan = probing.send(answered(shown))
    except StopIteration as stop:
        return stop.value


def test_both_policies_and_the_frames_are_probed():
    row = run_probe(lambda shown: Judged(2 in shown, 0.9 if 2 in shown else 0.1))
    assert (row["right_global"], row["right_fragment"]) == (True, False)
    assert (row["likelihood_global"], row["likelihood_fragment"]) == (0.9, 0.1)
    assert row["relevant"] == [2]
    assert row["masked_answerable"] is False


def test_an_answer_that_is_right_by_a_hair_does_not_count_as_given():
    row = run_probe(lambda _: Judged(True, 0.4))
    assert row["right_global"]
    assert "does not give the known answer" in row["search_error"]
    assert "relevant" not in row


def test_a_refusal_in_the_search_leaves_the_policies():
    show = Show(4, SCALES, 16)
    probing = probe({"global": show(range(4)), "fragment": show([0])}, show, search_frames(range(4), 4), 0.5)
    next(probing)
    probing.send(Judged(True, 0.8))
    probing.send(Judged(True, 0.7))
    with pytest.raises(StopIteration) as stopped:
        probing.throw(AnswerError("out of memory"))
    assert stopped.value.value["search_error"] == "out of memory"
    assert stopped.value.value["likelihood_global"] == 0.8
