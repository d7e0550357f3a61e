"""Models of published shapes: their sizes, their files, and that a picture goes through them."""

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file

from actors.models.prompting import process_frames, read_parts, write_prompt
from jobs.bench_models import build_shape, count_parameters
from jobs.bench_shapes import SHAPES
from pipeline.config import AnswerConfig
from pipeline.errors import ConfigError
from pipeline.queries import Query

PUBLISHED = {
    "smolvlm-256m": 256.5e6,
    "internvl3-1b": 938e6,
    "internvl3-8b": 7.94e9,
    "qwen2.5-vl-3b": 3.75e9,
}
SMALL = ("tiny", "internvl-30m", "smolvlm-30m", "qwen2_5_vl-30m")
QUERY = Query("q", "Is there a person in the picture?", "flag", ())


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("shapes")
    return {name: build_shape(name, root / name, "float32") for name in SMALL}


def parts_of(folder, frame_px):
    return read_parts(AnswerConfig(model=str(folder), frame_px=frame_px), weights=True)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_shapes_have_the_published_number_of_weights(name):
    assert count_parameters(name) == pytest.approx(PUBLISHED[name], rel=0.01)


def test_three_classes_come_in_three_sizes_each():
    for family in ("internvl", "smolvlm", "qwen2_5_vl"):
        for millions in (30, 120, 350):
            name = f"{family}-{millions}m"
            assert SHAPES[name].family == family
            assert count_parameters(name) == pytest.approx(millions * 1e6, rel=0.05)


def test_published_shapes_cost_the_published_tokens_per_frame():
    assert SHAPES["smolvlm-256m"].tokens_per_frame == 64
    assert SHAPES["internvl3-1b"].tokens_per_frame == SHAPES["internvl3-8b"].tokens_per_frame == 256


@pytest.mark.parametrize("name", SMALL)
def test_a_folder_holds_all_that_a_model_needs(name, folders):
    shape = SHAPES[name]
    parts = parts_of(folders[name], shape.vision.frame_px)
    assert parts.tokens_per_frame == shape.tokens_per_frame
    assert len(parts.tokenizer) == shape.text.vocabulary
    prompt = write_prompt(parts, [0.0, 1.0], QUERY)
    assert prompt.head.count(parts.config.image_token_id) == 2 * shape.tokens_per_frame
    assert len(prompt.tail) < 35, "everyday English must not fall apart into letters"
    weights = load_file(folders[name] / "model.safetensors")
    assert sum(values.numel() for values in weights.values()) == count_parameters(name)


@pytest.mark.parametrize("name", SMALL)
def test_frames_and_question_go_through_and_different_frames_answer_differently(name, folders):
    px = SHAPES[name].vision.frame_px
    parts = parts_of(folders[name], px)
    model, info = transformers.AutoModelForImageTextToText.from_pretrained(
        folders[name], output_loading_info=True
    )
    assert not info["missing_keys"]
    prompt = write_prompt(parts, [0.0], QUERY)
    ids = torch.tensor([prompt.head + prompt.tail])

    def logits(seed):
        frames = np.random.default_rng(seed).integers(0, 255, (1, px, px, 3), dtype=np.uint8)
        pixels = process_frames(parts.family, parts.images, frames)
        kinds = {"mm_token_type_ids": (ids == parts.config.image_token_id).int()}
        kinds = kinds if name.startswith("qwen") else {}
        with torch.inference_mode():
            return model(input_ids=ids, **pixels, **kinds).logits[0, -1]

    one, other = logits(1), logits(2)
    assert one.isfinite().all()
    assert 0.1 < one.std() < 10
    assert (one - other).abs().max() > 0.01


def test_weights_follow_from_the_seed_and_have_the_format_asked_for(folders, tmp_path):
    first = load_file(folders["tiny"] / "model.safetensors")
    again = load_file(build_shape("tiny", tmp_path / "again", "float32") / "model.safetensors")
    other = load_file(build_shape("tiny", tmp_path / "other", seed=1) / "model.safetensors")
    assert all(torch.equal(first[name], again[name]) for name in first)
    name = "language_model.model.embed_tokens.weight"
    assert first[name].dtype == torch.float32
    assert other[name].dtype == torch.bfloat16
    assert not torch.equal(first[name].bfloat16(), other[name])


def test_unknown_shapes_and_language_models_of_other_sizes_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="shape 'huge' is not known; expected one of tiny, smolvlm-256m"):
        build_shape("huge", tmp_path)
    config = transformers.LlamaConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, vocab_size=64
    )
    language = tmp_path / "language"
    transformers.LlamaForCausalLM(config).save_pretrained(language)
    with pytest.raises(
        ConfigError, match=r"is \('llama', 64, 2, 4, 2\), which does not fit into the shape 'smolvlm-256m'"
    ):
        build_shape("smolvlm-256m", tmp_path / "model", language=language)
