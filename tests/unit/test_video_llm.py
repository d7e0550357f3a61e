"""Video language models, checked against transformers' own forward and generate on the same random weights."""

import dataclasses
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers

from actors.models import Ask, WindowView, video_llm
from actors.models.decoding import generate, label_log_likelihoods, rewind, step
from actors.models.prompting import FAMILIES, label_ids, prompt_ids, write_prompt
from pipeline.budget import Plan
from pipeline.compress import TOKEN_COMPRESSORS
from pipeline.config import AnswerConfig, CompressConfig
from pipeline.errors import AnswerError, ConfigError, ModelError
from pipeline.frames import Frames, FrameSize
from pipeline.queries import Query
from pipeline.tokens import take, whole_frames
from tests.tiny_models import VIDEO_LLMS, build

FRAME_PX = 84
EVIDENCE = [1, 3, 4]
PTS_S = np.arange(6) * 2.0
PIXELS = np.random.default_rng(0).integers(0, 255, (3, FRAME_PX, FRAME_PX, 3), dtype=np.uint8)
WINDOW = WindowView(0.0, 12.0, PTS_S, EVIDENCE, Frames(PIXELS, PTS_S[EVIDENCE]))
COSTS = {"internvl": 4, "smolvlm": 16, "qwen2_5_vl": 9, "qwen3_vl": 9, "llava_onevision": 16}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Return the folder of each class; the plain one has no chat template."""
    root = tmp_path_factory.mktemp("models")
    return {kind: build(kind, root / kind, template=kind != "smolvlm") for kind in VIDEO_LLMS}


@pytest.fixture(scope="module")
def load(folders):
    """Return a loader of answerers that keeps what it loaded."""
    kept = {}

    def get(kind, compressor="uniform", **settings):
        key = (kind, compressor, *settings.items())
        if key not in kept:
            config = AnswerConfig(
                **{
                    "model": str(folders[kind]), "frame_px": FRAME_PX, "max_new_tokens": 6, "dtype": "float32",
                    **settings,
                }
            )  # fmt: skip
            kept[key] = video_llm.make(config, CompressConfig(compressor=compressor), "cpu")
        return kept[key]

    return get


def ask(kind="ask", tokens=(0, 99, 0, 99, 99, 0), text="Is there a fire?", choices=(), query_id="q"):
    query = Query(query_id, text, kind, tuple(choices))
    relevance_N = np.array([0, 0.2, 0.9, 0.8, 0.1, 0], np.float32)
    return Ask(
        query, Plan("global", tuple(tokens), ""), relevance_N, np.zeros((6, len(choices)), np.float32), 0.5
    )


def library_inputs(llm, prompt, pixels=PIXELS):
    """Return what transformers' own forward takes for a prompt at full resolution."""
    ids = torch.tensor([prompt.head + prompt.tail])
    family = llm.parts.family
    frames = [list(pixels)] if family.nested else list(pixels)
    inputs = llm.parts.images(frames, return_tensors="pt", **family.options)
    inputs = {name: inputs[name] for name in family.inputs if name in inputs}
    inputs |= {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if llm.axes == 3:
        inputs["mm_token_type_ids"] = (ids == llm.parts.config.image_token_id).int()
    return inputs


def prompt_of(llm, question, rows=(0, 1, 2)):
    return write_prompt(llm.parts, [float(PTS_S[EVIDENCE[row]]) for row in rows], question.query)


def show(llm, prompt, plan_T):
    clip = llm.compress_frames(llm.encode_frames(PIXELS), [0, 1, 2], tuple(enumerate(plan_T)))
    return llm.show(prompt, clip)


@pytest.mark.parametrize("kind", VIDEO_LLMS)
def test_describe_measures_what_a_frame_costs_without_weights(folders, kind, tmp_path):
    folder = tmp_path / kind
    shutil.copytree(folders[kind], folder)
    (folder / "model.safetensors").write_bytes(b"not weights")
    facts = video_llm.describe(AnswerConfig(model=str(folder), frame_px=FRAME_PX))
    fit = "stretch" if kind.startswith("qwen") else "inside"
    assert facts.tokens_per_frame == COSTS[kind]
    assert facts.frame_size == FrameSize(FRAME_PX, FRAME_PX, fit)
    assert facts.name == str(folder)
    assert len(facts.revision) == 12
    original = video_llm.describe(AnswerConfig(model=str(folders[kind]), frame_px=FRAME_PX))
    assert facts.revision != original.revision
    with pytest.raises(ModelError, match="loading its weights failed"):
        video_llm.make(AnswerConfig(model=str(folder)), CompressConfig(), "cpu")


@pytest.mark.parametrize(
    ("kind", "library"),
    [
        ("internvl", "InternVLProcessor"),
        ("smolvlm", "SmolVLMProcessor"),
        ("qwen2_5_vl", "Qwen2_5_VLProcessor"),
        ("qwen3_vl", "Qwen3VLProcessor"),
        ("llava_onevision", "LlavaOnevisionProcessor"),
    ],
)
def test_placeholders_are_those_of_the_library_processor(load, kind, library):
    # the processor itself cannot be built without torchvision; the method that writes a frame needs no more than this
    parts = load(kind).parts
    processed = {
        "num_patches": [1], "rows": [[0]], "cols": [[0]], "batch_num_images": [2],
        "image_grid_thw": torch.tensor([[1, 2 * parts.grid[0], 2 * parts.grid[1]]]),
    }  # fmt: skip
    processor = SimpleNamespace(
        image_token=parts.placeholder, start_image_token="<img>", end_image_token="</img>", image_seq_length=4,
        image_seq_len=16, fake_image_token="<fake_token_around_image>", global_image_token="<global-img>",
        image_processor=parts.images, num_image_tokens=16, vision_feature_select_strategy="full",
    )  # fmt: skip
    written = getattr(transformers, library).replace_image_token(processor, processed, 0)
    family = FAMILIES[kind]
    ours = family.before + parts.placeholder * (parts.tokens_per_frame + family.separators) + family.after
    # Qwen's processors leave the markers around a frame to the chat template
    assert ours == (f"<|vision_start|>{written}<|vision_end|>" if kind.startswith("qwen") else written)


@pytest.mark.parametrize("kind", VIDEO_LLMS)
def test_full_plans_give_the_library_logits_and_text(load, kind):
    llm, question = load(kind, "none"), ask()
    per_frame = llm.parts.tokens_per_frame
    prompt = prompt_of(llm, question)
    shown = show(llm, prompt, (per_frame,) * 3)
    logits_V = step(llm.model, shown.prefix, prompt.tail, llm.axes)
    inputs = library_inputs(llm, prompt)
    with torch.inference_mode():
        expected_V = llm.model(**inputs).logits[0, -1]
        longer = llm.model.generate(**inputs, max_new_tokens=6, do_sample=False)[0]
        blind = library_inputs(llm, prompt, np.zeros_like(PIXELS))
        assert (llm.model(**blind).logits[0, -1] - expected_V).abs().max() > 0.1, "pixels must matter here"
    assert (logits_V - expected_V).abs().max() < 1e-4
    expected = [token for token in longer[inputs["input_ids"].shape[1] :].tolist() if token not in llm.ends]
    ids, confidence = generate(llm.model, shown.prefix, logits_V, llm.ends, 6, llm.axes)
    assert ids == expected
    answer = llm.answer(WINDOW, [question])[0]
    assert answer.answer == llm.parts.tokenizer.decode(expected, skip_special_tokens=True).strip()
    assert answer.confidence == pytest.approx(confidence, abs=1e-6)
    assert (answer.tokens_used, answer.tokens_dense) == (3 * per_frame, 6 * per_frame)


def library_compressed_logits(llm, prompt, kept):
    """Return the last logits of the library's own decoder on a prompt without the dropped placeholders."""
    ids_L = torch.tensor(prompt.head + prompt.tail)
    visual = (ids_L == llm.parts.config.image_token_id).nonzero()[:, 0]
    keep = torch.ones(len(ids_L), dtype=torch.bool)
    keep[visual] = False
    keep[visual[kept.source_N]] = True
    short = ids_L[keep][None]
    embeds = llm.model.get_input_embeddings()(short)
    mask = short == llm.parts.config.image_token_id
    embeds[mask] = kept.values_ND
    extra = {}
    if llm.axes == 3:
        inputs = library_inputs(llm, prompt)
        names = ("input_ids", "mm_token_type_ids", "image_grid_thw")
        positions, _ = llm.model.model.get_rope_index(**{name: inputs[name] for name in names})
        extra["position_ids"] = positions[:, :, keep]
    if layers := llm.encode_frames(PIXELS).layers_NKD:
        extra["visual_pos_masks"] = mask
        extra["deepstack_visual_embeds"] = [layer.flatten(0, 1)[kept.source_N] for layer in layers]
    with torch.inference_mode():
        hidden = llm.model.model.language_model(inputs_embeds=embeds, **extra).last_hidden_state
        return llm.model.lm_head(hidden)[0, -1]


@pytest.mark.parametrize("kind", ["internvl", "qwen2_5_vl", "qwen3_vl"])
@pytest.mark.parametrize("compressor", sorted(set(TOKEN_COMPRESSORS) - {"none"}))
def test_compressed_prompts_are_what_the_library_computes_without_the_dropped_tokens(load, kind, compressor):
    llm, question = load(kind, compressor), ask()
    prompt, plan_T = prompt_of(llm, question), (llm.parts.tokens_per_frame, 2, 1)
    shown = show(llm, prompt, plan_T)
    clip = whole_frames(llm.encode_frames(PIXELS).values_NKD, llm.parts.grid)
    kept = llm.compress(clip, plan_T, prune_ratio=llm.prune_ratio)
    assert sum(shown.clip.tokens_T) == len(kept.source_N) < 3 * llm.parts.tokens_per_frame
    logits_V = step(llm.model, shown.prefix, prompt.tail, llm.axes)
    assert (logits_V - library_compressed_logits(llm, prompt, kept)).abs().max() < 1e-4


@pytest.mark.parametrize("kind", VIDEO_LLMS)
def test_answers_keep_to_their_plan_and_do_not_depend_on_each_other(load, kind):
    llm = load(kind)
    choices = ("red", "dark green", "one of the others")
    asks = [
        ask("flag", (0, 3, 0, 2, 1, 0)),
        ask("choose", (0, 3, 0, 2, 1, 0), "What colour is the car?", choices),
        ask("ask", (9, 0, 0, 2, 0, 9)),
        ask("flag", (0, 99, 0, 99, 99, 0)),
    ]
    together = llm.answer(WINDOW, asks)
    for question, answer in zip(asks, together, strict=True):
        assert not answer.error
        assert 0 <= answer.confidence <= 1
        planned = {
            PTS_S[i]: min(n, COSTS[kind]) for i, n in enumerate(question.plan.tokens_N) if i in EVIDENCE
        }
        assert 0 < answer.tokens_used == sum(tokens for _, _, tokens in answer.evidence)
        assert all(0 < tokens <= planned[pts_s] for pts_s, _, tokens in answer.evidence)
        assert answer.tokens_dense == 6 * COSTS[kind]
        alone = llm.answer(WINDOW, [question])[0]
        assert alone.answer == answer.answer
        assert alone.confidence == pytest.approx(answer.confidence, abs=1e-5)
        assert alone.evidence == answer.evidence
    assert together[1].answer in choices
    for flag in (together[0], together[3]):
        assert flag.answer in ("yes", "no")
        assert flag.confidence >= 0.5
        assert list(flag.spans) == ([(4.0, 8.0, pytest.approx(0.9))] if flag.answer == "yes" else [])


def test_labels_are_scored_as_the_library_scores_whole_prompts(load):
    llm, question = load("internvl"), ask("choose", choices=("red", "dark green"))
    prompt = prompt_of(llm, question)
    shown = show(llm, prompt, (4, 4, 4))
    logits_V = step(llm.model, shown.prefix, prompt.tail, llm.axes)
    tokens = [label_ids(llm.parts.tokenizer, prompt.text, label) for label in question.query.choices]
    assert sorted(len(label) for label in tokens)[0] >= 1 < max(len(label) for label in tokens)
    found = label_log_likelihoods(llm.model, shown.prefix, logits_V, tokens, llm.axes)
    for label, value in zip(tokens, found, strict=True):
        inputs = library_inputs(llm, dataclasses.replace(prompt, tail=prompt.tail + tuple(label)))
        with torch.inference_mode():
            log_LV = torch.log_softmax(llm.model(**inputs).logits[0], -1)
        each = [log_LV[-len(label) - 1 + at, token] for at, token in enumerate(label)]
        assert float(value) == pytest.approx(float(torch.stack(each).mean()), abs=1e-4)
    rewind(shown.prefix)
    assert shown.prefix.cache.get_seq_length() == shown.prefix.num_tokens


def test_frames_stand_behind_their_times_and_special_tokens_are_not_doubled(load):
    llm, question = load("internvl"), ask()
    text = prompt_of(llm, question).text
    frame = "<img><IMG_CONTEXT><IMG_CONTEXT><IMG_CONTEXT><IMG_CONTEXT></img>"
    assert f"<2.0s>{frame}\n<6.0s>{frame}\n<8.0s>{frame}\nIs there a fire?" in text
    assert text.endswith("<|im_start|>assistant\n")
    tokenizer = llm.parts.tokenizer
    assert label_ids(tokenizer, text, "Yes") == tokenizer("Yes", add_special_tokens=False)["input_ids"]
    plain = prompt_of(load("smolvlm"), question).text
    assert plain.endswith("Is there a fire?\nAnswer:")
    assert label_ids(tokenizer, plain, "Yes") == tokenizer(" Yes", add_special_tokens=False)["input_ids"]
    assert prompt_ids(tokenizer, "<s>Yes").count(tokenizer.bos_token_id) == 1


def test_a_lone_frame_is_not_cut_into_tiles(load):
    for kind in VIDEO_LLMS:
        answer = load(kind).answer(WINDOW, [ask("flag", (0, 99, 0, 0, 0, 0))])[0]
        assert not answer.error
        assert answer.tokens_used == COSTS[kind]


@pytest.mark.parametrize("kind", VIDEO_LLMS)
def test_a_frame_that_keeps_no_token_is_not_mentioned(load, kind):
    # no compression shows a frame whole or not at all: two tokens of the second frame are not enough
    mixed, without = load(kind, "none").answer(
        WINDOW, [ask("flag", (0, 99, 0, 2, 99, 0)), ask("flag", (0, 99, 0, 0, 99, 0))]
    )
    assert [pts_s for pts_s, _, _ in mixed.evidence] == [2.0, 8.0]
    assert mixed.confidence == pytest.approx(without.confidence, abs=1e-5)
    assert (mixed.answer, mixed.evidence, mixed.tokens_used) == (
        without.answer,
        without.evidence,
        2 * COSTS[kind],
    )


def test_one_bad_question_leaves_the_others_alone(load):
    llm = load("internvl")
    good = ask("flag", query_id="good")
    asks = [
        good,
        ask("find"),
        ask(tokens=(9, 0, 0, 0, 0, 9)),
        ask(text="What is <IMG_CONTEXT>?"),
        ask(text="fire " * 1500),
        good,
    ]
    answers = llm.answer(WINDOW, asks)
    alone = llm.answer(WINDOW, [good])[0]
    assert (answers[0].answer, answers[5].answer) == (alone.answer, alone.answer)
    reasons = ["", "find is answered from relevance", "shows none of the 3 evidence frames"]
    reasons += ["take the model's own marker '<IMG_CONTEXT>' out", "context of 1024; lower", ""]
    for reason, answer in zip(reasons, answers, strict=True):
        assert reason in answer.error
        assert bool(answer.error) == bool(reason)
    none = load("internvl", "none").answer(WINDOW, [ask("flag", (0, 2, 0, 2, 2, 0))])[0]
    assert "compression left none of the 12 visual tokens of 3 frames, planned 6" in none.error


def test_silence_broken_logits_and_lack_of_memory_become_errors(load, monkeypatch):
    llm = load("qwen2_5_vl", max_new_tokens=4)
    with monkeypatch.context() as patch:
        patch.setattr(llm, "ends", frozenset(range(10_000)))
        assert "returned no text" in llm.answer(WINDOW, [ask()])[0].error

    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(llm, "show", full)
        assert "out of memory on 297 visual tokens; lower" in llm.answer(WINDOW, [ask()])[0].error
    with monkeypatch.context() as patch:
        patch.setattr(llm.model, "get_image_features", full)
        with pytest.raises(AnswerError, match="3 frames of 84x84 px do not fit"):
            llm.answer(WINDOW, [ask()])
    with monkeypatch.context() as patch:
        patch.setattr(llm.model.lm_head, "forward", lambda hidden: hidden * np.nan)
        answers = llm.answer(WINDOW, [ask(), ask("flag")])
        assert all("not finite numbers" in answer.error for answer in answers)
    assert not llm.answer(WINDOW, [ask("flag")])[0].error


def test_another_number_of_tokens_than_described_stops_the_run(load):
    llm = load("internvl")
    parts = dataclasses.replace(llm.parts, grid=(3, 3))
    broken = video_llm.VideoLlm(parts, llm.model, llm.compress, 0.7, 4)
    with pytest.raises(ModelError, match="gave 12 visual tokens, expected 27"):
        broken.answer(WINDOW, [ask()])


def one_too_many(tokens, plan_T, *, prune_ratio):
    """Keep to the plan in the first frame, and one token too many in the others."""
    del prune_ratio
    kept = [planned + (frame > 0) for frame, planned in enumerate(plan_T)]
    return take(tokens, torch.cat([torch.arange(n) + i * tokens.num_per_frame for i, n in enumerate(kept)]))


def test_a_compressor_that_keeps_more_than_planned_stops_the_run(load):
    greedy = load("qwen2_5_vl", f"{__name__}:one_too_many")
    assert greedy.compress is one_too_many
    question = ask("flag", (0, 3, 0, 2, 1, 0))
    message = f"{__name__}:one_too_many kept 3 visual tokens of evidence frame 1, planned 2; it must keep to its plan"
    with pytest.raises(ConfigError, match=message):
        greedy.answer(WINDOW, [question])
    assert not greedy.answer(WINDOW, [ask("flag", (0, 3, 0, 0, 0, 0))])[0].error


def test_bfloat16_answers_stay_near_float32(load):
    narrow = load("qwen3_vl", dtype="bfloat16").answer(WINDOW, [ask("flag")])[0]
    wide = load("qwen3_vl").answer(WINDOW, [ask("flag")])[0]
    assert narrow.answer == wide.answer
    assert narrow.confidence == pytest.approx(wide.confidence, abs=0.1)
