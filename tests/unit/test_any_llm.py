"""Models of no known family, checked against the library's own processor, forward and generate."""

import importlib.util
import json
import shutil

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from actors.models import Ask, Cost, Request, WindowView, any_llm
from actors.models.prompting import label_ids, labels, question
from actors.models.tables import ANSWERERS, find_answerer
from pipeline.budget import Plan
from pipeline.config import AnswerConfig, CompressConfig
from pipeline.errors import ConfigError, ModelError
from pipeline.frames import Frames, FrameSize
from pipeline.queries import Query
from tests import tiny_models
from tests.tiny_models_any import ANY_LLMS, build

# PaliGemma's processor hands tensors to numpy in a way that numpy 2 warns of
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

FRAME_PX = 84
EVIDENCE = [1, 3, 4]
PTS_S = np.arange(6) * 2.0
PIXELS = np.random.default_rng(0).integers(0, 255, (3, FRAME_PX, FRAME_PX, 3), dtype=np.uint8)
WINDOW = WindowView(0.0, 12.0, PTS_S, EVIDENCE, Frames(PIXELS, PTS_S[EVIDENCE]))
COSTS = {"llava": 16, "gemma3": 4, "llava_next": 88, "paligemma": 16}
CHOICES = ("red", "dark green", "one of the others")
PROMPTS = {
    "llava": "USER: <2.0s><image>\n<8.0s><image>\n{} ASSISTANT:",
    "gemma3": "<s><start_of_turn>user\n<2.0s><start_of_image>\n<8.0s><start_of_image>\n{}<end_of_turn>\n"
    "<start_of_turn>model\n",
    "llava_next": "<2.0s><image>\n<8.0s><image>\n{}\nAnswer:",
    "paligemma": "<2.0s><image>\n<8.0s><image>\n{}\nAnswer:",
}
"""What a question about the first and the last evidence frame looks like."""
BOTH_ENDS = (99, 99, 0, 0, 99, 0)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {kind: build(kind, root / kind) for kind in ANY_LLMS}


@pytest.fixture(scope="module")
def load(folders):
    """Return a loader of answerers that keeps what it loaded."""
    kept = {}

    def get(kind, **settings):
        key = (kind, *settings.items())
        if key not in kept:
            config = AnswerConfig(
                **{"model": str(folders[kind]), "frame_px": FRAME_PX, "max_new_tokens": 4, "dtype": "float32"}
                | settings
            )
            kept[key] = any_llm.make(config, CompressConfig(), "cpu")
        return kept[key]

    return get


def ask(kind="ask", tokens=BOTH_ENDS, text="Is there a fire?", choices=(), query_id="q"):
    query = Query(query_id, text, kind, tuple(choices))
    relevance_N = np.array([0, 0.2, 0.9, 0.8, 0.1, 0], np.float32)
    return Ask(
        query, Plan("global", tuple(tokens), ""), relevance_N, np.zeros((6, len(choices)), np.float32), 0.5
    )


def answer(llm, *asks):
    [found] = llm.answer([Request(WINDOW, asks)])
    return found


def library_inputs(kind, llm, query):
    """Return what the library's own processor makes of a question about both ends."""
    starts = PROMPTS[kind].startswith("<s>")
    inputs = llm.parts.processor(
        text=PROMPTS[kind].format(question(query)),
        images=[Image.fromarray(PIXELS[row]) for row in (0, 2)],
        return_tensors="pt",
        add_special_tokens=not starts,
    )
    inputs.pop("labels", None)
    return inputs


def library_label_logs(kind, llm, inputs, query):
    """Return the labels' mean log-probabilities from one plain forward over prompt and label each."""
    found = []
    for word in labels(query):
        ids = label_ids(llm.tokenizer, llm.tokenizer.decode(inputs["input_ids"][0, -1:]), word)
        added = torch.tensor([ids])
        whole = dict(inputs) | {"input_ids": torch.cat([inputs["input_ids"], added], 1)}
        whole["attention_mask"] = torch.ones_like(whole["input_ids"])
        if "token_type_ids" in inputs:
            # PaliGemma calls a suffix 1, which looks back only; Gemma3 calls all text 0
            types = torch.full_like(added, 1 if kind == "paligemma" else 0)
            whole["token_type_ids"] = torch.cat([inputs["token_type_ids"], types], 1)
        with torch.inference_mode():
            logs_LV = torch.log_softmax(llm.model(**whole).logits[0, -len(ids) - 1 : -1], -1)
        found.append(logs_LV.gather(1, added.T).mean())
    return torch.stack(found)


@pytest.mark.parametrize("kind", ANY_LLMS)
def test_describe_measures_what_a_frame_costs_without_weights(folders, kind, tmp_path):
    folder = shutil.copytree(folders[kind], tmp_path / kind)
    safetensors.torch.save_file({"other": torch.zeros(1)}, folder / "model.safetensors")
    config = AnswerConfig(model=str(folder), frame_px=FRAME_PX)
    assert find_answerer(config) is ANSWERERS["any-llm"]
    facts = find_answerer(config).describe(config)
    fit = "stretch" if kind == "llava_next" else "inside"
    assert (facts.name, facts.tokens_per_frame, facts.cuts_frames) == (str(folder), COSTS[kind], False)
    assert facts.frame_size == FrameSize(FRAME_PX, FRAME_PX, fit)
    with pytest.raises(ModelError, match="weights are not in the files and would be random"):
        any_llm.make(config, CompressConfig(), "cpu")


def test_known_families_and_no_model_go_elsewhere(tmp_path):
    assert find_answerer(AnswerConfig()) is ANSWERERS["relevance"]
    folder = tiny_models.build("internvl", tmp_path / "internvl")
    assert find_answerer(AnswerConfig(model=str(folder))) is ANSWERERS["video-llm"]


@pytest.mark.parametrize("kind", ANY_LLMS)
def test_answers_are_those_of_the_library_itself(load, kind):
    llm, free, choose = load(kind), ask(), ask("choose", choices=CHOICES)
    spoken, chosen = answer(llm, free, choose)
    inputs = library_inputs(kind, llm, free.query)
    out = llm.model.generate(
        **inputs, max_new_tokens=4, do_sample=False, return_dict_in_generate=True, output_scores=True
    )
    logs = llm.model.compute_transition_scores(out.sequences, out.scores, normalize_logits=True)[0]
    new = out.sequences[0, inputs["input_ids"].shape[1] :]
    assert spoken.answer == llm.tokenizer.decode(new, skip_special_tokens=True).strip() != ""
    assert spoken.confidence == pytest.approx(float(logs.mean().exp()), abs=1e-5)
    assert spoken.cost == Cost(2, 1, inputs["input_ids"].shape[1], 3, decode_passes=3)

    inputs = library_inputs(kind, llm, choose.query)
    logs = library_label_logs(kind, llm, inputs, choose.query)
    assert chosen.answer == CHOICES[int(logs.argmax())]
    assert chosen.confidence == pytest.approx(float(torch.softmax(logs, 0).max()), abs=1e-4)
    runs = chosen.cost.prefills
    assert 1 < runs <= len(CHOICES)
    assert chosen.cost.vision_frames == 2 * runs
    assert chosen.cost.prefill_tokens == runs * inputs["input_ids"].shape[1]


def test_a_conversation_in_the_library_s_own_form_is_the_same_prompt(load):
    llm = load("gemma3")
    content = []
    for row, lead in ((0, ""), (2, "\n")):
        time_s = PTS_S[EVIDENCE[row]]
        content += [
            {"type": "text", "text": f"{lead}<{time_s:.1f}s>"},
            {"type": "image", "image": Image.fromarray(PIXELS[row])},
        ]
    content.append({"type": "text", "text": "\nIs there a fire?"})
    theirs = llm.parts.processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    ours = library_inputs("gemma3", llm, ask().query)
    assert theirs["input_ids"].tolist() == ours["input_ids"].tolist()
    out = llm.model.generate(**theirs, max_new_tokens=4)
    new = out.sequences[0, theirs["input_ids"].shape[1] :]
    assert answer(llm, ask())[0].answer == llm.tokenizer.decode(new, skip_special_tokens=True).strip()


def test_answers_depend_on_what_is_seen(load):
    other = WindowView(0.0, 12.0, PTS_S, EVIDENCE, Frames(PIXELS // 4, PTS_S[EVIDENCE]))
    for kind in ANY_LLMS:
        requests = [Request(window, [ask("flag")]) for window in (WINDOW, other)]
        [one], [two] = load(kind).answer(requests)
        assert abs(one.confidence - two.confidence) > 1e-3 or one.answer != two.answer


def test_only_frames_that_fit_whole_are_shown_and_the_plan_holds(load):
    llm = load("llava")
    cut, without, none = answer(
        llm,
        ask("flag", (0, 16, 0, 15, 40, 0)),
        ask("flag", (0, 16, 0, 0, 16, 0)),
        ask("flag", (0, 15, 99, 8, 1, 0)),
    )
    assert [(pts_s, tokens) for pts_s, _, tokens in cut.evidence] == [(2.0, 16), (8.0, 16)]
    assert (cut.tokens_used, cut.tokens_dense, cut.cost) == (32, 96, without.cost)
    assert (cut.answer, cut.confidence) == (without.answer, pytest.approx(without.confidence, abs=1e-6))
    assert cut.cost.prefills == 1
    assert "shows none of the 3 evidence frames whole, at 16 tokens each; raise plan" in none.error
    assert (none.tokens_used, none.cost) == (0, Cost())


def test_flags_that_say_yes_have_spans(load):
    for kind in ANY_LLMS:
        [flag] = answer(load(kind), ask("flag"))
        assert flag.answer in ("yes", "no")
        assert 0.5 <= flag.confidence <= 1
        assert list(flag.spans) == ([(4.0, 8.0, pytest.approx(0.9))] if flag.answer == "yes" else [])


def test_one_bad_question_leaves_the_others_alone(load):
    llm = load("llava")
    good = ask("flag", query_id="good")
    asks = [good, ask("find"), ask(text="What is <image>?"), ask(text="fire " * 1500), good]
    answers = answer(llm, *asks)
    [alone] = answer(llm, good)
    assert answers[0] == answers[4] == alone
    reasons = [
        "",
        "find is answered from relevance",
        "holds '<image>', a mark",
        "context of 1024; lower",
        "",
    ]
    for reason, found in zip(reasons, answers, strict=True):
        assert reason in found.error
        assert bool(found.error) == bool(reason)
    [inner] = answer(load("gemma3"), ask(text="What is <image_soft_token>?"))
    assert (
        "holds '<image_soft_token>', a mark with which this model's prompts are built; take it out"
        in inner.error
    )


def test_silence_broken_logits_and_lack_of_memory_become_errors(load, monkeypatch):
    llm = load("llava")

    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(llm.model.model.vision_tower, "forward", full)
        assert "out of memory on 32 visual tokens; lower" in answer(llm, ask())[0].error
    with monkeypatch.context() as patch:
        patch.setattr(llm.model.lm_head, "forward", lambda hidden: hidden.sum(-1, keepdim=True) * np.nan)
        answers = answer(llm, ask(), ask("flag"))
        assert all("not finite numbers" in found.error for found in answers)
        assert all(found.cost.prefills == 1 for found in answers)

    end = llm.tokenizer.eos_token_id
    only_end = torch.full((llm.model.lm_head.out_features,), -100.0).index_fill(0, torch.tensor([end]), 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(llm.model.lm_head, "forward", lambda hidden: only_end.expand(*hidden.shape[:2], -1))
        assert "returned no text (0 tokens before its end token)" in answer(llm, ask())[0].error
    assert not answer(llm, ask("flag"))[0].error


def test_stop_strings_end_an_answer_and_are_not_part_of_it(load):
    [whole] = answer(load("llava", max_new_tokens=8), ask())
    stop = whole.answer[3]
    [cut] = answer(load("llava", max_new_tokens=8, stop=(stop, "never said")), ask())
    assert cut.answer == whole.answer[: whole.answer.index(stop)].strip()
    assert cut.cost.decode_steps < whole.cost.decode_steps


@pytest.mark.parametrize("kind", ["gemma3", "paligemma"])
def test_a_prior_is_what_is_likely_without_a_video(load, kind):
    llm, choose = load(kind, remove_prior=True), ask("choose", choices=CHOICES)
    first, again = answer(llm, choose, choose)
    seen = library_label_logs(kind, llm, library_inputs(kind, llm, choose.query), choose.query)
    shown = PROMPTS[kind].partition("<2.0s>")[0] + PROMPTS[kind].partition("{}")[2]
    at = len(PROMPTS[kind].partition("<2.0s>")[0])
    text = shown[:at] + question(choose.query) + shown[at:]
    blind = llm.tokenizer([text], return_tensors="pt", add_special_tokens=not text.startswith("<s>"))
    if kind == "paligemma":
        blind["token_type_ids"] = torch.zeros_like(blind["input_ids"])
    unseen = library_label_logs(kind, llm, blind, choose.query)
    share = torch.softmax(seen - unseen, 0)
    assert first.answer == CHOICES[int(share.argmax())]
    assert first.confidence == pytest.approx(float(share.max()), abs=1e-4)
    assert again.confidence == first.confidence
    # the prior is learnt once, and without a frame
    assert first.cost.vision_frames == again.cost.vision_frames
    assert first.cost.prefill_tokens > again.cost.prefill_tokens


def test_bfloat16_answers_stay_near_float32(load):
    [narrow] = answer(load("llava", dtype="bfloat16"), ask("flag"))
    [wide] = answer(load("llava"), ask("flag"))
    assert narrow.confidence == pytest.approx(wide.confidence, abs=0.1)


def test_loading_says_what_such_a_model_does_without(folders, caplog):
    any_llm.make(AnswerConfig(model=str(folders["llava"])), CompressConfig(), "cpu")
    [line] = [record.getMessage() for record in caplog.records if record.name == any_llm.__name__]
    assert line.startswith("model class LlavaForConditionalGeneration is not one of idefics3, internvl, ")
    assert line.endswith("frames are shown whole, no token compression, no shared prefill")


def test_models_that_write_nothing_about_images_are_refused(folders, tmp_path):
    folder = shutil.copytree(folders["llava"], tmp_path / "llava")
    for other, message in {
        "bert": "is a 'bert', which does not write text about images; expected an image-and-text model",
        "clip": "is a 'clip', which does not write text about images",
        "git": "found no image_token_id in the configuration of a 'git'",
    }.items():
        (folder / "config.json").write_text(json.dumps({"model_type": other}))
        config = AnswerConfig(model=str(folder))
        with pytest.raises(ModelError, match=message):
            find_answerer(config).describe(config)


def test_settings_that_would_have_no_effect_are_refused(folders):
    config = AnswerConfig(model=str(folders["llava"]), memory_gb=2.0)
    with pytest.raises(ConfigError, match=r"answer\.memory_gb 2\.0 has no effect on model"):
        any_llm.describe(config)


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is not None, reason="torchvision is installed")
def test_a_processor_that_needs_torchvision_is_refused_with_its_name(tmp_path):
    for kind in ("internvl", "qwen2_5_vl"):
        folder = tiny_models.build(kind, tmp_path / kind)
        with pytest.raises(ModelError, match="its processor needs torchvision, which is not installed here"):
            any_llm.describe(AnswerConfig(model=str(folder)))


def test_models_without_a_usable_processor_are_refused(folders, tmp_path):
    folder = shutil.copytree(folders["llava"], tmp_path / "llava")
    settings = json.loads((folder / "processor_config.json").read_text())
    (folder / "processor_config.json").write_text(
        json.dumps(settings | {"processor_class": "Florence2Processor"})
    )
    with pytest.raises(ModelError, match=r"model '.*': .*processor"):
        any_llm.describe(AnswerConfig(model=str(folder)))
    (folder / "processor_config.json").unlink()
    with pytest.raises(ModelError, match=r"model '.*': .*processor"):
        any_llm.describe(AnswerConfig(model=str(folder)))
