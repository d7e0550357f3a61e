"""Spans of `find` put to a language model: each one a `flag` question on the span's own frames.

Relevance finds what looks like the query; a language model can tell whether it is.
"""

from collections.abc import Sequence
from dataclasses import replace

from actors.models import Answer, Ask, Cost, WindowView
from pipeline.budget import Plan

MIN_PROBABILITY = 0.5
"""Probability of yes from which a span stays."""

Span = tuple[float, float, float]


def candidates(window: WindowView, ask: Ask, found: Answer) -> list[tuple[Span, Ask]]:
    """Return the spans of a `find` answer whose frames the plan shows, each with the question that would confirm it."""
    asks: list[tuple[Span, Ask]] = []
    for span in found.spans:
        start_s, end_s, _ = span
        inside_N = (window.pts_s_N >= start_s) & (window.pts_s_N < end_s)
        tokens_N = tuple(
            tokens if inside else 0 for tokens, inside in zip(ask.plan.tokens_N, inside_N, strict=True)
        )
        if any(tokens_N):
            query = replace(ask.query, kind="flag")
            plan = Plan(ask.plan.route, tokens_N, ask.plan.reason)
            asks.append((span, replace(ask, query=query, plan=plan)))
    return asks


def confirm(found: Answer, asked: Sequence[tuple[Span, Answer]]) -> Answer:
    """Return a `find` answer with the spans that the model confirms, scored by its probability of yes, best first.

    A span that the budget left no frame of stays as relevance found it. A span whose question failed fails the answer:
    whether it belongs there is not known.
    """
    if not asked:
        return found
    errors = [answer.error for _, answer in asked if answer.error]
    tokens_dense = asked[0][1].tokens_dense
    spent = replace(found, tokens_dense=tokens_dense, cost=sum((answer.cost for _, answer in asked), Cost()))
    if errors:
        error = f"a span could not be confirmed: {errors[0]}"
        return Answer("", 0.0, tokens_dense=tokens_dense, cost=spent.cost, error=error)
    checked = [(span[0], span[1], _chance(answer)) for span, answer in asked]
    unchecked = [span for span in found.spans if span not in {span for span, _ in asked}]
    scored = sorted([*checked, *unchecked], key=lambda span: -span[2])
    kept = [span for span in scored if span[2] >= MIN_PROBABILITY or span in unchecked]
    frames = sorted({frame for _, answer in asked for frame in answer.evidence})
    return replace(
        spent,
        answer="found" if kept else "not found",
        confidence=scored[0][2],
        spans=tuple(kept),
        evidence=tuple(frames),
        tokens_used=sum(answer.tokens_used for _, answer in asked),
    )


def _chance(answer: Answer) -> float:
    """Return the probability of yes."""
    return answer.confidence if answer.answer == "yes" else 1 - answer.confidence
