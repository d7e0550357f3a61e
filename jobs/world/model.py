"""The architecture of the world's model: a real transformers class, small enough to be trained on a laptop."""

from typing import Any

from actors.models.packaged import folder_of
from jobs.world.scenes import SIDE
from jobs.world.words import END, IMAGE, PAD, make_tokenizer, vocabulary

PIXELS = 64
"""Side of the picture that the vision tower sees."""
HIDDEN = 128
TOKENS = SIDE * SIDE
"""Visual tokens of a frame: one per cell of the scene."""


def make_config() -> Any:
    """Return the configuration of the InternVL class."""
    from transformers import InternVLConfig

    words = vocabulary()
    text = {
        "model_type": "qwen2", "vocab_size": len(words), "hidden_size": HIDDEN, "intermediate_size": 3 * HIDDEN,
        "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 1024,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        "pad_token_id": words.index(PAD), "eos_token_id": words.index(END), "tie_word_embeddings": True,
    }  # fmt: skip
    vision = {
        "hidden_size": HIDDEN, "intermediate_size": 3 * HIDDEN, "num_hidden_layers": 3, "num_attention_heads": 4,
        "image_size": [PIXELS, PIXELS], "patch_size": [PIXELS // SIDE, PIXELS // SIDE],
        "use_absolute_position_embeddings": True,
    }  # fmt: skip
    return InternVLConfig(
        vision_config=vision, text_config=text, image_token_id=words.index(IMAGE), downsample_ratio=1.0,
        image_seq_length=TOKENS, tie_word_embeddings=True,
    )  # fmt: skip


def make_model(seed: int) -> Any:
    """Return an untrained model."""
    import torch
    from transformers import InternVLForConditionalGeneration

    torch.manual_seed(seed)
    return InternVLForConditionalGeneration(make_config())


def load(name: str) -> Any:
    """Return a model that `save` wrote, by its folder or its name in the package."""
    from transformers import InternVLForConditionalGeneration

    return InternVLForConditionalGeneration.from_pretrained(folder_of(name)).eval()


def save(model: Any, folder: str) -> None:
    """Write a model with everything that loading it by its folder needs."""
    from transformers import GotOcr2ImageProcessorPil

    model.generation_config.eos_token_id = vocabulary().index(END)
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    half = [0.5, 0.5, 0.5]
    GotOcr2ImageProcessorPil(
        crop_to_patches=False, size={"height": PIXELS, "width": PIXELS}, image_mean=half, image_std=half
    ).save_pretrained(folder)
