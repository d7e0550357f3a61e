"""The tokenizer: a token a word, a token a frame time, and a prompt in which nothing is unknown."""

import re

import pytest

from actors.models.prompting import label_ids, prompt_ids, prompt_text, question, render
from jobs.world.questions import ask
from jobs.world.scenes import SECONDS, make_scene
from jobs.world.splits import seeds
from jobs.world.words import END, IMAGE, PAD, UNKNOWN, make_tokenizer, vocabulary
from pipeline.queries import Query

TOKENIZER = make_tokenizer()
WORDS = vocabulary()


class InternVl:
    before, after = "<img>", "</img>"


def ids_of(text):
    return prompt_ids(TOKENIZER, render(TOKENIZER, "", text))


def test_every_word_has_one_number():
    assert len(set(WORDS)) == len(WORDS)
    assert len(TOKENIZER) == len(WORDS)
    assert WORDS[:4] == [PAD, END, UNKNOWN, IMAGE]
    assert [TOKENIZER.convert_tokens_to_ids(word) for word in WORDS] == list(range(len(WORDS)))


@pytest.mark.parametrize("part_s", [0.0, 0.5, 0.9])
def test_a_frame_is_its_time_and_its_tokens(part_s):
    times_s = [second + part_s for second in range(SECONDS)]
    ids = ids_of(prompt_text(InternVl, IMAGE, times_s, 2, "when is the moon seen ?"))
    clip = ids[: 3 * SECONDS]
    wanted = [token for second in range(SECONDS) for token in (f"<{second}s>", IMAGE, IMAGE)]
    assert [WORDS[token] for token in clip] == wanted
    assert [WORDS[token] for token in ids[len(clip) :]] == [
        "when",
        "is",
        "the",
        "moon",
        "seen",
        "?",
        "answer",
        ":",
    ]


@pytest.mark.parametrize("held_out", [False, True])
def test_no_word_of_any_prompt_is_unknown(held_out):
    unknown = WORDS.index(UNKNOWN)
    for seed in seeds("dev", 30):
        for one in ask(make_scene(seed), held_out=held_out):
            for kind in ("ask", "choose" if one.choices else "flag"):
                choices = one.choices if kind == "choose" else ()
                text = question(Query("q", one.text, kind, choices))
                ids = ids_of(text)
                assert unknown not in ids, text
                assert len(ids) == len(re.findall(r"\w+|[^\w\s]", f"{text} Answer:"))


@pytest.mark.parametrize("label", ["Yes", "No", "red", "7", "fourth"])
def test_an_answer_is_one_token(label):
    prompt = render(TOKENIZER, "", "what color is the moon ?")
    assert label_ids(TOKENIZER, prompt, label) == [WORDS.index(label.lower())]


def test_a_folder_keeps_the_tokenizer(tmp_path):
    from transformers import AutoTokenizer

    TOKENIZER.save_pretrained(tmp_path)
    read = AutoTokenizer.from_pretrained(tmp_path)
    text = prompt_text(InternVl, IMAGE, [0.0, 31.0], 16, "does a star ever come ?\nAnswer Yes or No.")
    assert prompt_ids(read, render(read, "", text)) == ids_of(text)
    assert (read.pad_token, read.eos_token, read.unk_token) == (PAD, END, UNKNOWN)
