"""Answers from a video language model of transformers, with the visual tokens a plan allows.

Per window the vision tower runs once over the frames that any question is shown; per plan the frames' tokens are
compressed, put in place of the prompt's placeholders and prefilled once; per question only its text is new.
Dropped tokens leave gaps: text and kept tokens keep the positions they have in the uncompressed M-RoPE prompt
(Qwen); models with plain positions are counted through, as in the papers of the compressors.

Shape letters: N frames, K tokens per frame, C tokens of a clip, L tokens of a prompt, D hidden size, P position axes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from actors.device import halve_on_out_of_memory, is_out_of_memory
from actors.models import Answer, Answerer, AnswererFacts, Ask, Device, WindowView
from actors.models.decoding import Prefix, generate, label_log_likelihoods, prefill, rewind, step
from actors.models.loading import load_model
from actors.models.prompting import (
    Preprocessing,
    Prompt,
    label_ids,
    labels,
    pad_lone_frame,
    process_frames,
    read_parts,
    write_prompt,
)
from pipeline.compress import TOKEN_COMPRESSORS
from pipeline.config import AnswerConfig, CompressConfig
from pipeline.errors import AnswerError, ConfigError, ModelError, RowError
from pipeline.plugins import find
from pipeline.spans import find_spans
from pipeline.tokens import CompressFn, whole_frames

FRAMES_PER_CALL = 16
"""Frames the vision tower sees at once."""


@dataclass(frozen=True, slots=True)
class FrameFeatures:
    """The vision tower's output for the frames of a window, before compression."""

    values_NKD: torch.Tensor
    separators_NKD: torch.Tensor
    """[N, separators, D]; see prompting.Family."""
    layers_NKD: tuple[torch.Tensor, ...]
    """Features added inside the first language layers (Qwen3-VL's deepstack), one tensor per layer."""


@dataclass(frozen=True, slots=True)
class Clip:
    """The frames that one plan shows, compressed to it. Frames that keep no token are no longer part of it."""

    plan: tuple[tuple[int, int], ...]
    """(row of the evidence, visual tokens allowed) of each planned frame."""
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
class Shown:
    """A clip in a prompt, prefilled: shared by all questions with the same plan."""

    clip: Clip
    head: tuple[int, ...]
    """The prompt's tokens at full resolution."""
    prefix: Prefix


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
    model = load_model("AutoModelForImageTextToText", parts.files, config.dtype, device)
    return VideoLlm(parts, model, compressor, compress.prune_ratio, config.max_new_tokens)


class VideoLlm:
    """Holds one model; see the module."""

    def __init__(
        self, parts: Preprocessing, model: Any, compress: CompressFn, prune_ratio: float, max_new_tokens: int
    ) -> None:
        self.parts = parts
        self.model = model
        self.compress = compress
        self.prune_ratio = prune_ratio
        self.max_new_tokens = max_new_tokens
        self.axes = 3 if hasattr(model.model, "get_rope_index") else 1
        self.ends = _end_tokens(model, parts.tokenizer)
        self.context_tokens = getattr(parts.config.get_text_config(), "max_position_embeddings", None)

    def answer(self, window: WindowView, asks: Sequence[Ask]) -> list[Answer]:
        """Return one Answer per ask, in order; see actors.models.Answerer.

        Raises:
            ModelError: a frame gave another number of tokens than `describe` said.
            ConfigError: see `compress_frames`.
            AnswerError: not even half of the window's frames fit in memory.
        """
        rows_of = [_rows_shown(window, ask) for ask in asks]
        union = sorted({row for rows in rows_of for row in rows})
        answers: list[Answer | None] = [None] * len(asks)
        features = self.encode_frames(window.evidence.data_NHWC[union]) if window.evidence and union else None
        # questions with the same plan stand together and share one prefill; only one is kept at a time
        clip: Clip | None = None
        shown: Shown | None = None
        for index in sorted(range(len(asks)), key=lambda index: asks[index].plan.tokens_N):
            ask, rows = asks[index], rows_of[index]
            try:
                if features is None or not rows:
                    raise AnswerError(_why_not(window, ask))
                plan = tuple((row, ask.plan.tokens_N[window.evidence_index[row]]) for row in rows)
                if clip is None or clip.plan != plan:
                    clip = self.compress_frames(features, [union.index(row) for row in rows], plan)
                prompt = write_prompt(self.parts, _times_s(window, clip.rows), ask.query)
                if shown is None or shown.clip is not clip or shown.head != prompt.head:
                    shown = None  # frees its cache before the next one is made
                    shown = self.show(prompt, clip)
                answers[index] = self._ask(window, ask, prompt, shown)
            except RowError as error:
                answers[index] = self._refused(window, str(error))
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                shown = None
                reason = f"out of memory on {sum(ask.plan.tokens_N)} visual tokens; lower plan.budget_tokens"
                answers[index] = self._refused(window, reason)
        return [answer for answer in answers if answer]

    def encode_frames(self, data_NHWC: npt.NDArray[np.uint8]) -> FrameFeatures:
        """Return the vision tower's features of each frame, a few frames at a time.

        Raises:
            ModelError: a frame gave another number of tokens than measured on a blank one.
            AnswerError: out of memory, also with half as many frames at a time.
        """
        found: list[tuple[torch.Tensor, ...]] = []
        height_px, width_px = data_NHWC.shape[1:3]
        for start in range(0, len(data_NHWC), FRAMES_PER_CALL):
            frames = list(data_NHWC[start : start + FRAMES_PER_CALL])
            what = f"{len(frames)} frames of {width_px}x{height_px} px"
            found += halve_on_out_of_memory(self._encode, frames, what)
        values_NKD, *layers_NKD = (torch.stack(tensors) for tensors in zip(*found, strict=True))
        per_frame = self.parts.tokens_per_frame
        return FrameFeatures(values_NKD[:, :per_frame], values_NKD[:, per_frame:], tuple(layers_NKD))

    def _encode(self, frames: Sequence[npt.NDArray[np.uint8]]) -> list[tuple[torch.Tensor, ...]]:
        """Return per frame its features [K + separators, D], and those of each deepstack layer [K, D]."""
        family = self.parts.family
        data_NHWC = pad_lone_frame(family, np.stack(frames))
        pixels = process_frames(family, self.parts.images, data_NHWC)
        with torch.inference_mode():
            out = self.model.get_image_features(
                **{name: tensor.to(self.model.device) for name, tensor in pixels.items()}, return_dict=True
            )
        tensors = [out.pooler_output, *(getattr(out, "deepstack_features", None) or [])]
        flat = [torch.cat([part.flatten(0, -2) for part in parts]) for parts in tensors]
        expected = len(data_NHWC) * (self.parts.tokens_per_frame + family.separators)
        if len(flat[0]) != expected:
            msg = (
                f"model {self.parts.files.name!r}: {len(data_NHWC)} frames of {data_NHWC.shape[2]}x"
                f"{data_NHWC.shape[1]} px gave {len(flat[0])} visual tokens, expected {expected} as measured on blank"
                " frames; its image processor and its configuration do not belong together"
            )
            raise ModelError(msg)
        per_frame = [tensor.unflatten(0, (len(data_NHWC), -1))[: len(frames)] for tensor in flat]
        return list(zip(*per_frame, strict=True))

    def compress_frames(
        self, features: FrameFeatures, picked: list[int], plan: tuple[tuple[int, int], ...]
    ) -> Clip:
        """Return some of the frames, compressed.

        Args:
            features: of all frames of the window.
            picked: which of them the plan is about.
            plan: see Clip.

        Raises:
            ConfigError: the compressor kept more of a frame than its plan allows: no budget would hold with it.
            AnswerError: nothing is left.
        """
        clip = whole_frames(features.values_NKD[picked], self.parts.grid)
        kept = self.compress(clip, [tokens for _, tokens in plan], prune_ratio=self.prune_ratio)
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
            plan=plan,
            rows=tuple(plan[frame][0] for frame in alive),
            tokens_T=tuple(tokens_T[alive_T].tolist()),
            values_CD=kept.values_ND,
            place_C=new_frame_T[kept.frame_N] * clip.num_per_frame + kept.source_N % clip.num_per_frame,
            separators_TD=features.separators_NKD[[picked[frame] for frame in alive]],
            layers_CD=tuple(layer[picked].flatten(0, 1)[kept.source_N] for layer in features.layers_NKD),
        )

    def show(self, prompt: Prompt, clip: Clip) -> Shown:
        """Return the visual half of a prompt, its placeholders replaced by a clip's tokens, prefilled.

        Raises:
            AnswerError: no room in the model's context.
        """
        head_L = torch.tensor(prompt.head, device=self.model.device)
        visual_L = head_L == self.parts.config.image_token_id
        places_TK = visual_L.nonzero()[:, 0].unflatten(0, (len(clip.rows), -1))
        grid_TK, ends_TK = places_TK.tensor_split([self.parts.tokens_per_frame], dim=1)
        placed_C = grid_TK.flatten()[clip.place_C.to(head_L.device)]
        embeds_LD = self.model.get_input_embeddings()(head_L)
        embeds_LD[placed_C] = clip.values_CD.to(embeds_LD)
        embeds_LD[ends_TK] = clip.separators_TD.to(embeds_LD)
        keep_L = ~visual_L
        keep_L[placed_C] = True
        keep_L[ends_TK] = True

        self._check_room(int(keep_L.sum()) + len(prompt.tail))
        positions_PL, next_position = self._positions(head_L, keep_L, len(clip.rows))
        extra = _deepstack_inputs(head_L[keep_L], clip) if clip.layers_CD else {}
        prefix = prefill(self.model, embeds_LD[keep_L], positions_PL, next_position, extra)
        return Shown(clip, prompt.head, prefix)

    def _positions(
        self, head_L: torch.Tensor, keep_L: torch.Tensor, num_frames: int
    ) -> tuple[torch.Tensor, int]:
        """Return the positions [P, kept] of a prompt's kept tokens, and the one behind them; see the module."""
        if self.axes == 1:
            kept = int(keep_L.sum())
            return torch.arange(kept, device=head_L.device)[None], kept
        merged = self.parts.config.vision_config.spatial_merge_size
        rows, columns = self.parts.grid
        positions_PBL, _ = self.model.model.get_rope_index(
            head_L[None],
            mm_token_type_ids=(head_L == self.parts.config.image_token_id)[None].int(),
            image_grid_thw=torch.tensor([[1, rows * merged, columns * merged]] * num_frames),
        )
        return positions_PBL[:, 0, keep_L], int(positions_PBL.max()) + 1

    def _check_room(self, prompt_tokens: int) -> None:
        """Refuse a prompt behind which an answer has no room."""
        if self.context_tokens and prompt_tokens + self.max_new_tokens > self.context_tokens:
            msg = (
                f"{prompt_tokens} prompt tokens and {self.max_new_tokens} for the answer do not fit into the model's"
                f" context of {self.context_tokens}; lower plan.budget_tokens or answer.max_new_tokens"
            )
            raise AnswerError(msg)

    def _ask(self, window: WindowView, ask: Ask, prompt: Prompt, shown: Shown) -> Answer:
        """Return the answer to one question behind its prefilled frames."""
        rewind(shown.prefix)
        self._check_room(shown.prefix.num_tokens + len(prompt.tail))
        logits_V = step(self.model, shown.prefix, prompt.tail, self.axes)
        if ask.query.kind == "ask":
            text, confidence = self._speak(shown.prefix, logits_V)
        else:
            text, confidence = self._choose(ask, prompt, shown.prefix, logits_V)
        spans = []
        if ask.query.kind == "flag" and text == "yes":
            spans = find_spans(ask.relevance_N, window.pts_s_N, window.end_s, ask.threshold)
        return Answer(
            answer=text,
            confidence=confidence,
            spans=tuple((span.start_s, span.end_s, span.score) for span in spans),
            evidence=_evidence(window, ask, shown.clip),
            tokens_dense=self._tokens_dense(window),
            tokens_used=sum(shown.clip.tokens_T),
        )

    def _speak(self, prefix: Prefix, logits_V: torch.Tensor) -> tuple[str, float]:
        """Return free text and its mean token probability."""
        ids, confidence = generate(self.model, prefix, logits_V, self.ends, self.max_new_tokens, self.axes)
        text = self.parts.tokenizer.decode(ids, skip_special_tokens=True).strip()
        if not text:
            msg = (
                f"the model returned no text ({len(ids)} tokens before its end token); ask more specifically"
            )
            raise AnswerError(msg)
        return text, confidence

    def _choose(self, ask: Ask, prompt: Prompt, prefix: Prefix, logits_V: torch.Tensor) -> tuple[str, float]:
        """Return the most likely label and its share of the likelihood of all labels."""
        words = labels(ask.query)
        ids = [label_ids(self.parts.tokenizer, prompt.text, word) for word in words]
        logs = label_log_likelihoods(self.model, prefix, logits_V, ids, self.axes)
        share = torch.softmax(logs, 0)
        best = int(share.argmax())
        return words[best].lower() if ask.query.kind == "flag" else words[best], float(share[best])

    def _tokens_dense(self, window: WindowView) -> int:
        return len(window.pts_s_N) * self.parts.tokens_per_frame

    def _refused(self, window: WindowView, reason: str) -> Answer:
        return Answer("", 0.0, tokens_dense=self._tokens_dense(window), error=reason)


def _path_of(compress: CompressFn) -> str:
    """Return where a compressor is defined, as `package.module:name`."""
    return f"{compress.__module__}:{getattr(compress, '__qualname__', type(compress).__qualname__)}"


def _rows_shown(window: WindowView, ask: Ask) -> list[int]:
    """Return which evidence frames this question may see."""
    if ask.query.kind == "find":
        return []
    return [row for row, frame in enumerate(window.evidence_index) if ask.plan.tokens_N[frame] > 0]


def _times_s(window: WindowView, rows: Sequence[int]) -> list[float]:
    """Return the times of some of the evidence frames."""
    return [float(window.pts_s_N[window.evidence_index[row]]) for row in rows]


def _why_not(window: WindowView, ask: Ask) -> str:
    """Return why a question is not put to the model."""
    if ask.query.kind == "find":
        return f"query {ask.query.query_id!r}: find is answered from relevance, not by a language model"
    return (
        f"query {ask.query.query_id!r}: its plan shows none of the {len(window.evidence_index)} evidence frames;"
        " raise plan.budget_tokens"
    )


def _evidence(window: WindowView, ask: Ask, clip: Clip) -> tuple[tuple[float, float, int], ...]:
    """Return time, relevance and visual tokens of each frame that was shown."""
    frames = [window.evidence_index[row] for row in clip.rows]
    times_s = _times_s(window, clip.rows)
    relevance = [float(ask.relevance_N[frame]) for frame in frames]
    return tuple(zip(times_s, relevance, clip.tokens_T, strict=True))


def _deepstack_inputs(head_L: torch.Tensor, clip: Clip) -> dict[str, Any]:
    """Return the inputs of a model that adds visual features inside its first layers too (Qwen3-VL).

    Features and layers were pruned with the same index; the model itself places them at the placeholders.
    """
    image = SimpleNamespace(
        pooler_output=(clip.values_CD,), deepstack_features=[(layer_CD,) for layer_CD in clip.layers_CD]
    )
    return {"input_ids": head_L[None], "mm_encoder_outputs": {"image": image}}


def _end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """Return the tokens that end an answer: the checkpoint's generation settings, else the tokenizer's."""
    ends = model.generation_config.eos_token_id
    if ends is None:
        ends = tokenizer.eos_token_id
    return frozenset([ends] if isinstance(ends, int) else ends or [])
