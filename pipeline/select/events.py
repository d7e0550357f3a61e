"""What could not be foreseen begins an event, and is shown whole.

Shape letters: M units (frames, or events) in time order, E embedding.
"""

from typing import Protocol

import numpy as np
import numpy.typing as npt

from pipeline.budget import Indices, Plan
from pipeline.methods import Method
from pipeline.select.likeness import Wide, change, directions, unit
from pipeline.select.spending import (
    Part,
    check_buys,
    nothing_to_show,
    plan_of,
    quarter_of,
    spend_on_parts,
)
from pipeline.selection import SeenFrames

METHOD = Method(
    source="VideoScaffold (arXiv 2512.22226), as reviews describe it",
    stage="select",
    what="foresees the next embedding; where 1 - cosine is above .4 an event begins, and of events scenes are made the"
    " same way. The least foreseen frame of each event gets all its tokens, the rest of the event one token",
    differs="the trained predictor is not public: ours carries the last step on, and any `PredictFn` can take its"
    " place. No cross-attention: the coarse token is that of the event's middle frame. Where the budget does not hold"
    " all events, those with the least foreseen frames are, or scenes instead where that shows more frames whole",
    needs=("embeddings",),
)

BOUNDARY_ERROR = 0.4


class PredictFn(Protocol):
    """Foresee every unit but the first from those before it: [M, E] of length 1 to [M - 1, E]."""

    def __call__(self, unit_ME: Wide) -> Wide: ...


def extrapolate(unit_ME: Wide) -> Wide:
    """Return each unit but the first as foreseen by carrying the last step on; the second as the first."""
    return unit_ME[:-1] + np.diff(unit_ME[:-1], axis=0, prepend=unit_ME[:1])


def show_events(
    frames: SeenFrames,
    *,
    budget_tokens: int,
    tokens_per_frame: int,
    predict: PredictFn = extrapolate,
) -> Plan:
    """Return one whole frame per event, or per scene where that shows more of them whole, and one token of each rest.

    Args:
        frames: of them, embeddings are read.
        budget_tokens: most tokens that may be spent.
        tokens_per_frame: tokens of one frame at full resolution.
        predict: what foresees an embedding.
    """
    if not len(frames):
        return nothing_to_show()
    check_buys(budget_tokens, quarter_of(tokens_per_frame), tokens_per_frame)
    direction_NE = directions(frames)
    error_N = errors(direction_NE, predict)
    events = np.split(np.arange(len(frames)), boundaries(error_N))
    mean_ME = unit(np.stack([direction_NE[event].mean(axis=0) for event in events]))
    groups = np.split(np.arange(len(events)), boundaries(errors(mean_ME, predict)))
    scenes = [np.concatenate([events[event] for event in group.tolist()]) for group in groups]
    levels = {"events": events, "scenes": scenes}
    tried = {
        name: _spend(segments, error_N, budget_tokens, tokens_per_frame) for name, segments in levels.items()
    }
    name = max(tried, key=lambda level: tried[level][1])
    tokens_N, num_focused = tried[name]
    return plan_of(
        tokens_N,
        f"the least foreseen frame of {num_focused} of {len(levels[name])} {name} at {tokens_N.max()} tokens, the rest"
        f" of {len(frames)} frames in {np.count_nonzero(tokens_N) - num_focused} tokens",
    )


def errors(unit_ME: Wide, predict: PredictFn) -> Wide:
    """Return 1 - cosine between each unit and what was foreseen, float64 [M]; 1 for the first."""
    error_M = np.ones(len(unit_ME))
    error_M[1:] = change(unit(predict(unit_ME)), unit_ME[1:])
    return error_M


def boundaries(error_M: Wide) -> Indices:
    """Return where segments begin, but for the first."""
    return np.flatnonzero(error_M[1:] > BOUNDARY_ERROR) + 1


def _spend(
    segments: list[Indices], error_N: Wide, budget_tokens: int, tokens_per_frame: int
) -> tuple[npt.NDArray[np.int64], int]:
    """Return tokens of frames for one level, and how many of its segments have a whole frame."""
    parts = [_part(segment, error_N) for segment in segments]
    rank = np.argsort([-error_N[part.focus[0]] for part in parts], kind="stable")
    return spend_on_parts(parts, rank, budget_tokens, len(error_N), tokens_per_frame)


def _part(segment: Indices, error_N: Wide) -> Part:
    """Return a segment as its least foreseen frame and the middle one of the others."""
    anchor = segment[np.argmax(error_N[segment])]
    rest = segment[segment != anchor]
    trace = int(rest[len(rest) // 2]) if len(rest) else None
    return Part(np.asarray([anchor]), trace, int(segment[len(segment) // 2]))
