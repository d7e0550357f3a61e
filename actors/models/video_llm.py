"""Answers from a video language model of transformers, with the visual tokens a plan allows.

Five steps: `encode` (the vision tower runs once over the frames that any question of a window is shown), `reduce`
(their tokens are compressed to a plan), `assemble` (the prompt, its placeholders replaced), prefill and decode
(batching.py, for the questions of several windows side by side). What differs between models is in families/.

Shape letters: N frames, K tokens per frame, C tokens of a clip, L tokens of a prompt, D hidden size, P position axes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from actors.device import halve_on_out_of_memory, is_out_of_memory, return_freed_memory, to_device
from actors.models import Answer, Answerer, AnswererEntry, AnswererFacts, Ask, Device, Request, WindowView
from actors.models.batching import FRAMES_PER_CALL, Batch
from actors.models.compressing import clip_of, compress_clip
from actors.models.decoding import Language, Question, end_tokens
from actors.models.loading import load_model
from actors.models.memory import Memory
from actors.models.prompting import (
    Preprocessing,
    Prompt,
    label_ids,
    labels,
    pad_lone_frame,
    prior_key,
    process_frames,
    read_parts,
    write_prompt,
)
from actors.models.refine import Refiner
from actors.models.token_tree import use_trees
from pipeline.budget import Plan
from pipeline.compress import TOKEN_COMPRESSORS, needs_of
from pipeline.config import AnswerConfig, CompressConfig
from pipeline.errors import AnswerError, ConfigError, ModelError
from pipeline.frames import Frames
from pipeline.plugins import find
from pipeline.queries import Query
from pipeline.tokens import CompressFn

LABELLED = ("flag", "choose")
"""Kinds answered by the likelihood of labels."""


@dataclass(frozen=True, slots=True)
class FrameFeatures:
    """The vision tower's output for the frames of a window, before compression."""

    values_NKD: torch.Tensor
    separators_NKD: torch.Tensor
    """[N, separators, D]; see families/contract.py."""
    layers_NKD: tuple[torch.Tensor, ...]
    """Features added inside the first language layers (Qwen3-VL's deepstack), one tensor per layer."""
    pixels_NHWC: npt.NDArray[np.uint8] | None = None
    """The frames themselves, where the compressor needs them."""


@dataclass(frozen=True, slots=True)
class Clip:
    """The frames that one plan shows, compressed to it. Frames that keep no token are no longer part of it."""

    rows: tuple[int, ...]
    """Rows of the evidence that keep at least one token."""
    tokens_T: tuple[int, ...]
    """Visual tokens each of them keeps."""
    values_CD: torch.Tensor
    place_C: torch.Tensor
    """[C] int64, increasing: index of the token among all tokens that these frames had before compression."""
    separators_TD: torch.Tensor
    """[T, separators, D]"""
    layers_CD: tuple[torch.Tensor, ...]


@dataclass(frozen=True, slots=True)
class Head:
    """A prompt up to its last visual token, as the text decoder takes it."""

    embeds_LD: torch.Tensor
    positions_PL: torch.Tensor
    next_position: int
    """Of the first token behind it."""
    extra: Mapping[str, Any]
    """More inputs of the decoder (Qwen3-VL's)."""

    @property
    def num_bytes(self) -> int:
        """Bytes of its embeddings and of the features that come with them."""
        layers: Sequence[torch.Tensor] = self.extra.get("deepstack_visual_embeds", ())
        return self.embeds_LD.nbytes + sum(layer.nbytes for layer in layers)


def describe(config: AnswerConfig) -> AnswererFacts:
    """Return the model's name, revision and what a frame costs; reads no weights.

    Raises:
        ModelError: see `read_parts`.
    """
    parts = read_parts(config, weights=False)
    return AnswererFacts(config.model, parts.files.revision, parts.tokens_per_frame, parts.frame_size)


def make(config: AnswerConfig, compress: CompressConfig, device: Device) -> Answerer:
    """Return the answerer with its weights on the device.

    Raises:
        ModelError: see `read_parts`; or the weights do not fit.
        ConfigError: no such compressor.
    """
    compressor: CompressFn = find(TOKEN_COMPRESSORS, compress.compressor, "TOKEN_COMPRESSORS")
    parts = read_parts(config, weights=True)
    if device == "cpu":
        return_freed_memory()
    model = load_model(
        "AutoModelForImageTextToText", parts.files, config.dtype, device,
        attention=config.attention, quantize=config.quantize, compile=config.compile,
    )  # fmt: skip
    llm = VideoLlm(parts, model, compressor, compress, config)
    if device == "cuda" or config.compile:
        llm.warm_up()
    return llm


ENTRY = AnswererEntry(describe, make)


class VideoLlm:
    """Holds one model; see the module."""

    def __init__(
        self,
        parts: Preprocessing,
        model: Any,
        compress: CompressFn,
        settings: CompressConfig,
        config: AnswerConfig,
    ) -> None:
        self.parts = parts
        self.model = model
        self.device: Device = model.device.type
        self.compress = compress
        self.settings = settings
        self.config = config
        use_trees(model)
        family = parts.family
        self.language = Language(
            model, family.decoder(model), family.axes, end_tokens(model, parts.tokenizer)
        )
        self.memory = Memory.of(model, parts, config.memory_gb)
        self.refiner: Refiner | None = None
        """Looks at the candidates of an ask first, where the job has a scorer that does."""
        self.priors: dict[tuple[str, ...], torch.Tensor] = {}
        """Per question and labels, the labels' mean log-probabilities without a video."""
        self.lacking: dict[tuple[str, ...], str] = {}
        """Why some have no prior."""

    def answer(self, requests: Sequence[Request]) -> list[list[Answer]]:
        """Return, per window, one Answer per ask, in order; see actors.models.Answerer.

        Raises:
            ModelError: a frame gave another number of tokens than `describe` said.
            ConfigError: see `reduce`.
        """
        return Batch(self, requests).run()

    def warm_up(self) -> None:
        """Answer a question about a black frame, so that kernels are chosen and compiled before the first window."""
        size, tokens = self.parts.frame_size, self.parts.tokens_per_frame
        black = Frames(np.zeros((1, size.height_px, size.width_px, 3), np.uint8), np.zeros(1))
        window = WindowView(0.0, 1.0, np.zeros(1), [0], black)
        nothing_N = np.zeros(1, np.float32)
        plan = Plan("global", (tokens,), "")
        query = Query("warm-up", "Is it dark?", "flag")
        self.answer([Request(window, [Ask(query, plan, nothing_N, nothing_N[:, None], 0.5)])])

    def learn_priors(self, queries: Sequence[Query]) -> dict[tuple[str, ...], int]:
        """Ask without a video what has not been asked so before, if priors are to be removed; see `priors`.

        Returns:
            What it took in prompt tokens, by `prior_key`.
        """
        spent: dict[tuple[str, ...], int] = {}
        for query in queries if self.config.remove_prior else ():
            key = prior_key(query)
            if query.kind not in LABELLED or key in self.priors or key in self.lacking:
                continue
            try:
                question = self.question(write_prompt(self.parts, (), query), query)
            except AnswerError:
                continue  # refused with its frames too
            if self.lacks_room(0, question):
                continue
            tree = self.language.tree(question.num_tokens)
            try:
                [heard] = self.language.put(tree, [question])
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                self.lacking[key] = "out of memory"
                continue
            if heard.error:
                self.lacking[key] = heard.error
                continue
            self.priors[key] = heard.label_logs
            spent[key] = question.num_tokens
        return spent

    def chances(self, query: Query, label_logs: torch.Tensor) -> torch.Tensor:
        """Return each label's share of the likelihood of all, without what it is without a video if so configured.

        Raises:
            AnswerError: what it is without a video could not be found out.
        """
        if not self.config.remove_prior:
            return torch.softmax(label_logs, 0)
        if prior_key(query) not in self.priors:
            why = self.lacking.get(prior_key(query), "it does not fit into the model's context")
            msg = f"what the question is answered without a video is to be removed, and cannot be found out: {why}"
            raise AnswerError(msg)
        return torch.softmax(label_logs - self.priors[prior_key(query)], 0)

    def question(self, prompt: Prompt, query: Query) -> Question:
        """Return what stands behind the frames in tokens, with the labels of a query that has some.

        Raises:
            AnswerError: a label has no tokens.
        """
        words = labels(query) if query.kind in LABELLED else ()
        ids = [tuple(label_ids(self.parts.tokenizer, prompt.text, word)) for word in words]
        if not all(ids):
            msg = f"choice {words[ids.index(())]!r} is no text to this model's tokenizer; write it in other letters"
            raise AnswerError(msg)
        return Question(prompt.tail, tuple(ids))

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of tokens."""
        return self.parts.tokenizer.decode(ids, skip_special_tokens=True)

    def lacks_room(self, head_tokens: int, question: Question) -> str:
        """Return why a prompt has no room in the model's context, or nothing."""
        most = getattr(self.parts.config.get_text_config(), "max_position_embeddings", None)
        behind = max(map(len, question.labels)) if question.labels else self.config.max_new_tokens
        prompt_tokens = head_tokens + len(question.ids)
        if most is None or prompt_tokens + behind <= most:
            return ""
        return (
            f"{prompt_tokens} prompt tokens and {behind} for the answer do not fit into the model's context of {most};"
            " lower plan.budget_tokens or answer.max_new_tokens, or ask a shorter question"
        )

    def encode(
        self, data_NHWC: npt.NDArray[np.uint8], frames_per_call: int = FRAMES_PER_CALL
    ) -> FrameFeatures:
        """Return the vision tower's features of each frame, a few frames at a time.

        Raises:
            ModelError: a frame gave another number of tokens than measured on a blank one.
            AnswerError: out of memory, also with half as many frames at a time.
        """
        found: list[tuple[torch.Tensor, ...]] = []
        height_px, width_px = data_NHWC.shape[1:3]
        for start in range(0, len(data_NHWC), frames_per_call):
            frames = list(data_NHWC[start : start + frames_per_call])
            what = f"{len(frames)} frames of {width_px}x{height_px} px"
            found += halve_on_out_of_memory(self._encode, frames, what, self.language.out_of_memory)
        values_NKD, *layers_NKD = (torch.stack(tensors) for tensors in zip(*found, strict=True))
        per_frame = self.parts.tokens_per_frame
        pixels_NHWC = data_NHWC if "pixels" in needs_of(self.compress) else None
        return FrameFeatures(
            values_NKD[:, :per_frame], values_NKD[:, per_frame:], tuple(layers_NKD), pixels_NHWC
        )

    def _encode(self, frames: Sequence[npt.NDArray[np.uint8]]) -> list[tuple[torch.Tensor, ...]]:
        """Return per frame its features [K + separators, D], and those of each deepstack layer [K, D]."""
        family = self.parts.family
        data_NHWC = pad_lone_frame(family, np.stack(frames))
        pixels = process_frames(family, self.parts.images, data_NHWC)
        with torch.inference_mode():
            out = self.model.get_image_features(
                **{name: to_device(tensor, self.device) for name, tensor in pixels.items()}, return_dict=True
            )
        values_CD, layers_CD = family.features(out)
        expected = len(data_NHWC) * (self.parts.tokens_per_frame + family.separators)
        if len(values_CD) != expected:
            msg = (
                f"model {self.parts.files.name!r}: {len(data_NHWC)} frames of {data_NHWC.shape[2]}x"
                f"{data_NHWC.shape[1]} px gave {len(values_CD)} visual tokens, expected {expected} as measured on blank"
                " frames; its image processor and its configuration do not belong together"
            )
            raise ModelError(msg)
        per_frame = [
            tensor.unflatten(0, (len(data_NHWC), -1))[: len(frames)] for tensor in (values_CD, *layers_CD)
        ]
        return list(zip(*per_frame, strict=True))

    def reduce(
        self,
        features: FrameFeatures,
        picked: Sequence[int],
        plan: Sequence[tuple[int, int]],
        times_s: Sequence[float] = (),
    ) -> Clip:
        """Return some of the frames, compressed.

        Args:
            features: of all frames of the window.
            picked: which of them the plan is about.
            plan: of each of these (row of the evidence, visual tokens allowed).
            times_s: of each of these, for messages.

        Raises:
            ConfigError: the compressor kept more of a frame than its plan allows: no budget would hold with it.
            AnswerError: nothing is left, or the compressor cannot use the tokens of a frame.
        """
        index = list(picked)
        clip = clip_of(self, features, index)
        kept = compress_clip(self, clip, [tokens for _, tokens in plan], times_s)
        tokens_T = torch.bincount(kept.frame_N, minlength=len(plan))
        for (row, planned), found in zip(plan, tokens_T.tolist(), strict=True):
            if found > planned:
                msg = (
                    f"compressor {_path_of(self.compress)} kept {found} visual tokens of evidence frame {row}, planned"
                    f" {planned}; it must keep to its plan: mend it, or take another with --compress.compressor"
                )
                raise ConfigError(msg)
        alive_T = tokens_T > 0
        if not bool(alive_T.any()):
            msg = (
                f"compression left none of the {len(clip.source_N)} visual tokens of {len(plan)} frames, planned"
                f" {sum(tokens for _, tokens in plan)}; raise plan.budget_tokens, or take a compressor that can cut a"
                " frame"
            )
            raise AnswerError(msg)
        new_frame_T = alive_T.cumsum(0) - 1
        alive = alive_T.nonzero()[:, 0].tolist()
        return Clip(
            rows=tuple(plan[frame][0] for frame in alive),
            tokens_T=tuple(tokens_T[alive_T].tolist()),
            values_CD=kept.values_ND,
            place_C=new_frame_T[kept.frame_N] * clip.num_per_frame + kept.source_N % clip.num_per_frame,
            separators_TD=features.separators_NKD[[index[frame] for frame in alive]],
            layers_CD=tuple(layer[index].flatten(0, 1)[kept.source_N] for layer in features.layers_NKD),
        )

    def assemble(self, head: Sequence[int], clip: Clip) -> Head:
        """Return the visual half of a prompt, its placeholders replaced by a clip's tokens.

        Args:
            head: the prompt's tokens up to the last placeholder, every frame of the clip at full resolution.
            clip: what is left of these frames.
        """
        parts, family = self.parts, self.parts.family
        head_L = torch.tensor(head, device=self.model.device)
        visual_L = head_L == parts.config.image_token_id
        places_TK = visual_L.nonzero()[:, 0].unflatten(0, (len(clip.rows), -1))
        grid_TK, ends_TK = places_TK.tensor_split([parts.tokens_per_frame], dim=1)
        placed_C = grid_TK.flatten()[clip.place_C.to(head_L.device)]
        embeds_LD = self.language.embed(head_L)
        embeds_LD[placed_C] = clip.values_CD.to(embeds_LD)
        embeds_LD[ends_TK] = clip.separators_TD.to(embeds_LD)
        keep_L = ~visual_L
        keep_L[placed_C] = True
        keep_L[ends_TK] = True
        positions_PL, next_position = family.positions(
            self.model, parts.config, head_L, keep_L, parts.grid, len(clip.rows)
        )
        extra = family.deepstack_inputs(visual_L[keep_L], list(clip.layers_CD))
        return Head(embeds_LD[keep_L], positions_PL, next_position, extra)


def _path_of(compress: CompressFn) -> str:
    """Return where a compressor is defined, as `package.module:name`."""
    return f"{compress.__module__}:{getattr(compress, '__qualname__', type(compress).__qualname__)}"
