"""Queries: what is asked of every window, read from a file and checked before anything starts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["find", "flag", "ask", "choose"]
KINDS: tuple[Kind, ...] = ("find", "flag", "ask", "choose")


@dataclass(frozen=True, slots=True)
class Query:
    """One question asked of every window of every video."""

    query_id: str
    text: str
    kind: Kind
    choices: tuple[str, ...] = ()
    """The allowed answers of `choose`; empty for the other kinds."""
    threshold: float | None = None
    """Relevance in [0, 1] from which a frame counts; None = the job's `score.threshold`."""
    budget_tokens: int | None = None
    """Visual tokens one (window, query) may spend; None = the job's `plan.budget_tokens`."""


def texts(queries: Sequence[Query]) -> list[str]:
    """Return every text whose relevance is scored: each query's own, then its choices, query by query."""
    return [text for query in queries for text in (query.text, *query.choices)]


def columns(queries: Sequence[Query]) -> dict[str, tuple[int, range]]:
    """Return, per query id, its own column in `texts` and the columns of its choices."""
    found: dict[str, tuple[int, range]] = {}
    position = 0
    for query in queries:
        after = position + 1 + len(query.choices)
        found[query.query_id] = (position, range(position + 1, after))
        position = after
    return found
