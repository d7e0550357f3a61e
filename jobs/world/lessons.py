"""Training batches for the world's model: clips shown with many plans, each with several questions beside each other.

Questions are branches of one trunk, as they are when the model answers: each sees the clip and itself, never another
question. Shape letters: B clips, L tokens, T frames, K tokens per frame, D hidden size, R branches.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from actors.models.prompting import question
from jobs.world.questions import Asked, ask
from jobs.world.scenes import SECONDS, SIDE, Scene, make_scene
from jobs.world.sprites import BAG, BURST, COLORS, DIGITS, SHAPES
from jobs.world.words import END, vocabulary
from pipeline.compress.uniform import pooled_grid
from pipeline.queries import Query

TOKENS = SIDE * SIDE
SIZES = (16, 8, 4, 2, 1)
"""Visual tokens that a frame may be shown with."""
THINGS = ("", *SHAPES, BAG, BURST)
INKS = ("", *COLORS, "black")
NUMERALS = ("", *DIGITS)
WORDS = {word: number for number, word in enumerate(vocabulary())}

Rng = np.random.Generator
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Lesson:
    """One question in tokens, in the three ways that the product asks it."""

    asked: Asked
    plain: tuple[int, ...]
    """As `ask`."""
    listed: tuple[int, ...]
    """As `choose` or `flag`."""
    bare: tuple[int, ...]
    """The question alone."""
    answer: int


def lessons(tokenizer: Any, scene: Scene) -> list[Lesson]:
    """Return the questions of a scene in tokens."""
    found: list[Lesson] = []
    for asked in ask(scene):
        kind = "choose" if asked.choices else "flag"
        listed = question(Query("q", asked.text, kind, choices=asked.choices))
        ids = [tuple(tokenizer(f"{text}\nAnswer:")["input_ids"]) for text in (asked.text, listed)]
        found.append(Lesson(asked, ids[0], ids[1], ids[0][:-2], WORDS[asked.answer]))
    return found


def cells(scene: Scene) -> npt.NDArray[np.uint8]:
    """Return what each cell holds in each second: indices into THINGS, INKS and NUMERALS, [T, K, 3]."""
    found = np.zeros((SECONDS, TOKENS, 3), np.uint8)
    for second, things in enumerate(scene.things):
        for thing in things:
            ink = INKS.index(thing.color)
            found[second, thing.cell] = THINGS.index(thing.shape), ink, NUMERALS.index(thing.digit)
    return found


def pooling() -> torch.Tensor:
    """Return the matrix that makes, of one frame's tokens, those of every size in SIZES, [sum of SIZES, K]."""
    parts: list[torch.Tensor] = []
    for size in SIZES:
        rows, columns = pooled_grid((SIDE, SIDE), size)
        row_of, column_of = (torch.arange(SIDE) * parts_of // SIDE for parts_of in (rows, columns))
        cell_K = (row_of[:, None] * columns + column_of).flatten()
        inside_MK = cell_K == torch.arange(rows * columns)[:, None]
        parts.append(inside_MK / inside_MK.sum(1, keepdim=True))
    return torch.cat(parts)


FIRST_OF: dict[int, int] = dict(zip(SIZES, np.cumsum([0, *SIZES[:-1]]).tolist(), strict=True))
"""Where the tokens of each size begin in the rows of `pooling`."""


def key_seconds(rng: Rng, asked: Sequence[Asked], scene: Scene) -> set[int]:
    """Return a second of each thing that happens, so that every question can be answered from them."""
    spans = [(visit.start_s, visit.end_s) for visits in scene.visits.values() for visit in visits]
    spans += [span for one in asked for span in one.evidence_s]
    spans += [(second, second + 1) for second in scene.collisions_s]
    found = {int(rng.integers(start_s, end_s)) for start_s, end_s in spans}
    if scene.bag is not None:
        found |= {scene.bag[1]}
    for one in asked:
        if one.category == "leave":
            found |= {second for start_s, end_s in one.evidence_s for second in range(start_s, end_s)}
    return found


def tiny_plan(rng: Rng, asked: Sequence[Asked]) -> tuple[list[int], list[int]]:
    """Return tokens per frame, and which questions can be asked: one visitor's frame and up to two others.

    Where a model learns first that words and pictures have to do with each other.
    """
    local = [place for place, one in enumerate(asked) if one.category in ("color", "digit", "side", "group")]
    about = asked[int(rng.choice(local))]
    shown = {int(rng.integers(*about.evidence_s[0])), *rng.integers(0, SECONDS, rng.integers(0, 3)).tolist()}
    size = int(rng.choice([16, 16, 16, 8]))
    same = [place for place in local if asked[place].shape == about.shape]
    return [size if second in shown else 0 for second in range(SECONDS)], same


def make_plan(rng: Rng, scene: Scene, asked: Sequence[Asked], easy: float) -> tuple[list[int], list[int]]:
    """Return tokens per frame, and which questions can be asked of a clip shown so.

    Dense, uniform, some frames only, or a few at full size among small ones: whatever a budget may make of a clip.
    """
    everything = list(range(len(asked)))
    if rng.random() < easy:
        shown = key_seconds(rng, asked, scene) | set(rng.integers(0, SECONDS, 2).tolist())
        sizes = rng.choice([16, 16, 16, 8, 4]) if rng.random() < 0.7 else 0
        return [int(sizes or rng.choice([16, 8, 4])) if s in shown else 0 for s in range(SECONDS)], everything
    kind = rng.choice(["dense", "uniform", "frames", "fragment"], p=[0.15, 0.3, 0.1, 0.45])
    if kind == "dense":
        return [TOKENS] * SECONDS, everything
    if kind == "uniform":
        return [int(rng.choice([8, 4, 4, 2, 1]))] * SECONDS, everything
    if kind == "frames":
        num = int(rng.choice([16, 10, 5]))
        shown = set(((2 * np.arange(num) + 1) * SECONDS // (2 * num)).tolist())
        size = int(rng.choice([16, 16, 8]))
        return [size if second in shown else 0 for second in range(SECONDS)], everything
    local = [place for place, one in enumerate(asked) if one.evidence_s]
    about = asked[int(rng.choice(local))]
    relevant = {second for start_s, end_s in about.evidence_s for second in range(start_s, end_s)}
    if rng.random() < 0.3 and len(relevant) > 1:
        relevant.discard(int(rng.choice(sorted(relevant))))
    relevant |= set(rng.integers(0, SECONDS, rng.integers(0, 4)).tolist())
    background = int(rng.choice([8, 4, 4, 2, 2, 1, 0]))
    share = rng.choice([1.0, 1.0, 0.5])
    plan = [
        TOKENS if second in relevant else background * int(rng.random() < share) for second in range(SECONDS)
    ]
    same = [
        place for place, one in enumerate(asked)
        if one is about or (one.shape == about.shape and one.category not in ("at", "leave")) or not one.evidence_s
    ]  # fmt: skip
    return plan, same if background else [place for place in same if asked[place].evidence_s]


Lessons = list[tuple[Scene, list[Lesson]]]
"""Scenes, each with its questions."""


@dataclass(frozen=True, slots=True)
class Shown:
    """One clip as a sequence: a trunk, and branches behind it."""

    source_L: list[int]
    """Of each token: its number in the vocabulary, or -1 - (its row among the pooled tokens of the clip)."""
    trunk: int
    branch_L: list[int]
    """0 for the trunk, then the number of the branch."""
    position_L: list[int]
    targets: list[tuple[int, int, int]]
    """(place, token that follows, question)"""


def show(plan: Sequence[int], chosen: Sequence[Lesson], listed: bool) -> Shown:
    """Return a clip and its questions as one sequence."""
    source: list[int] = []
    per_frame = sum(SIZES)
    for second, tokens in enumerate(plan):
        if tokens:
            first = second * per_frame + FIRST_OF[tokens]
            source += [WORDS[f"<{second}s>"], *(-1 - row for row in range(first, first + tokens))]
    trunk = len(source)
    branch, position = [0] * trunk, list(range(trunk))
    targets: list[tuple[int, int, int]] = []
    for number, lesson in enumerate(chosen):
        ids = lesson.listed if listed else lesson.plain
        targets.append((len(source) + len(ids) - 1, lesson.answer, number))
        targets.append((len(source) + len(ids), WORDS[END], -1))
        source += [*ids, lesson.answer]
        branch += [number + 1] * (len(ids) + 1)
        position += range(trunk, trunk + len(ids) + 1)
    return Shown(source, trunk, branch, position, targets)


def collate(shown: Sequence[Shown]) -> dict[str, torch.Tensor]:
    """Return padded tensors: source and position [B, L], may_see [B, 1, L, L]."""
    longest = max(len(one.source_L) for one in shown)

    def pad(values: Sequence[Sequence[int]], fill: int) -> torch.Tensor:
        return torch.tensor([[*row, *[fill] * (longest - len(row))] for row in values])

    branch_BL = pad([one.branch_L for one in shown], -1)
    same = (branch_BL[:, :, None] == branch_BL[:, None, :]) | (branch_BL == 0)[:, None, :]
    causal = torch.ones(longest, longest, dtype=torch.bool).tril()
    return {
        "source": pad([one.source_L for one in shown], 0),
        "position": pad([one.position_L for one in shown], 0),
        "may_see": (same & causal)[:, None],
    }


def embed(model: Any, source_BL: torch.Tensor, tokens_BND: torch.Tensor) -> torch.Tensor:
    """Return embeddings [B, L, D]: words, and the clips' own visual tokens where the source is negative."""
    words = model.get_input_embeddings()(source_BL.clamp(min=0))
    rows = (-1 - source_BL).clamp(min=0)
    seen = tokens_BND.gather(1, rows[..., None].expand(-1, -1, words.shape[-1])).float()
    return torch.where((source_BL < 0)[..., None], seen, words)


def load_scenes(seeds: Sequence[int], tokenizer: Any) -> Lessons:
    """Return scenes and their questions in tokens."""
    scenes = [make_scene(seed) for seed in seeds]
    return [(scene, lessons(tokenizer, scene)) for scene in scenes]
