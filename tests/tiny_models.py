"""Small random models of every supported class, built from their configurations and saved like any other model.

A folder holds what a hub repository holds: config.json, model.safetensors, tokenizer, image processor and, for
video language models, processor_config.json and a chat template. Weights are random and always the same.
"""

import json
from pathlib import Path
from typing import Any

import torch
import transformers as T
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from actors.models import video_llm
from pipeline.config import AnswerConfig, CompressConfig

TEXT = """
The quick brown fox jumps over the lazy dog. A person leaves a bag on the platform. Is there a fire? Yes. No.
What colour is the car? red green blue white black Answer with one word. Answer yes or no. <12.0s> <3.5s> 0123456789
A photo of a street, a photo of a dog, an empty room. user assistant system Which of these? one, two or three.
"""
FRAME_PX = 84
"""Side of the frames that video language models are shown where nothing else is said."""
HIDDEN = 64
LANGUAGE: dict[str, Any] = {
    "hidden_size": HIDDEN,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 1024,
}
VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}"
    "{{ c['text'] if c['type'] == 'text' else image }}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SMOL_TEMPLATE = (
    "<|im_start|>{% for m in messages %}{{ m['role'] | capitalize }}:{% for c in m['content'] %}"
    "{{ c['text'] if c['type'] == 'text' else '<image>' }}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)


def tokenizer(special: list[str], **settings: Any) -> T.PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer trained on the text above."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<pad>", "<s>", "</s>", *special],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator([TEXT], trainer)
    if settings.pop("wrap", False):
        bpe.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
        )
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    return T.PreTrainedTokenizerFast(tokenizer_object=bpe, **names, **settings)


def build(kind: str, folder: Path, *, template: bool = True) -> Path:
    """Save a model of one class with all its files, and return the folder.

    Args:
        kind: one of BUILDERS.
        folder: where to; made if missing.
        template: whether a video language model gets its chat template.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, words, images, extra = BUILDERS[kind]()
    model.eval()
    for part in (model, words, images):
        part.save_pretrained(folder)
    chat = extra.pop("chat_template", None)
    if chat and template:
        (folder / "chat_template.jinja").write_text(chat)
    (folder / "processor_config.json").write_text(json.dumps(extra))
    return folder


def answerer(folder: Path, compressor: str = "uniform", **settings: Any) -> video_llm.VideoLlm:
    """Return a video language model as it answers, in float32, in few words; settings of AnswerConfig differ."""
    fixed = {"model": str(folder), "frame_px": FRAME_PX, "max_new_tokens": 6, "dtype": "float32"}
    # so few tokens are thrown away that no frame loses all it has
    compress = CompressConfig(compressor=compressor, prune_ratio=0.25)
    return video_llm.make(AnswerConfig(**{**fixed, **settings}), compress, "cpu")


Parts = tuple[Any, Any, Any, dict[str, Any]]


def _language(words: Any, **changes: Any) -> dict[str, Any]:
    """Return the settings of the text tower; wide initial weights make the logits differ between inputs."""
    ends = {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id, "pad_token_id": 0}
    return {**LANGUAGE, "vocab_size": len(words) + 5, "initializer_range": 0.2, **ends, **changes}


def _internvl() -> Parts:
    words = tokenizer(["<IMG_CONTEXT>", "<img>", "</img>", "<|im_start|>", "<|im_end|>"])
    config = T.InternVLConfig(
        vision_config={**VISION, "image_size": [56, 56], "patch_size": [14, 14], "initializer_range": 0.2},
        text_config={"model_type": "qwen2", **_language(words)},
        image_token_id=words.convert_tokens_to_ids("<IMG_CONTEXT>"),
        downsample_ratio=0.5,
        image_seq_length=4,
    )
    images = T.GotOcr2ImageProcessorPil(size={"height": 56, "width": 56}, crop_to_patches=True)
    extra = {"processor_class": "InternVLProcessor", "image_seq_length": 4}
    return T.InternVLForConditionalGeneration(config), words, images, {**extra, "chat_template": CHATML}


def _smolvlm() -> Parts:
    marks = ["<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>", "<|im_start|>"]
    words = tokenizer(marks)
    config = T.SmolVLMConfig(
        vision_config={**VISION, "image_size": 64, "patch_size": 8, "initializer_range": 0.2},
        text_config={"model_type": "llama", **_language(words)},
        image_token_id=words.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        pad_token_id=0,
    )
    edge = {"longest_edge": 64}
    images = T.SmolVLMImageProcessorPil(size=edge, max_image_size=edge, do_image_splitting=True)
    extra = {"processor_class": "SmolVLMProcessor", "image_seq_len": 16}
    return T.SmolVLMForConditionalGeneration(config), words, images, {**extra, "chat_template": SMOL_TEMPLATE}


_QWEN_MARKS = {
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
}


def _qwen_parts() -> tuple[Any, dict[str, int], dict[str, Any]]:
    words = tokenizer([*_QWEN_MARKS.values(), "<|im_start|>", "<|im_end|>"])
    ids = {name: words.convert_tokens_to_ids(mark) for name, mark in _QWEN_MARKS.items()}
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e6}
    return words, ids, _language(words, rope_parameters=rope)


def _qwen2_5_vl() -> Parts:
    words, ids, text = _qwen_parts()
    config = T.Qwen2_5_VLConfig(
        text_config=text,
        vision_config={
            "depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 4, "out_hidden_size": HIDDEN,
            "fullatt_block_indexes": [1], "window_size": 56, "patch_size": 14, "initializer_range": 0.2,
        },
        **ids,
    )  # fmt: skip
    images = T.Qwen2VLImageProcessorPil(
        patch_size=14, size={"shortest_edge": 28 * 28, "longest_edge": 84 * 84}
    )
    extra = {"processor_class": "Qwen2_5_VLProcessor", "chat_template": CHATML}
    return T.Qwen2_5_VLForConditionalGeneration(config), words, images, extra


def _qwen3_vl() -> Parts:
    words, ids, text = _qwen_parts()
    config = T.Qwen3VLConfig(
        text_config=text,
        vision_config={
            "depth": 3, "hidden_size": 32, "intermediate_size": 64, "num_heads": 4, "out_hidden_size": HIDDEN,
            "deepstack_visual_indexes": [0, 1], "num_position_embeddings": 64, "patch_size": 16,
            "initializer_range": 0.2,
        },
        **ids,
    )  # fmt: skip
    images = T.Qwen2VLImageProcessorPil(
        patch_size=16, size={"shortest_edge": 32 * 32, "longest_edge": 96 * 96}
    )
    extra = {"processor_class": "Qwen3VLProcessor", "chat_template": CHATML}
    return T.Qwen3VLForConditionalGeneration(config), words, images, extra


def _llava_onevision() -> Parts:
    words = tokenizer(["<image>", "<video>", "<|im_start|>", "<|im_end|>"])
    config = T.LlavaOnevisionConfig(
        vision_config={
            "model_type": "siglip_vision_model", **VISION, "image_size": 56, "patch_size": 14,
            "vision_use_head": False,
        },
        text_config={"model_type": "qwen2", **_language(words)},
        image_token_id=words.convert_tokens_to_ids("<image>"),
        video_token_id=words.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=[[56, 56], [112, 112]],
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )  # fmt: skip
    images = T.LlavaOnevisionImageProcessorPil(
        size={"height": 56, "width": 56}, image_grid_pinpoints=[[56, 56], [112, 112]]
    )
    extra = {"processor_class": "LlavaOnevisionProcessor", "num_image_tokens": 16}
    return T.LlavaOnevisionForConditionalGeneration(config), words, images, {**extra, "chat_template": CHATML}


def _clip() -> Parts:
    words = tokenizer([], wrap=True, model_max_length=16)
    text = {
        **VISION,
        "vocab_size": len(words),
        "max_position_embeddings": 16,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    config = T.CLIPConfig(
        text_config={**text, "pad_token_id": 0}, vision_config={**VISION, "image_size": 32, "patch_size": 8},
        projection_dim=24,
    )  # fmt: skip
    images = T.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    return T.CLIPModel(config), words, images, {"processor_class": "CLIPProcessor"}


def _siglip() -> Parts:
    words = tokenizer([], model_max_length=16, model_input_names=["input_ids"])
    text = {**VISION, "vocab_size": len(words), "max_position_embeddings": 16, "projection_size": 32}
    config = T.SiglipConfig(text_config=text, vision_config={**VISION, "image_size": 32, "patch_size": 8})
    images = T.SiglipImageProcessorPil(size={"height": 32, "width": 32})
    model = T.SiglipModel(config)
    # as published: logits = 10 cos - 10 before training, about 118 cos - 16 after
    torch.nn.init.constant_(model.logit_scale, 4.7)
    torch.nn.init.constant_(model.logit_bias, -16.0)
    return model, words, images, {"processor_class": "SiglipProcessor"}


BUILDERS = {
    "internvl": _internvl,
    "smolvlm": _smolvlm,
    "qwen2_5_vl": _qwen2_5_vl,
    "qwen3_vl": _qwen3_vl,
    "llava_onevision": _llava_onevision,
    "clip": _clip,
    "siglip": _siglip,
}
VIDEO_LLMS = ("internvl", "smolvlm", "qwen2_5_vl", "qwen3_vl", "llava_onevision")
