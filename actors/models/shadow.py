"""The first layers of an answerer's language model, as features of questions and frames for routers.

VideoRouter (arXiv 2605.05848) copies them; here the layers are the model's own, no weight exists twice. A question is
read alone; a frame is read with the question behind it, each frame a sequence of its own, its tokens pooled to a few.
What surrounds a question in a prompt (the chat template, the frame's time) stands before it here too, what would
follow it does not: the last token that is read is the question's own.

Many sequences go through the layers packed into one, without padding, as the trees of token_tree.py.

Shape letters: N frames, P texts, K visual tokens of a frame, C of them behind pooling, L tokens, D hidden size.
"""

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from actors.device import halve_on_out_of_memory
from actors.models.prompting import TRIAL, prompt_ids, prompt_text, render
from actors.models.token_tree import TRUNK, Segment, TokenTree, forward
from pipeline.compress.uniform import pool_grid
from pipeline.errors import AnswerError, ModelError
from pipeline.tokens import whole_frames

if TYPE_CHECKING:
    from actors.models.video_llm import Clip, FrameFeatures, VideoLlm

SEQUENCES_PER_CALL = 16
"""Frames or texts that go through the layers at once, memory permitting."""
QUESTION_TOKENS = 64
"""Of an ordinary question, to reckon memory with."""
PROMPTS_KEPT = 4096
"""Beginnings of prompts that are kept: of every frame of a few windows, for all that is asked about them."""


class Shadow:
    """The first `num_layers` layers of a loaded model's text decoder."""

    def __init__(self, llm: "VideoLlm", num_layers: int, tokens_per_frame: int) -> None:
        """Take the model, how many of its layers, and the most visual tokens of a frame that they are to see.

        Raises:
            ModelError: the model has fewer layers.
        """
        found = llm.language.num_layers
        if not 1 <= num_layers <= found:
            msg = (
                f"model {llm.parts.files.name!r}: its language model has {found} layers, and routing is to read the"
                f" first {num_layers}; set plan.early_layers to 1 up to {found}"
            )
            raise ModelError(msg)
        self.llm = llm
        self.num_layers = num_layers
        self.tokens_per_frame = min(tokens_per_frame, llm.parts.tokens_per_frame)
        self.decoder = first_layers(llm.language.decoder, num_layers)
        self.num_tokens = 0
        """Tokens that went through these layers so far."""
        self._before = lru_cache(PROMPTS_KEPT)(self._render)

    @property
    def hidden_size(self) -> int:
        """D: the width of a state."""
        return int(self.decoder.config.hidden_size)

    @property
    def work_bytes(self) -> int:
        """Memory that a pass over frames takes at most beside their features, with questions of ordinary length.

        A pass is small, `SEQUENCES_PER_CALL` pooled frames; one that does not fit is halved.
        """
        memory, per_frame = self.llm.memory, len(self._before(0.0)) + QUESTION_TOKENS
        tokens = per_frame - self.llm.parts.tokens_per_frame + self.tokens_per_frame
        kept = self.num_layers * memory.row_bytes // self.llm.language.num_layers + 2 * memory.embed_bytes
        pooling = 4 * memory.frame_bytes
        return SEQUENCES_PER_CALL * (tokens * kept + pooling) + memory.prefill_bytes(
            SEQUENCES_PER_CALL * tokens
        )

    def question_states(self, texts: Sequence[str]) -> torch.Tensor:
        """Return [P, D] float32: the mean over the question's own tokens, the template's are not in it.

        Raises:
            AnswerError: a text holds one of the model's own marks or no token, or memory does not suffice.
        """
        before = self._before()
        asked = [self._ids(text) for text in texts]

        def read(part: Sequence[list[int]]) -> list[torch.Tensor]:
            found = self._forward([self._text(before, ids) for ids in part])
            return [states_LD.float().mean(0) for states_LD in found]

        return self._stack(self._in_chunks(read, asked, "questions in the first layers"), self.hidden_size)

    def frame_states(
        self, features: "FrameFeatures", index: Sequence[int], times_s: Sequence[float], text: str
    ) -> torch.Tensor:
        """Return [N, 2 D] float32: the mean over a frame's visual positions, and the last token of the question.

        Args:
            features: of a window's frames.
            index: which of them, N.
            times_s: when each of the N is shown.
            text: the question.

        Raises:
            AnswerError: see `question_states`.
        """

        def read(part: Sequence[tuple[int, float]]) -> list[torch.Tensor]:
            found = self._forward(self.frame_segments(features, part, text))
            return [torch.cat([states[:-1].float().mean(0), states[-1].float()]) for states in found]

        frames = list(zip(index, times_s, strict=True))
        return self._stack(self._in_chunks(read, frames, "frames in the first layers"), 2 * self.hidden_size)

    def attention(
        self, features: "FrameFeatures", index: Sequence[int], times_s: Sequence[float], text: str
    ) -> torch.Tensor:
        """Return [N] float32: the share of the question's last token's attention that is on the frame.

        Of the last of these layers, the mean of its heads. Arguments and errors as for `frame_states`.
        """

        def read(part: Sequence[tuple[int, float]]) -> list[torch.Tensor]:
            gazes = [Gaze() for _ in part]
            segments = self.frame_segments(features, part, text)
            watched = [
                replace(one, watch=gaze.look(one.keep_R[:-1]))
                for one, gaze in zip(segments, gazes, strict=True)
            ]
            self._forward(watched)
            return [gaze.share for gaze in gazes]

        frames = list(zip(index, times_s, strict=True))
        return self._stack(self._in_chunks(read, frames, "frames in the first layers"))

    # --- sequences ---------------------------------------------------------------------------------------------

    def question_segments(self, texts: Sequence[str]) -> list[Segment]:
        """Return one sequence per text, its own tokens kept, for a pass of the caller's.

        Raises:
            AnswerError: see `question_states`.
        """
        before = self._before()
        return [self._text(before, self._ids(text)) for text in texts]

    def _render(self, *times_s: float) -> tuple[int, ...]:
        """Return the tokens of a prompt up to its question, frames at full resolution."""
        parts = self.llm.parts
        per_frame = parts.tokens_per_frame + parts.family.separators
        shown = prompt_text(parts.family, parts.placeholder, times_s, per_frame, TRIAL)
        text = render(parts.tokenizer, parts.template, shown)
        return tuple(prompt_ids(parts.tokenizer, text[: text.rindex(TRIAL)]))

    def _ids(self, text: str) -> list[int]:
        """Return the tokens of a question by itself, so that it is known which ones are its own.

        Raises:
            AnswerError: see `question_states`.
        """
        self.llm.parts.marks.check(text)
        ids = self.llm.parts.tokenizer(text.strip(), add_special_tokens=False)["input_ids"]
        if not ids:
            msg = f"question {text[:80]!r} is no text to this model's tokenizer; write it in other letters"
            raise AnswerError(msg)
        return ids

    def _text(self, before: Sequence[int], ids: Sequence[int]) -> Segment:
        """Return a question behind the template's tokens."""
        language, device = self.llm.language, self.llm.language.device
        whole_L = torch.tensor([*before, *ids], device=device)
        own = torch.arange(len(before), len(whole_L), device=device)
        return self._segment(language.embed(whole_L), language.span(0, len(whole_L)), own)

    def _segment(self, embeds_LD: torch.Tensor, positions_PL: torch.Tensor, keep_R: torch.Tensor) -> Segment:
        device = self.llm.language.device
        tree = TokenTree(len(embeds_LD), self.num_layers, device)
        trunk_L = torch.full((len(embeds_LD),), TRUNK, device=device)
        return Segment(tree, trunk_L, embeds_LD, positions_PL, keep_R)

    def frame_segments(
        self, features: "FrameFeatures", frames: Sequence[tuple[int, float]], text: str
    ) -> list[Segment]:
        """Return one sequence per (frame, time); its visual tokens and its last are kept.

        Raises:
            AnswerError: see `question_states`.
        """
        asked = self._ids(text)
        llm, language = self.llm, self.llm.language
        clips = self._pool(features, [row for row, _ in frames])
        segments: list[Segment] = []
        visual: list[torch.Tensor] = []
        for clip, (_, time_s) in zip(clips, frames, strict=True):
            ids = self._before(time_s)
            cut = len(ids) - ids[::-1].index(llm.parts.config.image_token_id)
            head = llm.assemble(ids[:cut], clip)
            behind_L = torch.tensor([*ids[cut:], *asked], device=language.device)
            end = len(head.embeds_LD)
            embeds_LD = torch.cat([head.embeds_LD, language.embed(behind_L)])
            positions_PL = torch.cat(
                [head.positions_PL, language.span(head.next_position, len(behind_L))], dim=1
            )
            seen = torch.arange(len(embeds_LD), device=language.device)
            start, shown = end - len(clip.values_CD) - llm.parts.family.separators, len(clip.values_CD)
            segments.append(
                self._segment(embeds_LD, positions_PL, torch.cat([seen[start : start + shown], seen[-1:]]))
            )
            visual.append((seen >= start) & (seen < end))
        layers = [torch.cat(tensors) for tensors in zip(*(clip.layers_CD for clip in clips), strict=True)]
        extra = llm.parts.family.deepstack_inputs(torch.cat(visual), layers)
        return [replace(segments[0], extra=extra), *segments[1:]]

    def _pool(self, features: "FrameFeatures", rows: Sequence[int]) -> list["Clip"]:
        """Return each frame as a clip of its own, pooled."""
        from actors.models.video_llm import Clip

        index, per_frame = list(rows), self.llm.parts.tokens_per_frame
        plan = [self.tokens_per_frame] * len(index)

        def pool(values_NKD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            pooled = pool_grid(whole_frames(values_NKD[index], self.llm.parts.grid), plan)
            places_NC = pooled.source_N.unflatten(0, (len(index), -1)) % per_frame
            return pooled.values_ND.unflatten(0, (len(index), -1)), places_NC[0]

        values_NCD, place_C = pool(features.values_NKD)
        layers = [pool(layer_NKD)[0] for layer_NKD in features.layers_NKD]
        return [
            Clip(
                rows=(row,),
                tokens_T=(len(place_C),),
                values_CD=values_NCD[at],
                place_C=place_C,
                separators_TD=features.separators_NKD[[row]],
                layers_CD=tuple(layer_NCD[at] for layer_NCD in layers),
            )
            for at, row in enumerate(index)
        ]

    # --- passes --------------------------------------------------------------------------------------------------

    def _forward(self, segments: Sequence[Segment]) -> list[torch.Tensor]:
        """Return the states [R, D] of what each sequence keeps."""
        found = forward(self.decoder, segments)
        self.num_tokens += sum(len(segment.branch_L) for segment in segments)
        return found

    def _in_chunks(
        self, read: Callable[[Sequence[Any]], list[torch.Tensor]], items: Sequence[Any], what: str
    ) -> list[torch.Tensor]:
        """Return what is read of each item, a few at a time, half as many where memory runs out."""
        count = self.llm.language.out_of_memory
        found: list[torch.Tensor] = []
        for start in range(0, len(items), SEQUENCES_PER_CALL):
            part = items[start : start + SEQUENCES_PER_CALL]
            found += halve_on_out_of_memory(read, part, f"{len(part)} {what}", count)
        return found

    def _stack(self, rows: Sequence[torch.Tensor], *shape: int) -> torch.Tensor:
        """Return tensors as one that gradients may be computed through: those of a pass are marked as not to be."""
        if not rows:
            return torch.empty((0, *shape), device=self.llm.language.device)
        return torch.stack([row.clone() for row in rows])


class Gaze:
    """Where one token looks; asked again in every layer, the last one counts."""

    def __init__(self) -> None:
        self.share = torch.empty(())
        """Of its attention, on the tokens in question; the mean of all heads."""

    def look(self, tokens_C: torch.Tensor) -> Callable[[torch.Tensor, torch.Tensor, float | None], None]:
        """Return what a layer tells its queries and keys; see token_tree.Segment."""

        def watch(query: torch.Tensor, keys: torch.Tensor, scaling: float | None) -> None:
            last_HE = query[0, :, -1].float()
            keys_HLE = keys[0].repeat_interleave(len(last_HE) // keys.shape[1], dim=0).float()
            scores_HL = (keys_HLE @ last_HE[:, :, None])[..., 0]
            scale = query.shape[-1] ** -0.5 if scaling is None else scaling
            self.share = (scores_HL * scale).softmax(-1)[:, tokens_C].sum(-1).mean()

        return watch


def first_layers(decoder: Any, num_layers: int) -> Any:
    """Return a text decoder that ends behind its first layers, without its final norm; the weights are the same."""
    shadow = copy(decoder)
    vars(shadow).pop("forward", None)  # a wrapped one, as quantised models have, would run the original
    shadow._modules = {
        **decoder._modules,
        "layers": nn.ModuleList(decoder.layers[:num_layers]),
        "norm": nn.Identity(),
    }
    return shadow
