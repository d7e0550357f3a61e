"""How each family of video language models writes a frame into a prompt, and what is asked.

Frames are shown as images, each behind its time. transformers' own processors would expand the placeholders; they
are not used (see loading.py), so the families' strings are here. Shape letters: N frames.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from actors.models.loading import ModelFiles, fetch, read_config, read_preprocessing
from pipeline.config import AnswerConfig
from pipeline.errors import AnswerError, ModelError
from pipeline.frames import FrameSize
from pipeline.queries import Query

Grid = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Family:
    """What differs between video language models on the way from a frame to placeholders."""

    before: str
    """Text in front of a frame's placeholders."""
    after: str
    inputs: tuple[str, ...]
    """What the image processor returns and `get_image_features` takes."""
    grid: Callable[[Any, Mapping[str, Any]], Grid]
    """(configuration, processed frames) -> rows and columns of one frame's visual tokens."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Image processor settings that make one frame one image: tiling is for stills."""
    nested: bool = False
    """The processor takes the frames of one prompt as an inner list."""
    separators: int = 0
    """Learnt tokens that follow each frame's grid. They carry no picture: never compressed, not counted."""


def _grid_of_patches(config: Any, pixels: Mapping[str, Any]) -> Grid:
    """Return the grid where pixel_values are pictures: one token per square of merged patches."""
    patch_px = config.vision_config.patch_size
    patch_px = patch_px if isinstance(patch_px, int) else patch_px[0]
    if hasattr(config, "downsample_ratio"):
        merged = round(1 / config.downsample_ratio)
    else:
        merged = getattr(config, "scale_factor", 1)
    height_px, width_px = pixels["pixel_values"].shape[-2:]
    return int(height_px) // patch_px // merged, int(width_px) // patch_px // merged


def _grid_of_thw(config: Any, pixels: Mapping[str, Any]) -> Grid:
    """Return the grid where the processor reports time, height and width in patches."""
    _, height, width = pixels["image_grid_thw"][0].tolist()
    merged = config.vision_config.spatial_merge_size
    return height // merged, width // merged


_QWEN = Family("<|vision_start|>", "<|vision_end|>", ("pixel_values", "image_grid_thw"), _grid_of_thw)
_IDEFICS = Family(
    "<fake_token_around_image><global-img>",
    "<fake_token_around_image>",
    ("pixel_values", "pixel_attention_mask"),
    _grid_of_patches,
    options={"do_image_splitting": False},
)
FAMILIES: dict[str, Family] = {
    "internvl": Family(
        "<img>", "</img>", ("pixel_values",), _grid_of_patches, options={"crop_to_patches": False}
    ),
    "smolvlm": _IDEFICS,
    "idefics3": _IDEFICS,
    "qwen2_vl": _QWEN,
    "qwen2_5_vl": _QWEN,
    "qwen3_vl": _QWEN,
    "llava_onevision": Family(
        "",
        "",
        ("pixel_values", "image_sizes", "batch_num_images"),
        _grid_of_patches,
        nested=True,
        separators=1,
    ),
}


@dataclass(frozen=True, slots=True)
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


def find_family(name: str, config: Any) -> Family:
    """Return the family of a model.

    Raises:
        ModelError: no family of this type is known.
    """
    if config.model_type in FAMILIES:
        return FAMILIES[config.model_type]
    msg = (
        f"model {name!r} is a {config.model_type!r}, not a video language model that is known here;"
        f" expected one of {', '.join(sorted(FAMILIES))}"
    )
    raise ModelError(msg)


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
    tokenizer, images, template = read_preprocessing(files)
    size, grid = measure_frame(family, model_config, images, config.frame_px)
    return Preprocessing(files, model_config, family, tokenizer, images, template, size, grid)


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
        AnswerError: the question holds the model's own image marker.
    """
    per_frame = parts.tokens_per_frame + parts.family.separators
    text = prompt_text(parts.family, parts.placeholder, times_s, per_frame, question(query))
    text = render(parts.tokenizer, parts.template, text)
    ids = prompt_ids(parts.tokenizer, text)
    visual = [at for at, token in enumerate(ids) if token == parts.config.image_token_id]
    if len(visual) != len(times_s) * per_frame:
        msg = (
            f"the prompt holds {len(visual)} image placeholders, expected {len(times_s) * per_frame} for"
            f" {len(times_s)} frames; take the model's own marker {parts.placeholder!r} out of the question"
        )
        raise AnswerError(msg)
    return Prompt(text, tuple(ids[: visual[-1] + 1]), tuple(ids[visual[-1] + 1 :]))
