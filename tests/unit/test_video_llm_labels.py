"""How a video language model chooses between labels and ends its text: likelihoods, priors, stop strings."""

import dataclasses
from functools import partial

import pytest
import torch
import transformers

from actors.models.prompting import write_prompt
from tests.tiny_models import answerer, build
from tests.unit.test_video_llm import answer, ask, library_label_logs, prompt_of, show


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build("internvl", tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def load(folder):
    """Return a loader of answerers with some settings."""
    return partial(answerer, folder)


@pytest.fixture(scope="module")
def library(folder):
    """Return transformers' own model: ours has another attention."""
    return transformers.AutoModelForImageTextToText.from_pretrained(folder, dtype="float32").eval()


def test_labels_are_scored_as_the_library_scores_whole_prompts(load, library):
    llm, question = load(), ask("choose", choices=("red", "dark green", "Yes"))
    prompt = prompt_of(llm, question)
    put = llm.question(prompt, question.query)
    assert sorted({len(label) for label in put.labels})[0] < max(len(label) for label in put.labels)
    tree, _ = show(llm, prompt, (4, 4, 4))
    [heard] = llm.language.put(tree, [put])
    expected = library_label_logs(llm, library, prompt, question.query.choices)
    assert (heard.label_logs - expected).abs().max() < 1e-4


def test_a_prior_is_what_the_labels_would_be_without_a_video(load):
    seeing, fair = load(), load(remove_prior=True)
    question = ask("choose", choices=("red", "dark green", "Yes"))
    blind = seeing.question(write_prompt(seeing.parts, (), question.query), question.query)
    [prior] = seeing.language.put(seeing.language.tree(200), [blind])
    tree, _ = show(seeing, prompt_of(seeing, question), (4, 4, 4))
    [heard] = seeing.language.put(tree, [seeing.question(prompt_of(seeing, question), question.query)])
    expected = torch.softmax(heard.label_logs - prior.label_logs, 0)
    assert (expected - torch.softmax(heard.label_logs, 0)).abs().max() > 0.01
    for paid in (blind.num_tokens, 0):
        (found,) = answer(fair, question)
        (without,) = answer(seeing, question)
        assert found.cost.prefill_tokens == without.cost.prefill_tokens + paid
        assert found.answer == question.query.choices[int(expected.argmax())]
        assert found.confidence == pytest.approx(float(expected.max()), abs=1e-5)


def test_free_text_ends_at_a_stop_string(load):
    (whole,) = answer(load(), ask())
    cut = whole.answer[3]
    (stopped,) = answer(load(stop=(cut, "never")), ask())
    assert stopped.answer == whole.answer[: whole.answer.index(cut)].strip()
    assert stopped.cost.decode_steps < whole.cost.decode_steps


def test_a_prior_that_is_not_a_number_fails_the_question(load, monkeypatch):
    llm = load(remove_prior=True)
    put = llm.language.put

    def broken(tree, questions):
        heard = put(tree, questions)
        return (
            heard if tree.next_position else [dataclasses.replace(one, error="not finite") for one in heard]
        )

    monkeypatch.setattr(llm.language, "put", broken)
    for _ in range(2):
        (found,) = answer(llm, ask("flag", text="Is it new?"))
        assert "cannot be found out: not finite" in found.error


def test_a_flag_and_a_choice_of_yes_and_no_have_priors_of_their_own(load):
    llm, alone = load(remove_prior=True), load(remove_prior=True, max_new_tokens=7)
    flag, choose = ask("flag", text="Is it dark?"), ask("choose", text="Is it dark?", choices=("Yes", "No"))
    together = answer(llm, flag, choose)
    (apart,) = answer(alone, choose)
    assert together[1].confidence == pytest.approx(apart.confidence, abs=1e-5)
    assert together[0].confidence != pytest.approx(together[1].confidence, abs=1e-3)
