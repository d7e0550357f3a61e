"""What a model's own answers say about a question: which policy serves it, and which frames it cannot do without.

All of it is written as generators that yield what should be shown and are sent what came of it, so that the questions
of a video are put to the model side by side. Nothing here knows a model.

Source: VideoRouter (arXiv 2605.05848): forced-policy probing, minimal sufficient frames, counterfactual necessity. How
these frames are found is this project's.
"""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass

from pipeline.budget import Plan, plan_tokens
from pipeline.errors import AnswerError
from pipeline.rows import Row

Frames = tuple[int, ...]
Search = Generator[Frames, bool, "Found"]
"""Yields frames to show, in time order; is sent whether the question is answered with them."""


@dataclass(frozen=True, slots=True)
class Judged:
    """What came of one showing."""

    is_right: bool
    likelihood: float
    """Of the known answer, in [0, 1]."""


@dataclass(frozen=True, slots=True)
class Found:
    """Frames that matter."""

    relevant: Frames
    """In time order."""
    masked_answerable: bool
    """Whether the question is still answered without them, or could not be put because no other frame is left: then
    nothing tells these frames from others."""


def search_frames(ranked: Sequence[int], max_rounds: int) -> Search:
    """Find the frames a question cannot do without, most promising ones first.

    A smallest sufficient set is looked for; as long as what is left still answers the question (the same thing shows
    in several frames), another one is looked for in there. So the frames found are sufficient, and necessary as a
    whole.

    Raises:
        AnswerError: not answered with all of them.
    """
    if not (yield tuple(sorted(ranked))):
        msg = f"the model does not give the known answer with all {len(ranked)} frames shown"
        raise AnswerError(msg)
    rest, found = list(ranked), list[int]()
    for _ in range(max_rounds):
        found += yield from _sufficient(rest)
        rest = [frame for frame in ranked if frame not in found]
        if not rest:
            break
        if not (yield tuple(sorted(rest))):
            return Found(tuple(sorted(found)), masked_answerable=False)
    return Found(tuple(sorted(found)), masked_answerable=True)


def trust_frames(given: Sequence[int], num_frames: int) -> Search:
    """Take the given frames as they are, and ask whether the question is answered without them.

    Raises:
        AnswerError: none is given.
    """
    if not given:
        msg = f"none of the {num_frames} frames lies in the given evidence"
        raise AnswerError(msg)
    rest = tuple(frame for frame in range(num_frames) if frame not in given)
    answered = (yield rest) if rest else True
    return Found(tuple(sorted(given)), masked_answerable=answered)


def _sufficient(ranked: Sequence[int]) -> Generator[Frames, bool, list[int]]:
    """Return few frames that answer the question, knowing that all of them do."""
    size = 1
    while size < len(ranked) and not (yield tuple(sorted(ranked[:size]))):
        size *= 2
    low, high = size // 2, min(size, len(ranked))
    while high - low > 1:
        middle = (low + high) // 2
        if (yield tuple(sorted(ranked[:middle]))):
            high = middle
        else:
            low = middle
    kept = list(ranked[:high])
    return (yield from _without(kept, kept))


def _without(kept: list[int], chunk: Sequence[int]) -> Generator[Frames, bool, list[int]]:
    """Return the frames kept without those of a chunk that are not needed; halves where it is not needed whole."""
    less = [frame for frame in kept if frame not in chunk]
    if less and (yield tuple(sorted(less))):
        return less
    if len(chunk) == 1:
        return kept
    # the least promising ones go first
    for half in (chunk[len(chunk) // 2 :], chunk[: len(chunk) // 2]):
        kept = yield from _without(kept, half)
    return kept


def probe(
    policies: Mapping[str, Plan], show: "Show", search: Search, min_likelihood: float
) -> Generator[Plan, Judged, Row]:
    """Return the columns that a model's answers give for one question.

    Yields plans, is sent what came of them.

    Args:
        policies: the plan of each policy.
        show: makes a plan of frames.
        search: for the frames that matter.
        min_likelihood: below it the right answer does not count as given.

    Raises:
        AnswerError: thrown in when the model refuses a policy's plan; refusals in the search become `search_error`.
    """
    row: Row = {}
    for policy, plan in policies.items():
        judged = yield plan
        row |= {f"right_{policy}": judged.is_right, f"likelihood_{policy}": judged.likelihood}
    try:
        frames = next(search)
        while True:
            judged = yield show(frames)
            frames = search.send(judged.is_right and judged.likelihood >= min_likelihood)
    except StopIteration as stop:
        found: Found = stop.value
        return row | {"relevant": list(found.relevant), "masked_answerable": found.masked_answerable}
    except AnswerError as error:
        return row | {"search_error": str(error)}


class Show:
    """Makes plans that show some frames and no others."""

    def __init__(self, num_frames: int, settings: Mapping[str, int], tokens_per_frame: int) -> None:
        """Take the frames there are, scales as `plan_tokens` names them, and a frame's tokens.

        The budget is what all frames cost: frames would otherwise look worse the more of them are shown, and one that
        matters would seem not to.
        """
        self.num_frames = num_frames
        self.settings = {**settings, "budget_tokens": num_frames * tokens_per_frame}
        self.tokens_per_frame = tokens_per_frame

    def __call__(self, frames: Sequence[int]) -> Plan:
        """Return a plan of these frames, each as the fragment route shows relevant ones."""
        made = plan_tokens(
            [1.0] * len(frames),
            route="fragment",
            route_confidence=1.0,
            tokens_per_frame=self.tokens_per_frame,
            threshold=0.5,
            max_relevant_share=1.0,
            **self.settings,
        )
        tokens = dict(zip(frames, made.tokens_N, strict=True))
        return Plan(made.route, tuple(tokens.get(frame, 0) for frame in range(self.num_frames)), made.reason)
