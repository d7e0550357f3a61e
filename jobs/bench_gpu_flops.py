"""The arithmetic of a video language model, from its sizes: 2 operations per weight and token, and attention."""

from jobs.bench_shapes import Shape, Text


def vision_flops(shape: Shape, num_frames: int) -> int:
    """Return the operations of the vision tower and of what brings its output into the language model."""
    vision, text = shape.vision, shape.text
    patches = (vision.frame_px // vision.patch_px) ** 2
    tokens = patches + (shape.family == "internvl")  # its tower has a token for the whole picture
    cut = 2 * patches * 3 * vision.patch_px**2 * vision.width
    weights = vision.layers * (4 * vision.width**2 + 2 * vision.width * vision.mlp)
    attention = 4 * tokens**2 * vision.width * vision.layers
    bridge = vision.merge**2 * vision.width * text.width + (shape.family == "internvl") * text.width**2
    return num_frames * (cut + 2 * tokens * weights + attention + 2 * shape.tokens_per_frame * bridge)


def decoder_flops(text: Text, num_layers: int, num_tokens: int) -> int:
    """Return the operations of some layers of the language model over one sequence.

    A token attends to those before it: half of the square.
    """
    of_keys = text.width // text.heads * text.kv_heads
    weights = num_layers * (2 * text.width**2 + 2 * text.width * of_keys + 3 * text.width * text.mlp)
    return 2 * num_tokens * weights + 2 * num_tokens**2 * text.width * num_layers


def prefill_flops(shape: Shape, num_tokens: int) -> int:
    """Return the operations of the language model over a prompt, and of the logits behind it."""
    text = shape.text
    return decoder_flops(text, text.layers, num_tokens) + 2 * text.width * text.vocabulary
