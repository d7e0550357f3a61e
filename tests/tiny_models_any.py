"""Small random models of classes that are no known family, saved with their own processors; see tiny_models.py.

llava: its chat template gathers the images in front of the text. gemma3: template and tokenizer both put the start
token in front, its prompts mark an image by another token than they hold for it, and its images attend in both
directions. llava_next: no template; a wide frame costs other than a square one. paligemma: its processor refuses
prompts without images, and its prompts attend in both directions.
"""

from pathlib import Path
from typing import Any

import torch
import transformers as T
from tokenizers import processors

from tests.tiny_models import HIDDEN, VISION, _language, tokenizer

LLAVA_TEMPLATE = (
    "{% for m in messages %}{{ m['role'] | upper }}: "
    "{% for c in m['content'] if c['type'] == 'image' %}<image>\n{% endfor %}"
    "{% for c in m['content'] if c['type'] == 'text' %}{{ c['text'] }}{% endfor %} {% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
GEMMA_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ m['role'] }}\n{% for c in m['content'] %}"
    "{{ c['text'] if c['type'] == 'text' else '<start_of_image>' }}{% endfor %}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
CLIP_TOWER: dict[str, Any] = {"model_type": "clip_vision_model", **VISION, "image_size": 56, "patch_size": 14}
SIGLIP_TOWER: dict[str, Any] = {
    "model_type": "siglip_vision_model", **VISION, "image_size": 56, "patch_size": 14, "vision_use_head": False,
    "projection_dim": HIDDEN,
}  # fmt: skip
CLIP_SIZE: dict[str, Any] = {"size": {"shortest_edge": 56}, "crop_size": {"height": 56, "width": 56}}

Parts = tuple[Any, Any]


def build(kind: str, folder: Path) -> Path:
    """Save a model of one class of BUILDERS with its processor, and return the folder."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, processor = BUILDERS[kind]()
        # narrow or zero at first: wider ones make an answer depend on what is seen
        for name, weight in model.named_parameters():
            if weight.ndim > 1 and ("vision" in name or "projector" in name):
                torch.nn.init.normal_(weight, std=0.2)
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _words(**marks: str) -> Any:
    return tokenizer(list(marks.values()), extra_special_tokens=marks)


def _llava() -> Parts:
    words = _words(image_token="<image>")
    config = T.LlavaConfig(
        vision_config=CLIP_TOWER,
        text_config={"model_type": "llama", **_language(words)},
        image_token_id=words.image_token_id,
        vision_feature_layer=-1,
    )
    processor = T.LlavaProcessor(
        T.CLIPImageProcessorPil(**CLIP_SIZE),
        words,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=LLAVA_TEMPLATE,
    )
    return T.LlavaForConditionalGeneration(config), processor


def _llava_next() -> Parts:
    words = _words(image_token="<image>")
    pinpoints = [[56, 112], [112, 56], [112, 112]]
    config = T.LlavaNextConfig(
        vision_config=CLIP_TOWER,
        text_config={"model_type": "llama", **_language(words)},
        image_token_id=words.image_token_id,
        vision_feature_layer=-1,
        image_grid_pinpoints=pinpoints,
    )
    processor = T.LlavaNextProcessor(
        T.LlavaNextImageProcessorPil(**CLIP_SIZE, image_grid_pinpoints=pinpoints),
        words,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    return T.LlavaNextForConditionalGeneration(config), processor


def _gemma3() -> Parts:
    words = _words(image_token="<image_soft_token>", boi_token="<start_of_image>", eoi_token="<end_of_image>")
    words.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", words.bos_token_id)]
    )
    config = T.Gemma3Config(
        vision_config=SIGLIP_TOWER,
        text_config={**_language(words), "sliding_window": 32, "query_pre_attn_scalar": 16},
        mm_tokens_per_image=4,
        tie_word_embeddings=False,
        image_token_index=words.image_token_id,
        boi_token_index=words.boi_token_id,
        eoi_token_index=words.eoi_token_id,
    )
    images = T.Gemma3ImageProcessorPil(size={"height": 56, "width": 56})
    processor = T.Gemma3Processor(images, words, image_seq_length=4, chat_template=GEMMA_TEMPLATE)
    return T.Gemma3ForConditionalGeneration(config), processor


def _paligemma() -> Parts:
    words = _words(image_token="<image>")
    config = T.PaliGemmaConfig(
        vision_config=SIGLIP_TOWER,
        text_config={"model_type": "gemma", **_language(words)},
        image_token_index=words.image_token_id,
        projection_dim=HIDDEN,
        tie_word_embeddings=False,
    )
    images = T.SiglipImageProcessorPil(size={"height": 56, "width": 56})
    images.image_seq_length = 16
    return T.PaliGemmaForConditionalGeneration(config), T.PaliGemmaProcessor(images, words)


BUILDERS = {"llava": _llava, "gemma3": _gemma3, "llava_next": _llava_next, "paligemma": _paligemma}
ANY_LLMS = tuple(BUILDERS)
