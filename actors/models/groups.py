"""What a call of the answerer is cut into: plans of a window, groups that share a trunk, passes of a group.

Plain values and functions on them; batching.py decides what is done when.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from actors.models import Ask, Request, WindowView
from actors.models.decoding import Question

if TYPE_CHECKING:
    from actors.models.video_llm import FrameFeatures, Head

TOKENS_PER_PASS = 512
"""Tokens of questions and labels that are put in one pass, where there are several questions."""

Place = tuple[int, int]
"""Which ask: (request, ask)."""


@dataclass(frozen=True, slots=True)
class Planned:
    """Asks of one window with the same plan, its frames encoded."""

    features: "FrameFeatures"
    picked: Sequence[int]
    """Which of the encoded frames the plan shows."""
    plan: Sequence[tuple[int, int]]
    """Of each of these, its row of the evidence and the visual tokens allowed."""
    places: Sequence[Place]


@dataclass(frozen=True, slots=True)
class Put:
    """One ask, its question in tokens."""

    place: Place
    question: Question


@dataclass(frozen=True, slots=True)
class Group:
    """Asks that share a trunk: first those answered by their labels, then those answered in free text."""

    head: "Head"
    puts: Sequence[Put]

    @property
    def num_tokens(self) -> int:
        """Tokens of the trunk."""
        return len(self.head.embeds_LD)


@dataclass(frozen=True, slots=True)
class Shown:
    """What is left of a clip once it is in a prompt."""

    rows: Sequence[int]
    tokens_T: Sequence[int]


def cut_passes(puts: Sequence[Put]) -> list[list[Put]]:
    """Cut questions into those put in one pass: of one kind, and not too many tokens."""
    found: list[list[Put]] = []
    size = 0
    for put in puts:
        new = not found or bool(put.question.labels) != bool(found[-1][0].question.labels)
        if new or size + put.question.num_tokens > TOKENS_PER_PASS:
            found.append([])
            size = 0
        found[-1].append(put)
        size += put.question.num_tokens
    return found


def shown_rows(window: WindowView, ask: Ask) -> list[int]:
    """Return which evidence frames a question may see."""
    if ask.query.kind == "find":
        return []
    return [row for row, frame in enumerate(window.evidence_index) if ask.plan.tokens_N[frame] > 0]


def shown_tokens(window: WindowView, ask: Ask) -> tuple[tuple[int, int], ...]:
    """Return these frames, each with the visual tokens allowed."""
    return tuple((row, ask.plan.tokens_N[window.evidence_index[row]]) for row in shown_rows(window, ask))


def looked_rows(window: WindowView, ask: Ask) -> list[int]:
    """Return which evidence frames a question may see; all where an image router has yet to say which."""
    return list(range(len(window.evidence_index))) if ask.candidates else shown_rows(window, ask)


def rows_of(request: Request) -> list[int]:
    """Return the evidence frames that have to be encoded for any question of a window."""
    return sorted({row for ask in request.asks for row in looked_rows(request.window, ask)})


def times_s(window: WindowView, rows: Sequence[int]) -> list[float]:
    """Return the times of some of the evidence frames."""
    return [float(window.pts_s_N[window.evidence_index[row]]) for row in rows]
