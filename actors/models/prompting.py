"""How each family of video language models writes a frame into a prompt, and what is asked.

Frames are shown as images, each behind its time. transformers' own processors would expand the placeholders; they
are not used (see loading.py), so the families' strings are in families/. Shape letters: N frames.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from actors.device import load_error
from actors.models.families import FAMILIES, find_family
from actors.models.families.contract import Family, Grid
from actors.models.loading import ModelFiles, fetch, read_config, read_preprocessing
from actors.models.marks import Marks
from pipeline.config import AnswerConfig
from pipeline.errors import AnswerError, ModelError
from pipeline.frames import FrameSize
from pipeline.queries import Query

TRIAL = "Is there a Car, or not?"
"""A question that a chat template is tried with: it must come through as it is."""


@dataclass(frozen=True)
class Preprocessing:
    """What the driver reads too: everything of a model but its weights."""

    files: ModelFiles
    config: Any
    family: Family
    tokenizer: Any
    images: Any
    template: str
    frame_size: FrameSize
    grid: Grid

    @property
    def tokens_per_frame(self) -> int:
        """Visual tokens of one frame at full resolution."""
        return self.grid[0] * self.grid[1]

    @cached_property
    def marks(self) -> Marks:
        """What a question must not hold."""
        around = self.family.before + self.family.after
        return Marks(self.tokenizer, render(self.tokenizer, self.template, "") + around, self.placeholder)

    @property
    def placeholder(self) -> str:
        """The text of one visual token."""
        return self.tokenizer.convert_ids_to_tokens(self.config.image_token_id)


@dataclass(frozen=True, slots=True)
class Prompt:
    """A rendered prompt, cut behind its last visual token."""

    text: str
    head: tuple[int, ...]
    """Tokens up to the last placeholder, at full resolution."""
    tail: tuple[int, ...]
    """Tokens of the question and of whatever the template puts behind it."""


def process_frames(family: Family, images: Any, data_NHWC: npt.NDArray[np.uint8]) -> Any:
    """Return the tensors `get_image_features` takes, for frames of one size.

    A family that tiles a lone image (nested) must be given two frames at least; see `pad_lone_frame`.
    """
    frames: list[Any] = list(data_NHWC)
    pixels = images(
        [frames] if family.nested else frames,
        return_tensors="pt",
        input_data_format="channels_last",
        **family.options,
    )
    return {name: pixels[name] for name in family.inputs if name in pixels}


def pad_lone_frame(family: Family, data_NHWC: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return the frames, a lone one twice where the family would cut a lone image into tiles."""
    return np.repeat(data_NHWC, 2, axis=0) if family.nested and len(data_NHWC) == 1 else data_NHWC


def read_parts(config: AnswerConfig, *, weights: bool) -> Preprocessing:
    """Return everything of a model but its weights, which are only fetched, and only on demand.

    Raises:
        ModelError: see loading.py; or not a known video language model.
    """
    files = fetch(config.model, config.revision, weights=weights)
    model_config = read_config(files)
    family = find_family(files.name, model_config)
    if family is None:
        msg = (
            f"model {files.name!r} is a {model_config.model_type!r}, not a video language model that is known here;"
            f" expected one of {', '.join(sorted(FAMILIES))}"
        )
        raise ModelError(msg)
    tokenizer, images, template = read_preprocessing(files)
    try:
        size, grid = measure_frame(family, model_config, images, config.frame_px)
    except Exception as error:  # whatever a configuration that fits no picture makes of one
        raise load_error(files.name, f"processing a blank frame of {config.frame_px} px", error) from error
    parts = Preprocessing(files, model_config, family, tokenizer, images, template, size, grid)
    _try_prompt(parts)
    return parts


def _try_prompt(parts: Preprocessing) -> None:
    """Write a prompt of two frames, so that a model whose files do not belong together is refused at once.

    Raises:
        ModelError: the image token is none of the tokenizer's marks, or the chat template fails or changes the text.
    """
    name, token = parts.files.name, parts.config.image_token_id
    if token not in parts.tokenizer.added_tokens_decoder:
        msg = (
            f"model {name!r}: its image_token_id {token!r} is none of the {len(parts.tokenizer.added_tokens_decoder)}"
            " marks of its tokenizer; its configuration and its tokenizer do not belong together"
        )
        raise ModelError(msg)
    try:
        prompt = write_prompt(parts, (1.0, 2.0), Query("trial", TRIAL, "ask"))
    except Exception as error:  # templates are programs
        raise load_error(name, "writing a prompt with its chat template", error) from error
    if TRIAL not in prompt.text or "<1.0s>" not in prompt.text:
        msg = f"model {name!r}: its chat template changes the text of a prompt: {prompt.text[-120:]!r}"
        raise ModelError(msg)


def measure_frame(family: Family, config: Any, images: Any, frame_px: int) -> tuple[FrameSize, Grid]:
    """Return the size to decode frames at and the grid of visual tokens that a frame of that size becomes.

    Found by running the image processor on blank frames. Where a wide frame costs as many tokens as a square one,
    frames keep their shape and the processor fits them in, as the model was trained; where it does not (Qwen),
    frames are stretched to a square, since a plan must know what a frame costs before its video is opened.
    """

    def grid(height_px: int, width_px: int) -> Grid:
        blank_NHWC = np.zeros((2, height_px, width_px, 3), np.uint8)
        return family.grid(config, process_frames(family, images, blank_NHWC))

    square = grid(frame_px, frame_px)
    fit = "inside" if grid(max(1, frame_px // 2), frame_px) == square else "stretch"
    return FrameSize(frame_px, frame_px, fit), square


def labels(query: Query) -> tuple[str, ...]:
    """Return the answers whose likelihoods are compared: yes and no, or the choices."""
    return query.choices if query.kind == "choose" else ("Yes", "No")


def prior_key(query: Query) -> tuple[str, ...]:
    """Return what the likelihoods of a query's labels depend on where no video is shown."""
    return (question(query), *labels(query))


def question(query: Query) -> str:
    """Return what stands behind the frames."""
    if query.kind == "flag":
        return f"{query.text}\nAnswer Yes or No."
    if query.kind == "choose":
        return f"{query.text}\nAnswer with one of these: {', '.join(query.choices)}."
    return query.text


def prompt_text(
    family: Family, placeholder: str, times_s: Sequence[float], num_placeholders: int, asked: str
) -> str:
    """Return the user's turn: each frame as its time and its placeholders, then the question.

    A frame at 12 s with two tokens in InternVL's family: `<12.0s><img><IMG_CONTEXT><IMG_CONTEXT></img>`.
    """
    marks = placeholder * num_placeholders
    shown = "".join(f"<{time_s:.1f}s>{family.before}{marks}{family.after}\n" for time_s in times_s)
    return shown + asked


def render(tokenizer: Any, template: str, text: str) -> str:
    """Return the whole prompt, up to where the answer begins.

    The frames are inside the text, not items of their own: some templates gather all images in front of the text,
    which would part the frames from their times.
    """
    if not template:
        return f"{text}\nAnswer:"
    turn = [{"role": "user", "content": [{"type": "text", "text": text}]}]
    return tokenizer.apply_chat_template(
        turn, chat_template=template, tokenize=False, add_generation_prompt=True
    )


def prompt_ids(tokenizer: Any, prompt: str) -> list[int]:
    """Return the tokens of a rendered prompt, its special tokens once, as transformers' processors do it."""
    starts = tokenizer.bos_token is not None and prompt.startswith(tokenizer.bos_token)
    return tokenizer(prompt, add_special_tokens=not starts)["input_ids"]


def label_ids(tokenizer: Any, prompt: str, label: str) -> list[int]:
    """Return the tokens of a label as it would follow the prompt: behind a space unless the prompt ends in one."""
    lead = "" if prompt[-1:].isspace() else " "
    return tokenizer(lead + label, add_special_tokens=False)["input_ids"]


def write_prompt(parts: Preprocessing, times_s: Sequence[float], query: Query) -> Prompt:
    """Return the prompt that shows frames and asks a question, with every placeholder of every frame.

    Raises:
        AnswerError: the question holds one of the model's own marks, with which it could end the user's turn or begin
            the answer.
    """
    asked = question(query)
    parts.marks.check(asked)
    per_frame = parts.tokens_per_frame + parts.family.separators
    text = prompt_text(parts.family, parts.placeholder, times_s, per_frame, asked)
    text = render(parts.tokenizer, parts.template, text)
    ids = prompt_ids(parts.tokenizer, text)
    visual = [at for at, token in enumerate(ids) if token == parts.config.image_token_id]
    if len(visual) != len(times_s) * per_frame:
        msg = (
            f"the prompt holds {len(visual)} image placeholders, expected {len(times_s) * per_frame} for"
            f" {len(times_s)} frames; the chat template of {parts.files.name!r} does not keep the text as it is"
        )
        raise AnswerError(msg)
    cut = visual[-1] + 1 if visual else 0
    return Prompt(text, tuple(ids[:cut]), tuple(ids[cut:]))
