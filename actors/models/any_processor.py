"""What the driver reads of a model of no known family: its own processor, how to prompt it, what a frame costs.

Nothing is known of such a model beforehand: everything is measured, by running its processor on blank frames.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from PIL import Image

from actors.device import load_error
from actors.models.families import FAMILIES
from actors.models.loading import ModelFiles, fetch, mend_torchvision, read_config
from actors.models.prompting import render
from pipeline.config import AnswerConfig
from pipeline.errors import ConfigError, ModelError
from pipeline.frames import FrameSize

WritePrompt = Callable[[Sequence[float], str], str]
"""(times of the frames in s, question) -> prompt with one image marker per frame."""

NO_EFFECT: dict[str, Any] = {"memory_gb": 0.0}
"""Settings of the known families' engine, with the one value that asks nothing of this one."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What the driver reads too: everything of a model but its weights."""

    files: ModelFiles
    config: Any
    processor: Any
    write: WritePrompt
    marker: str
    """The text of one image in a prompt, before the processor puts its tokens there."""
    frame_size: FrameSize
    tokens_per_frame: int


def read_parts(config: AnswerConfig, *, weights: bool) -> Parts:
    """Return everything of a model but its weights, which are only fetched, and only on demand.

    Raises:
        ModelError: see loading.py; no image-and-text model, or one whose processor cannot be had or used.
        ConfigError: a setting that has no effect on such a model is not at its default.
    """
    files = fetch(config.model, config.revision, weights=weights)
    model_config = read_config(files)
    _check_class(files, model_config)
    for name, default in NO_EFFECT.items():
        if getattr(config, name) != default:
            msg = (
                f"answer.{name} {getattr(config, name)!r} has no effect on model {files.name!r}, a"
                f" {model_config.model_type!r}; leave it at {default!r}, or take a model of a known family"
                f" ({', '.join(sorted(FAMILIES))})"
            )
            raise ConfigError(msg)
    processor = _read_processor(files)
    marker: str = getattr(processor, "image_token", None) or processor.tokenizer.convert_ids_to_tokens(
        model_config.image_token_id
    )
    write = _pick_writer(files, processor, marker)
    frame_size, tokens_per_frame = _measure_frame(files, model_config, processor, write, config.frame_px)
    return Parts(files, model_config, processor, write, marker, frame_size, tokens_per_frame)


def _check_class(files: ModelFiles, config: Any) -> None:
    """Refuse a model that does not take images and return text, or does not say where images go in a prompt."""
    from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    expected = "expected an image-and-text model (of transformers' AutoModelForImageTextToText)"
    if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        msg = f"model {files.name!r} is a {config.model_type!r}, which does not write text about images; {expected}"
        raise ModelError(msg)
    if getattr(config, "image_token_id", None) is None:
        msg = (
            f"model {files.name!r}: found no image_token_id in the configuration of a {config.model_type!r};"
            f" {expected} whose prompts hold a token for each part of an image: its cost cannot be told otherwise"
        )
        raise ModelError(msg)


def _read_processor(files: ModelFiles) -> Any:
    """Return the model's own processor, with the PIL image processor for the same pixels on every machine."""
    mend_torchvision()
    from transformers import AutoImageProcessor, AutoProcessor

    try:
        processor = AutoProcessor.from_pretrained(files.folder, trust_remote_code=False)
        pictures = AutoImageProcessor.from_pretrained(files.folder, trust_remote_code=False, backend="pil")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        if "torchvision" in str(error).lower():
            msg = (
                f"model {files.name!r}: its processor needs torchvision, which is not installed here; install the"
                " torchvision that belongs to the installed torch, or take a model of a known family"
                f" ({', '.join(sorted(FAMILIES))}), which need none"
            )
            raise ModelError(msg) from error
        raise load_error(files.name, "reading its processor", error) from error
    if not (hasattr(processor, "image_processor") and hasattr(processor, "tokenizer")):
        msg = (
            f"model {files.name!r}: found {type(processor).__name__} for a processor, expected one that takes text and"
            " images; add the model's processor_config.json"
        )
        raise ModelError(msg)
    processor.image_processor = pictures
    return processor


def _write_items(processor: Any, template: str, times_s: Sequence[float], asked: str) -> str:
    """Return the prompt with frames as items of the chat template, each behind the text of its time."""
    content: list[dict[str, str]] = []
    for time_s in times_s:
        lead = "\n" if content else ""
        content += [{"type": "text", "text": f"{lead}<{time_s:.1f}s>"}, {"type": "image"}]
    content.append({"type": "text", "text": f"\n{asked}" if content else asked})
    return processor.apply_chat_template(
        [{"role": "user", "content": content}],
        chat_template=template,
        tokenize=False,
        add_generation_prompt=True,
    )


def _write_inline(processor: Any, template: str, marker: str, times_s: Sequence[float], asked: str) -> str:
    """Return the prompt with frames as markers inside the text; without a template as plain text."""
    shown = "".join(f"<{time_s:.1f}s>{marker}\n" for time_s in times_s)
    return render(processor.tokenizer, template, shown + asked)


def _pick_writer(files: ModelFiles, processor: Any, marker: str) -> WritePrompt:
    """Return the first way of writing a prompt that leaves every frame behind its time and the question as it is.

    Templates that gather all images in front, or that take text alone, are given the markers inside the text.

    Raises:
        ModelError: there is none.
    """
    import jinja2

    chat: Any = getattr(processor, "chat_template", None) or processor.tokenizer.chat_template or ""
    template: str = chat.get("default", "") if isinstance(chat, dict) else chat
    writers: list[WritePrompt] = [partial(_write_inline, processor, "", marker)]
    if template:
        writers.insert(0, partial(_write_inline, processor, template, marker))
        writers.insert(0, partial(_write_items, processor, template))
    times_s, asked = (1.0, 2.0), "Which?\nOne."
    order = ".*".join(re.escape(part) for part in ("<1.0s>", marker, "<2.0s>", marker, asked))
    for write in writers:
        try:
            prompt = write(times_s, asked)
        except (jinja2.TemplateError, TypeError, ValueError, KeyError):
            continue
        if prompt.count(marker) == len(times_s) and re.search(order, prompt, re.DOTALL):
            return write
    msg = (
        f"model {files.name!r}: no prompt of two frames holds its image marker {marker!r} twice; expected a processor"
        " with one marker per image"
    )
    raise ModelError(msg)


def process(processor: Any, prompt: str, frames: Sequence[Image.Image]) -> dict[str, Any]:
    """Return the model's inputs for one prompt and its frames, special tokens once; without frames, of text alone.

    Raises:
        ValueError: the processor refuses them.
    """
    bos = processor.tokenizer.bos_token
    options = {"return_tensors": "pt", "add_special_tokens": bos is None or not prompt.startswith(bos)}
    if not frames:
        # some processors refuse text without images
        return dict(processor.tokenizer([prompt], **options))
    inputs = dict(processor(text=[prompt], images=[list(frames)], **options))
    inputs.pop("labels", None)  # PaliGemma's, for training
    return inputs


def _measure_frame(
    files: ModelFiles, config: Any, processor: Any, write: WritePrompt, frame_px: int
) -> tuple[FrameSize, int]:
    """Return the size to decode frames at and the image tokens that a second blank frame adds to a prompt.

    As in prompting.py: frames keep their shape where it does not change what they cost, else they are stretched.

    Raises:
        ModelError: the processor takes no two images, or shows nothing of them in the prompt.
    """

    def tokens(width_px: int, height_px: int) -> int:
        blank = Image.new("RGB", (max(1, width_px), max(1, height_px)))
        one, two = (
            process(processor, write(times_s, "Which?"), [blank] * len(times_s))["input_ids"]
            for times_s in ((1.0,), (1.0, 2.0))
        )
        return int((two == config.image_token_id).sum()) - int((one == config.image_token_id).sum())

    expected = f"{type(processor).__name__}, expected one that shows several images in one prompt"
    try:
        square = tokens(frame_px, frame_px)
        inside = tokens(frame_px, frame_px // 2) == square == tokens(frame_px // 2, frame_px)
    except (ValueError, TypeError, IndexError, StopIteration) as error:
        msg = f"model {files.name!r}: two frames of {frame_px} px were refused ({error}) by its processor {expected}"
        raise ModelError(msg) from error
    if square < 1:
        msg = f"model {files.name!r}: a second frame adds {square} image tokens to a prompt of its processor {expected}"
        raise ModelError(msg)
    return FrameSize(frame_px, frame_px, "inside" if inside else "stretch"), square
