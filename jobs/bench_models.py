"""Video language models of published shapes with random weights, for measuring speed and memory and nothing else.

How long an answer takes and what it occupies follow from a model's class, sizes and number format, not from what its
weights have learnt. So a folder from here has everything that a hub repository has (configuration, safetensors,
tokenizer, image processor, chat template) and takes every path that a trained model takes. Its answers mean nothing,
and it must never be presented as an answerer.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from actors.device import pick_dtype
from actors.models import Device
from actors.models.loading import mend_torchvision
from jobs.bench_shapes import SHAPES, Shape, Text, Vision, find_shape
from pipeline.errors import ConfigError

LEARNT_TOKENS = 8192
"""Tokens at most that a tokenizer learns; the rest of a published vocabulary is words that no text is cut into."""
_PROMPTS = """ user assistant system You are a helpful assistant. Is there a person in the picture? Answer Yes or No.
 Answer with one of these: red, green, blue, white, black. What does the car do? How many people are in the video?"""


def _chatml(system: str, image: str) -> str:
    """Return a chat template of turns between <|im_start|> and <|im_end|>; an empty system message is left out."""
    return (
        (f"<|im_start|>system\n{system}<|im_end|>\n" if system else "")
        + "{% for turn in messages %}<|im_start|>{{ turn['role'] }}\n{% for part in turn['content'] %}"
        + "{% if part['type'] == 'text' %}{{ part['text'] }}{% else %}" + image + "{% endif %}"
        + "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )  # fmt: skip


_SMOLVLM_TEMPLATE = (
    "<|im_start|>{% for turn in messages %}{{ turn['role'] | capitalize }}: {% for part in turn['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% else %}<image>{% endif %}{% endfor %}<end_of_utterance>\n"
    "{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
_SMOLLM2_TEMPLATE = _chatml("You are a helpful AI assistant named SmolLM, trained by Hugging Face", "<image>")
"""The turns SmolLM2 was trained on, its system message included."""


def _internvl_config(
    shape: Shape, vision: dict[str, Any], text: dict[str, Any], ids: Mapping[str, int]
) -> Any:
    """Return the configuration; `vision` and `text` are the settings that all families call the same."""
    side, patch = [shape.vision.frame_px] * 2, [shape.vision.patch_px] * 2
    return _transformers().InternVLConfig(
        vision_config={**vision, "image_size": side, "patch_size": patch, "attention_bias": True},
        text_config={"model_type": "qwen2", **text},
        image_token_id=ids["<IMG_CONTEXT>"],
        downsample_ratio=1 / shape.vision.merge,
        image_seq_length=shape.tokens_per_frame,
        tie_word_embeddings=shape.text.tied,
    )


def _smolvlm_config(
    shape: Shape, vision: dict[str, Any], text: dict[str, Any], ids: Mapping[str, int]
) -> Any:
    sizes = {"image_size": shape.vision.frame_px, "patch_size": shape.vision.patch_px}
    positions = {
        "max_position_embeddings": 8192,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e5},
    }
    return _transformers().SmolVLMConfig(
        vision_config={**vision, **sizes},
        text_config={"model_type": "llama", **text, **positions},
        image_token_id=ids["<image>"],
        scale_factor=shape.vision.merge,
        pad_token_id=text["pad_token_id"],
        tie_word_embeddings=shape.text.tied,
    )


def _qwen2_5_vl_config(
    shape: Shape, vision: dict[str, Any], text: dict[str, Any], ids: Mapping[str, int]
) -> Any:
    layers = shape.vision.layers
    half = shape.text.width // shape.text.heads // 2
    sections = [half // 4, half * 3 // 8, half * 3 // 8]  # of 128 a head: 16, 24, 24 as published
    rope = {**text["rope_parameters"], "mrope_section": sections}
    return _transformers().Qwen2_5_VLConfig(
        vision_config={
            "hidden_size": vision["hidden_size"],
            "intermediate_size": vision["intermediate_size"],
            "depth": layers,
            "num_heads": shape.vision.heads,
            "out_hidden_size": shape.text.width,
            "patch_size": shape.vision.patch_px,
            "spatial_merge_size": shape.vision.merge,
            "window_size": 8 * shape.vision.patch_px,
            "fullatt_block_indexes": list(range(max(1, layers // 4) - 1, layers, max(1, layers // 4))),
        },
        text_config={**text, "max_position_embeddings": 128000, "rope_parameters": rope},
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=shape.text.tied,
    )


@dataclass(frozen=True, slots=True)
class Family:
    """What the shapes of one class have in common."""

    model: str
    """Name of transformers' class."""
    processor: str
    """Name of transformers' combined processor, as processor_config.json gives it."""
    marks: tuple[str, ...]
    """Special tokens beside those of every family."""
    end: str
    """The special token that ends an answer."""
    template: str
    config: Callable[[Shape, dict[str, Any], dict[str, Any], Mapping[str, int]], Any]
    images: Callable[[int], Any]
    """Side of a frame in pixels -> image processor, with the published settings."""


def _internvl_images(px: int) -> Any:
    size = {"height": px, "width": px}
    return _transformers().GotOcr2ImageProcessorPil(size=size, crop_to_patches=True)


def _smolvlm_images(px: int) -> Any:
    # as published, a picture is first brought to four times the side, from which tiles would be cut
    sides = {"size": {"longest_edge": 4 * px}, "max_image_size": {"longest_edge": px}}
    return _transformers().SmolVLMImageProcessorPil(**sides, do_image_splitting=True)


def _qwen_images(px: int) -> Any:
    del px  # frames keep their size
    pixels = {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 1280}
    return _transformers().Qwen2VLImageProcessorPil(patch_size=14, size=pixels)


_COMMON_MARKS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_SMOL_MARKS = ("<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>")
_QWEN_MARKS = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
FAMILIES: dict[str, Family] = {
    "internvl": Family(
        "InternVLForConditionalGeneration", "InternVLProcessor", ("<IMG_CONTEXT>", "<img>", "</img>"),
        "<|im_end|>", _chatml("", "<IMG_CONTEXT>"), _internvl_config, _internvl_images,
    ),
    "smolvlm": Family(
        "SmolVLMForConditionalGeneration", "SmolVLMProcessor", _SMOL_MARKS,
        "<end_of_utterance>", _SMOLVLM_TEMPLATE, _smolvlm_config, _smolvlm_images,
    ),
    "qwen2_5_vl": Family(
        "Qwen2_5_VLForConditionalGeneration", "Qwen2_5_VLProcessor", _QWEN_MARKS, "<|im_end|>",
        _chatml("You are a helpful assistant.", "<|vision_start|><|image_pad|><|vision_end|>"),
        _qwen2_5_vl_config, _qwen_images,
    ),
}  # fmt: skip


def build_shape(
    name: str,
    folder: Path,
    dtype: str = "bfloat16",
    seed: int = 0,
    *,
    device: Device = "cpu",
    language: Path | None = None,
) -> Path:
    """Save a model of a published shape in the Hugging Face layout and return its folder.

    The weights are drawn anew each time, the same for the same seed and kind of device; nothing but the number of
    parameters and the disk decides how long it takes, so a large model is best drawn on a GPU.

    Args:
        name: one of SHAPES.
        folder: where to; made if missing.
        dtype: number format of the weights, `pick_dtype` knows the names.
        seed: of the random weights.
        device: where the weights are drawn; must have room for all of them.
        language: folder from `smollm2.language_model`: its weights, tokenizer and turns of conversation take the
            place of the random language model, so that texts are cut and answers end as in real use. The vision
            tower stays random: the model is blind, and still no answerer.

    Raises:
        ConfigError: no such shape, or the language model has other sizes.
    """
    import torch

    shape = find_shape(name)
    family = FAMILIES[shape.family]
    if language:
        _check_language(name, language)
    tokenizer = _read_tokenizer(language, family) if language else _train_tokenizer(shape, family)
    model = _blank_model(shape, tokenizer).to(pick_dtype(dtype, device)).to_empty(device=device)
    model.tie_weights()
    with torch.no_grad():
        _draw(model, torch.Generator(device).manual_seed(seed))
        if language:
            _put_language(model, language)
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    family.images(shape.vision.frame_px).save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(_SMOLLM2_TEMPLATE if language else family.template)
    (folder / "processor_config.json").write_text(json.dumps({"processor_class": family.processor}))
    return folder


def count_parameters(name: str) -> int:
    """Return the number of weights of a shape, without making any of them.

    Raises:
        ConfigError: no such shape.
    """
    return sum(weight.numel() for weight in _blank_model(find_shape(name), None).parameters())


def _transformers() -> Any:
    """Return the library, which a torchvision that does not load would keep from being imported."""
    mend_torchvision()
    import transformers

    return transformers


def _tower(sizes: Vision | Text) -> dict[str, Any]:
    """Return the settings that towers of every kind have."""
    return {
        "hidden_size": sizes.width,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "intermediate_size": sizes.mlp,
    }


def _blank_model(shape: Shape, tokenizer: Any) -> Any:
    """Return the model without memory for its weights; without a tokenizer its special tokens are all token 0."""
    import torch

    family = FAMILIES[shape.family]
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    vision = _tower(shape.vision)
    text = {
        **_tower(shape.text),
        "num_key_value_heads": shape.text.kv_heads,
        "head_dim": shape.text.width // shape.text.heads,
        "vocab_size": shape.text.vocabulary,
        "max_position_embeddings": 32768,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        "tie_word_embeddings": shape.text.tied,
        **{name: getattr(tokenizer, name) if tokenizer else 0 for name in names},
    }
    ids = {mark: tokenizer.convert_tokens_to_ids(mark) if tokenizer else 0 for mark in family.marks}
    config = family.config(shape, vision, text, ids)
    with torch.device("meta"):
        return getattr(_transformers(), family.model)(config)


def _draw(model: Any, generator: Any) -> None:
    """Fill in the weights: matrices such that what goes through them keeps its size, norms that change nothing."""
    for name, weight in model.named_parameters():
        if weight.ndim > 1:
            weight.normal_(0, prod(weight.shape[1:]) ** -0.5, generator=generator)
        else:
            weight.fill_(0.0 if name.endswith("bias") else 1.0)


def _train_tokenizer(shape: Shape, family: Family) -> Any:
    """Return a byte-level tokenizer of the full vocabulary, trained on the English that comes with Python.

    Common words and those of questions are one token, as in a published one. What is above LEARNT_TOKENS are tokens
    that a model can write but no text is cut into.
    """
    from pydoc_data.topics import topics

    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=min(LEARNT_TOKENS, shape.text.vocabulary),
        special_tokens=[*_COMMON_MARKS, *family.marks],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator([*topics.values(), *[_PROMPTS] * 500], trainer)
    state = json.loads(bpe.to_str())
    learnt = state["model"]["vocab"]
    learnt.update({f"Ġw{token}": token for token in range(len(learnt), shape.text.vocabulary)})
    return _transformers().PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)),
        bos_token="<|im_start|>" if shape.family == "smolvlm" else None,
        eos_token=family.end,
        pad_token="<|endoftext|>",
    )


def _read_tokenizer(language: Path, family: Family) -> Any:
    """Return the language model's tokenizer with the family's marks."""
    tokenizer = _transformers().AutoTokenizer.from_pretrained(language)
    tokenizer.add_special_tokens({"additional_special_tokens": list(family.marks)})
    tokenizer.chat_template = None  # it knows no pictures
    return tokenizer


def _check_language(name: str, language: Path) -> None:
    """Refuse a language model that is not the one inside the shape.

    Raises:
        ConfigError: its class or its sizes are others.
    """
    shape = SHAPES[name]
    config = json.loads((language / "config.json").read_text())
    sizes = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    found = (config["model_type"], *(config[size] for size in sizes))
    text = shape.text
    expected = ("llama", text.width, text.layers, text.heads, text.kv_heads)
    if shape.family != "smolvlm" or found != expected:
        msg = (
            f"language model {language} is {found}, which does not fit into the shape {name!r}, a {shape.family} with"
            f" {expected[1:]} (width, layers, heads, heads of keys); SmolLM2-135M fits into 'smolvlm-256m'"
        )
        raise ConfigError(msg)


def _put_language(model: Any, language: Path) -> None:
    """Copy a language model's weights into the model; tokens it does not have get the mean of those it has."""
    from safetensors.torch import load_file

    weights = load_file(language / "model.safetensors")
    for name, values in weights.items():
        model.get_parameter(name.replace("model.", "model.text_model.", 1))[: len(values)] = values
    embedding = model.get_input_embeddings().weight
    known = len(weights["model.embed_tokens.weight"])
    embedding[known:] = embedding[:known].float().mean(0)
    # published with an output matrix of its own, which costs memory; here it holds the same numbers
    model.get_output_embeddings().weight.copy_(embedding)
