"""Answers from any image-and-text model of transformers, through the library's own processor and `generate`.

The fall-back for models of no known family: plain and slow. Frames are shown whole, every question carries its own
frames through the vision tower again, and labels are scored by `generate` too, their tokens forced on it, since only
the library knows which further inputs such a model wants behind its prompt.

Shape letters: N frames, L generated tokens, V vocabulary.
"""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import torch
from PIL import Image

from actors.device import is_out_of_memory
from actors.models import (
    Answer,
    Answerer,
    AnswererEntry,
    AnswererFacts,
    Ask,
    Cost,
    Device,
    Request,
    WindowView,
)
from actors.models.answering import free_text, given, likeliest, refused, why_not
from actors.models.any_processor import Parts, process, read_parts
from actors.models.decoding import NOT_FINITE, end_tokens
from actors.models.families import FAMILIES
from actors.models.loading import load_model
from actors.models.marks import Marks
from actors.models.prompting import label_ids, labels, prior_key, question
from pipeline.config import AnswerConfig, CompressConfig
from pipeline.errors import AnswerError, RowError
from pipeline.queries import Query

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Prompt:
    """A question about some frames, or about none, as the model takes it."""

    inputs: dict[str, Any]
    num_frames: int

    @property
    def num_tokens(self) -> int:
        """Tokens of the prompt, those of its frames included."""
        return self.inputs["input_ids"].shape[1]


@dataclass(frozen=True, slots=True)
class Said:
    """What one call of `generate` computed."""

    ids: list[int]
    logs_LV: torch.Tensor
    """Log-probabilities of every token at each step."""


def describe(config: AnswerConfig) -> AnswererFacts:
    """Return the model's name, revision and what a frame costs; reads no weights.

    Raises:
        ModelError: see `read_parts`.
        ConfigError: see `read_parts`.
    """
    parts = read_parts(config, weights=False)
    return AnswererFacts(
        config.model, parts.files.revision, parts.tokens_per_frame, parts.frame_size, cuts_frames=False
    )


def make(config: AnswerConfig, compress: CompressConfig, device: Device) -> Answerer:
    """Return the answerer with its weights on the device; says in the log what it does without.

    Raises:
        ModelError: see `read_parts`; or the weights do not fit.
        ConfigError: see `read_parts`.
    """
    del compress
    parts = read_parts(config, weights=True)
    model = load_model(
        "AutoModelForImageTextToText", parts.files, config.dtype, device,
        attention=config.attention, quantize=config.quantize, compile=config.compile,
    )  # fmt: skip
    logger.warning(
        "model class %s is not one of %s: frames are shown whole, no token compression, no shared prefill",
        type(model).__name__,
        ", ".join(sorted(FAMILIES)),
    )
    return AnyLlm(parts, model, config)


ENTRY = AnswererEntry(describe, make)


class AnyLlm:
    """Holds one model; see the module."""

    def __init__(self, parts: Parts, model: Any, config: AnswerConfig) -> None:
        self.parts = parts
        self.model = model
        self.tokenizer = parts.processor.tokenizer
        self.marks = Marks(self.tokenizer, parts.write((), ""), parts.marker)
        self.stop = config.stop
        self.remove_prior = config.remove_prior
        self.max_new_tokens = config.max_new_tokens
        self.context_tokens = getattr(
            parts.config.get_text_config(decoder=True), "max_position_embeddings", None
        )
        self.priors: dict[tuple[str, ...], torch.Tensor] = {}
        """Per question and labels, the labels' mean log-probabilities without a video."""
        self.spent = Cost()
        self.ends = end_tokens(model, self.tokenizer)
        model.generation_config = _greedy(model.generation_config, sorted(self.ends))

    def answer(self, requests: Sequence[Request]) -> list[list[Answer]]:
        """Return, per request, one Answer per ask, in order; see actors.models.Answerer."""
        return [[self._answer(request.window, ask) for ask in request.asks] for request in requests]

    def _answer(self, window: WindowView, ask: Ask) -> Answer:
        """Return the answer to one question, or why there is none."""
        self.spent = Cost()
        try:
            return self._ask(window, ask)
        except RowError as error:
            reason = str(error)
        except ValueError as error:
            reason = f"{type(self.model).__name__} refused the prompt: {error}"
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            tokens = len(self._rows_shown(window, ask)) * self.parts.tokens_per_frame
            reason = f"out of memory on {tokens} visual tokens; lower plan.budget_tokens"
        return replace(refused(window, reason, self.parts.tokens_per_frame), cost=self.spent)

    def _ask(self, window: WindowView, ask: Ask) -> Answer:
        rows = self._rows_shown(window, ask)
        if window.evidence is None or not rows:
            raise AnswerError(why_not(window, ask, self.parts.tokens_per_frame))
        shown = [window.evidence_index[row] for row in rows]
        times_s = [float(window.pts_s_N[frame]) for frame in shown]
        frames = [Image.fromarray(window.evidence.data_NHWC[row]) for row in rows]
        prompt = self._prepare(ask.query, times_s, frames)
        said = self._speak(prompt) if ask.query.kind == "ask" else self._choose(ask.query, prompt)
        per_frame = self.parts.tokens_per_frame
        answer = given(window, ask, said, [(row, per_frame) for row in rows], per_frame)
        return replace(answer, cost=self.spent)

    def _rows_shown(self, window: WindowView, ask: Ask) -> list[int]:
        """Return which evidence frames the plan shows whole."""
        if ask.query.kind == "find":
            return []
        tokens_N, per_frame = ask.plan.tokens_N, self.parts.tokens_per_frame
        return [row for row, frame in enumerate(window.evidence_index) if tokens_N[frame] >= per_frame]

    def _prepare(self, query: Query, times_s: Sequence[float], frames: Sequence[Image.Image]) -> Prompt:
        """Return a question about some frames, or about none, on the model's device.

        Raises:
            AnswerError: the question holds a mark of the prompt, or a frame costs other than it should.
            ValueError: the processor refuses the prompt.
        """
        asked = question(query)
        self.marks.check(asked)
        inputs = process(self.parts.processor, self.parts.write(times_s, asked), frames)
        found = int((inputs["input_ids"] == self.parts.config.image_token_id).sum())
        expected = len(frames) * self.parts.tokens_per_frame
        if found != expected:
            msg = (
                f"the prompt holds {found} image tokens, expected {expected} for {len(frames)} frames as measured on"
                " blank ones; try another answer.frame_px"
            )
            raise AnswerError(msg)
        return Prompt({name: self._on_device(value) for name, value in inputs.items()}, len(frames))

    def _on_device(self, value: Any) -> Any:
        """Return a tensor where the model is, pictures in its number format; anything else as it is."""
        if not isinstance(value, torch.Tensor):
            return value
        return value.to(self.model.device, self.model.dtype if value.is_floating_point() else None)

    def _speak(self, prompt: Prompt) -> tuple[str, float]:
        """Return free text, up to a stop string, and the geometric mean of its tokens' probabilities.

        Raises:
            AnswerError: see `_generate`; or the model returned no text.
        """
        said = self._generate(prompt, self.max_new_tokens, stops=self.stop)
        ids = said.ids[:-1] if said.ids[-1] in self.ends else said.ids
        text = free_text(self.tokenizer.decode(ids, skip_special_tokens=True), self.stop, len(ids))
        logs = [float(said.logs_LV[at, token]) for at, token in enumerate(ids)]
        return text, math.exp(sum(logs) / len(logs))

    def _choose(self, query: Query, prompt: Prompt) -> tuple[str, float]:
        """Return the most likely label and its share of the likelihood of all labels."""
        words = labels(query)
        logs = self._label_logs(words, prompt)
        if self.remove_prior:
            key = prior_key(query)
            if key not in self.priors:
                self.priors[key] = self._label_logs(words, self._prepare(query, (), ()))
            logs = logs - self.priors[key]
        return likeliest(query, torch.softmax(logs, 0))

    def _label_logs(self, words: Sequence[str], prompt: Prompt) -> torch.Tensor:
        """Return [labels] float32: the mean log-probability per token of each label behind a prompt.

        Labels that differ in their last token alone share a run: its last step has the likelihoods of all of them.
        """
        ends_in = self.tokenizer.decode(prompt.inputs["input_ids"][0, -1:])
        ids = [tuple(label_ids(self.tokenizer, ends_in, word)) for word in words]
        runs: dict[tuple[int, ...], Said] = {}
        # longest first: a run also holds the steps of everything its tokens begin with
        for lead in sorted({label[:-1] for label in ids}, key=len, reverse=True):
            if not any(longer[: len(lead)] == lead for longer in runs):
                runs[lead] = self._generate(prompt, len(lead) + 1, forced=lead)
        found: list[torch.Tensor] = []
        for label in ids:
            said = next(said for lead, said in runs.items() if lead[: len(label) - 1] == label[:-1])
            found.append(torch.stack([said.logs_LV[at, token] for at, token in enumerate(label)]).mean())
        return torch.stack(found).cpu()

    def _generate(
        self, prompt: Prompt, num_tokens: int, *, forced: Sequence[int] = (), stops: Sequence[str] = ()
    ) -> Said:
        """Return at most some tokens behind a prompt, the first ones forced; a stop string ends them.

        Raises:
            AnswerError: no room in the model's context, or it computed something that is not a number.
        """
        if self.context_tokens and prompt.num_tokens + num_tokens > self.context_tokens:
            msg = (
                f"{prompt.num_tokens} prompt tokens and {num_tokens} for the answer do not fit into the model's context"
                f" of {self.context_tokens}; lower plan.budget_tokens or answer.max_new_tokens"
            )
            raise AnswerError(msg)
        with torch.inference_mode():
            out = self.model.generate(
                **prompt.inputs,
                max_new_tokens=num_tokens,
                logits_processor=[_force(forced)],
                stopping_criteria=[_stop_at(self.tokenizer, stops)],
            )
        num_steps = len(out.logits) - 1
        self.spent += Cost(
            prompt.num_frames,
            int(prompt.num_frames > 0),
            prompt.num_tokens,
            num_steps,
            decode_passes=num_steps,
        )
        logs_LV = torch.log_softmax(torch.cat(out.logits).float(), -1)
        # single words at minus infinity are the model's own ban on them
        if bool(logs_LV.isnan().any()):
            raise AnswerError(NOT_FINITE)
        return Said(out.sequences[0, -len(logs_LV) :].tolist(), logs_LV)


def _force(ids: Sequence[int]) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Return a step of `generate` that lets only the given tokens through, one after the other, then any."""
    left: Iterator[int] = iter(ids)

    def force(_ids_BL: torch.Tensor, scores_BV: torch.Tensor) -> torch.Tensor:
        token = next(left, None)
        if token is None:
            return scores_BV
        only_BV = torch.full_like(scores_BV, -torch.inf)
        only_BV[:, token] = 0
        return only_BV

    return force


def _stop_at(tokenizer: Any, stops: Sequence[str]) -> Callable[..., torch.Tensor]:
    """Return a step of `generate` that says whether the tokens so far hold one of the strings."""
    steps = count(1)

    def stop(ids_BL: torch.Tensor, _scores: Any, **_: Any) -> torch.Tensor:
        so_far = tokenizer.decode(ids_BL[0, -next(steps) :], skip_special_tokens=True) if stops else ""
        return torch.full((len(ids_BL),), any(stop in so_far for stop in stops), device=ids_BL.device)

    return stop


def _greedy(settings: Any, ends: list[int]) -> Any:
    """Return generation settings for plain greedy decoding, of the checkpoint's own only the special tokens.

    Its sampling and penalties are not applied, since the confidence must be the model's own.
    """
    from transformers import GenerationConfig

    pad = settings.pad_token_id
    return GenerationConfig(
        do_sample=False,
        num_beams=1,
        return_dict_in_generate=True,
        output_logits=True,
        bos_token_id=settings.bos_token_id,
        eos_token_id=ends or None,
        pad_token_id=next(iter(ends), None) if pad is None else pad,
        decoder_start_token_id=settings.decoder_start_token_id,
    )
