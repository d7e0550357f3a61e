"""Many questions, several windows: what is shared, what waits for memory, what fails alone."""

from dataclasses import replace

import pytest
import torch

from actors.models import Request, WindowView
from pipeline.errors import AnswerError
from tests.unit.test_video_llm import EVIDENCE, PTS_S, WINDOW, ask

WINDOWS = [WindowView(at, at + 12, PTS_S + at, EVIDENCE, WINDOW.evidence) for at in (0.0, 50.0, 100.0)]
CHOICES = ("red", "dark green", "one of the others")
ASKS = [
    ask("flag"),
    ask(text="What?"),
    ask("choose", choices=CHOICES),
    ask("flag", (0, 2, 0, 2, 0, 0), text="Is it dark?"),
    ask(tokens=(0, 2, 0, 2, 0, 0), text="Who is there, and why?"),
    ask(text="What colour is the car?"),
]
REQUESTS = [Request(window, ASKS) for window in WINDOWS]


@pytest.fixture(scope="module")
def llm(load_llm):
    return load_llm("qwen2_5_vl", memory_gb=4)


@pytest.fixture(scope="module")
def expected(llm):
    """Return the answers to each question asked alone."""
    return [[llm.answer([Request(window, [one])])[0][0] for one in ASKS] for window in WINDOWS]


def assert_same(found, expected):
    for mine, theirs in zip(found, expected, strict=True):
        for one, other in zip(mine, theirs, strict=True):
            assert (one.error, one.answer, one.evidence, one.spans) == (
                "",
                other.answer,
                other.evidence,
                other.spans,
            )
            assert one.confidence == pytest.approx(other.confidence, abs=1e-5)


def test_answers_are_those_of_questions_asked_alone(llm, expected):
    assert_same(llm.answer(REQUESTS), expected)


def test_what_is_shared_is_paid_for_once(llm):
    [costs] = [[one.cost for one in answers] for answers in llm.answer(REQUESTS[:1])]
    assert [cost.vision_frames for cost in costs] == [3, 0, 0, 0, 0, 0]
    # two plans, so two trunks; labelled questions are put first
    assert [cost.prefills for cost in costs] == [1, 0, 0, 1, 0, 0]
    assert all(cost.prefill_tokens > 0 for cost in costs)
    assert [cost.decode_steps > 0 for cost in costs] == [False, True, False, False, True, True]
    assert sum(cost.decode_passes for cost in costs) == max(cost.decode_steps for cost in costs)
    many = llm.answer([Request(WINDOW, [ask(text="What?")] * 64)])[0]
    assert sum(one.cost.prefills for one in many) == 1
    assert sum(one.cost.vision_frames for one in many) == 3


class Passes:
    """Counts the rows of every pass through the decoder."""

    def __init__(self, llm, monkeypatch):
        self.sizes = []
        decoder = llm.language.decoder

        def count(**inputs):
            self.sizes.append(inputs["inputs_embeds"].shape[1])
            return decoder(**inputs)

        monkeypatch.setattr(llm.language, "decoder", count)


def test_the_answers_of_all_windows_are_decoded_together(llm, monkeypatch):
    passes = Passes(llm, monkeypatch)
    llm.answer(REQUESTS)
    # 9 free-text answers of 6 tokens at most; per window two trunks, put with labels and with free text
    assert len(passes.sizes) < 12 + 9 * 5
    assert max(passes.sizes[-5:]) > 3


def budget_of(llm, rows, frames=16):
    """Return a budget that has room for trees of some rows beside a pass."""
    memory = llm.memory
    work = max(memory.pass_bytes(rows, rows), frames * memory.frame_work_bytes)
    return memory.weights_bytes + rows * memory.row_bytes + work + 3 * memory.frame_bytes


def test_what_does_not_fit_waits(llm, expected, monkeypatch):
    passes = Passes(llm, monkeypatch)
    assert_same(llm.answer(REQUESTS), expected)
    roomy = len(passes.sizes)
    monkeypatch.setattr(llm, "memory", replace(llm.memory, budget_bytes=budget_of(llm, 160, frames=2)))
    passes.sizes.clear()
    assert_same(llm.answer(REQUESTS), expected)
    assert len(passes.sizes) > roomy, "less at a time needs more passes"


def test_what_never_fits_is_refused_and_says_what_it_needs(llm, monkeypatch):
    memory = llm.memory
    monkeypatch.setattr(llm, "memory", replace(memory, budget_bytes=memory.weights_bytes + 10))
    for one in llm.answer(REQUESTS[:1])[0]:
        assert "3 frames, one at a time in the vision tower, need" in one.error
        assert "raise answer.memory_gb" in one.error
    budget = memory.weights_bytes + 16 * memory.frame_work_bytes + 3 * memory.frame_bytes
    monkeypatch.setattr(llm, "memory", replace(memory, budget_bytes=budget, row_bytes=budget))
    for one in llm.answer(REQUESTS[:1])[0]:
        assert "tokens needs" in one.error
        assert "raise answer.memory_gb" in one.error


def full(*_, **__):
    raise torch.OutOfMemoryError("CUDA out of memory")


def test_out_of_memory_halves_the_batch_once(llm, expected, monkeypatch):
    """Passes of many tokens fail, those of half as many do not: nobody notices."""
    decoder = llm.language.decoder
    failed = []

    def strict(**inputs):
        size = inputs["inputs_embeds"].shape[1]
        if inputs["past_key_values"]._parts[0].tree.num_rows and size > 26:
            failed.append(size)
            full()
        return decoder(**inputs)

    monkeypatch.setattr(llm.language, "decoder", strict)
    request = Request(WINDOW, [ASKS[1], ASKS[5]])
    [found] = llm.answer([request])
    assert_same([found], [[expected[0][1], expected[0][5]]])
    assert failed
    assert [one.cost.oom_halvings for one in found] == [len(failed), 0]


def test_out_of_memory_for_good_fails_the_answers_it_concerns(llm, expected, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(llm.language, "show", full)
        for one in llm.answer(REQUESTS[:1])[0]:
            assert "out of memory on a prompt of" in one.error
    with monkeypatch.context() as patch:
        patch.setattr(llm.language, "put", full)
        for one in llm.answer(REQUESTS[:1])[0]:
            assert "questions put at once do not fit in memory, not even in two halves" in one.error
    decoder = llm.language.decoder

    def no_steps(**inputs):
        tree = inputs["past_key_values"]._parts[0].tree
        return full() if tree.num_rows and inputs["inputs_embeds"].shape[1] <= 9 else decoder(**inputs)

    with monkeypatch.context() as patch:
        patch.setattr(llm.language, "decoder", no_steps)
        for one, other in zip(llm.answer(REQUESTS[:1])[0], expected[0], strict=True):
            assert bool(one.error) == bool(other.cost.decode_steps)
            assert ("answers being decoded do not fit in memory" in one.error) == bool(one.error)
    assert_same(llm.answer(REQUESTS), expected)


def test_a_window_whose_frames_do_not_fit_leaves_the_others_alone(llm, expected, monkeypatch):
    get, calls = llm.model.get_image_features, []

    def first_window_full(**inputs):
        calls.append(inputs)
        return full() if len(calls) <= 2 else get(**inputs)

    monkeypatch.setattr(llm.model, "get_image_features", first_window_full)
    first, second, third = llm.answer(REQUESTS)
    assert all("3 frames of 84x84 px do not fit" in one.error for one in first)
    assert [one.cost.oom_halvings for one in first] == [1, 0, 0, 0, 0, 0]
    assert_same([second, third], expected[1:])


def test_windows_without_questions_or_frames(llm):
    blind = WindowView(0.0, 12.0, PTS_S, [], None)
    assert llm.answer([]) == []
    nothing, refused = llm.answer([Request(WINDOW, []), Request(blind, [ask()])])
    assert nothing == []
    assert "shows none of the 0 evidence frames" in refused[0].error


@pytest.mark.parametrize("step", ["reduce", "assemble"])
def test_out_of_memory_between_the_passes_leaves_other_windows_alone(llm, expected, monkeypatch, step):
    real, calls = getattr(llm, step), []

    def first_call_full(*arguments):
        calls.append(arguments)
        return full() if len(calls) == 1 else real(*arguments)

    monkeypatch.setattr(llm, step, first_call_full)
    first, second, third = llm.answer(REQUESTS)
    assert [bool(one.error) for one in first] == [True, True, True, False, False, True]
    assert all("out of memory on 3 frames being compressed" in one.error for one in first if one.error)
    assert_same([second, third], expected[1:])


@pytest.mark.parametrize("call", [1, 3, 5])
def test_out_of_memory_in_the_head_is_tried_again_behind_the_same_rows(llm, expected, monkeypatch, call):
    read, calls = llm.language.read, []

    def one_call_full(*arguments):
        calls.append(arguments)
        return full() if len(calls) == call else read(*arguments)

    monkeypatch.setattr(llm.language, "read", one_call_full)
    assert_same(llm.answer(REQUESTS[:1]), expected[:1])
    assert len(calls) > call


def test_a_prompt_that_the_model_cannot_attend_over_fails_alone(llm, expected, monkeypatch):
    show, calls = llm.language.show, []

    def first_call_refused(*arguments):
        calls.append(arguments)
        if len(calls) == 1:
            raise AnswerError("more than its sliding attention sees")
        return show(*arguments)

    monkeypatch.setattr(llm.language, "show", first_call_refused)
    first, second, _ = llm.answer(REQUESTS)
    assert {one.error for one in first} == {"", "more than its sliding attention sees"}
    assert_same([second], expected[1:2])


def test_a_step_that_never_fits_gives_up_one_tree_after_the_other(llm, monkeypatch):
    decoder = llm.language.decoder

    def few_trees(**inputs):
        parts = inputs["past_key_values"]._parts
        is_step = all(part.tree.num_rows > 0 for part in parts) and inputs["inputs_embeds"].shape[1] < 10
        return full() if is_step and len(parts) > 2 else decoder(**inputs)

    monkeypatch.setattr(llm.language, "decoder", few_trees)
    answers = [
        one for window in llm.answer([Request(window, [ASKS[1]]) for window in WINDOWS * 2]) for one in window
    ]
    errors = [one.error for one in answers if one.error]
    assert 0 < len(errors) < len(answers)
    assert all("answers being decoded do not fit in memory" in error for error in errors)
    good = [one for one in answers if not one.error]
    assert {one.answer for one in good} <= {
        llm.answer([Request(window, [ASKS[1]])])[0][0].answer for window in WINDOWS
    }
