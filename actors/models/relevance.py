"""Answers from frame relevance alone: no language model, no visual tokens, three of the four kinds.

`find` is always answered here, also beside a language model. Confidence is what docs/answers.md says per kind.
"""

from collections.abc import Sequence

import numpy as np

from actors.models import Answer, Answerer, AnswererEntry, AnswererFacts, Ask, Device, Request, WindowView
from pipeline.budget import plan_evidence
from pipeline.config import AnswerConfig, CompressConfig
from pipeline.spans import find_spans

MAX_EVIDENCE = 8
CHOICE_SHARPNESS = 10.0
"""Inverse temperature of `choose`: a choice whose best frames are .1 more relevant is e times as likely."""


def describe(config: AnswerConfig) -> AnswererFacts:
    """Return that no pixels are needed and no tokens are spent."""
    del config
    return AnswererFacts(name="", revision="", tokens_per_frame=0, frame_size=None)


def make(config: AnswerConfig, compress: CompressConfig, device: Device) -> Answerer:
    """Return the answerer; there is nothing to load."""
    del config, compress, device
    return RelevanceAnswerer()


ENTRY = AnswererEntry(describe, make)


class RelevanceAnswerer:
    """Reads the relevance that the scorer found; see the module."""

    def answer(self, requests: Sequence[Request]) -> list[list[Answer]]:
        """Return one Answer per ask; `ask` is refused with the option that would serve it."""
        return [[_answer(request.window, ask) for ask in request.asks] for request in requests]


def _answer(window: WindowView, ask: Ask) -> Answer:
    if ask.query.kind == "ask":
        return Answer(
            answer="",
            confidence=0.0,
            error=f"query {ask.query.query_id!r} asks for free text, which needs a video language model:"
            " name one with --answer.model FOLDER_OR_HUB_ID (and another output folder)",
        )
    if ask.query.kind == "choose":
        return _choose(window, ask)
    return _find_or_flag(window, ask)


def _find_or_flag(window: WindowView, ask: Ask) -> Answer:
    """Return spans at or above the threshold; the best frame decides the answer and its confidence."""
    best = float(ask.relevance_N.max())
    found = find_spans(ask.relevance_N, window.pts_s_N, window.end_s, ask.threshold)
    spans = tuple((span.start_s, span.end_s, span.score) for span in found)
    evidence = _evidence(window, ask)
    if ask.query.kind == "find":
        return Answer("found" if spans else "not found", best, spans, evidence)
    return Answer("yes", best, spans, evidence) if spans else Answer("no", 1 - best, (), evidence)


def _choose(window: WindowView, ask: Ask) -> Answer:
    """Return the choice whose best frames are most relevant, by softmax over the choices."""
    top = min(3, len(ask.choices_NC))
    strength_C = np.sort(ask.choices_NC, axis=0)[-top:].mean(axis=0)
    odds_C = np.exp(CHOICE_SHARPNESS * (strength_C - strength_C.max()))
    share_C = odds_C / odds_C.sum()
    best = int(share_C.argmax())
    chosen = Ask(ask.query, ask.plan, ask.choices_NC[:, best], ask.choices_NC, ask.threshold)
    return Answer(ask.query.choices[best], float(share_C[best]), (), _evidence(window, chosen))


def _evidence(window: WindowView, ask: Ask) -> tuple[tuple[float, float, int], ...]:
    """Return the most relevant frames in time order."""
    index = plan_evidence(ask.relevance_N, window.pts_s_N, MAX_EVIDENCE)
    return tuple((float(window.pts_s_N[i]), float(ask.relevance_N[i]), 0) for i in index)
