"""What happens in a generated video, second by second, and what it looks like.

A video is a grid of cells. Residents wander about in it and come and go; visitors, of shapes that no resident of the
video has, come for two or three of its seconds. What is asked about a visitor can only be seen while it is there.
Every object carries a digit that is too small to be read from an averaged picture, and colour, shape and digit of
one object must be told from those beside it.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from jobs.world.sprites import BAG, BURST, CELL_PX, COLORS, DIGITS, SHAPES, backdrop, paste, sprite

SIDE = 4
"""Cells along one side of the picture."""
FRAME_PX = SIDE * CELL_PX
SECONDS = 32
"""Length of a video."""
NUM_VISITORS = 5
RESIDENT_SHAPES = 4
JITTER_PX = 3

Rng = np.random.Generator


@dataclass(frozen=True, slots=True)
class Thing:
    """An object as it stands in one second."""

    shape: str
    color: str
    digit: str
    cell: int
    """Row times SIDE plus column."""
    offset_px: tuple[int, int]
    """How far from the middle of its cell."""


@dataclass(frozen=True, slots=True)
class Visit:
    """Some seconds in which visitors of one shape are there, [start_s, end_s)."""

    start_s: int
    end_s: int
    things: tuple[Thing, ...]


@dataclass(frozen=True, slots=True)
class Scene:
    """All that happens in one video."""

    seed: int
    things: tuple[tuple[Thing, ...], ...]
    """Per second, everything that is there."""
    visits: dict[str, tuple[Visit, ...]]
    """Per visiting shape, its visits in order of time."""
    absent: tuple[str, ...]
    """Shapes that never appear."""
    bag: tuple[str, int, int] | None
    """A visitor that leaves a bag behind: its shape, and the seconds [start_s, end_s) in which the bag lies there."""
    collisions_s: tuple[int, ...]
    """Seconds in which two residents collide."""
    cuts_s: tuple[int, ...] = ()
    """Seconds at which the backdrop changes."""
    shake_s: frozenset[int] = field(default_factory=frozenset[int])
    """Seconds in which the camera shakes."""


def make_scene(seed: int) -> Scene:
    """Return the scene of a seed; the same for ever."""
    rng = np.random.default_rng([seed, 0])
    shapes: list[str] = rng.permutation(SHAPES).tolist()
    residents, rest = shapes[:RESIDENT_SHAPES], shapes[RESIDENT_SHAPES:]
    visitors, absent = rest[:NUM_VISITORS], rest[NUM_VISITORS:]
    taken: list[set[int]] = [set() for _ in range(SECONDS)]
    things: list[list[Thing]] = [[] for _ in range(SECONDS)]
    visits = {shape: _visit(rng, shape, place, taken) for place, shape in enumerate(visitors)}
    bag = _leave_bag(rng, visitors[0], visits[visitors[0]][-1], taken, things)
    for shape_visits in visits.values():
        for visit in shape_visits:
            for second in range(visit.start_s, visit.end_s):
                things[second] += visit.things
    collisions = _wander(rng, residents, taken, things)
    cuts = tuple(
        sorted(int(cut) for cut in rng.choice(np.arange(4, SECONDS), rng.integers(0, 3), replace=False))
    )
    start = int(rng.integers(0, SECONDS))
    shake = (
        frozenset(range(start, start + int(rng.integers(2, 8)))) if rng.random() < 0.5 else frozenset[int]()
    )
    return Scene(seed, tuple(map(tuple, things)), visits, tuple(absent), bag, collisions, cuts, shake)


def draw(scene: Scene, time_s: float) -> npt.NDArray[np.uint8]:
    """Return the picture shown at a time, [FRAME_PX, FRAME_PX, 3] RGB.

    Objects stand still in the first half of a second and move on to where they are next in the second half.
    """
    second = min(int(time_s), SECONDS - 1)
    rng = np.random.default_rng([scene.seed, 1, int(time_s * 1000)])
    part = sum(cut <= second for cut in scene.cuts_s)
    picture = backdrop(np.random.default_rng([scene.seed, 2, part]), FRAME_PX)
    moved = max(0.0, 2 * (time_s - second) - 1)
    following = {_name(thing): thing for thing in scene.things[min(second + 1, SECONDS - 1)]}
    shift_px = rng.integers(-2, 3, 2) if second in scene.shake_s else np.zeros(2, np.int64)
    for thing in scene.things[second]:
        there = following.get(_name(thing), thing)
        at_px = (1 - moved) * np.asarray(_middle_px(thing)) + moved * np.asarray(_middle_px(there))
        paste(picture, sprite(thing.shape, thing.color, thing.digit), np.round(at_px).astype(int) + shift_px)
    noise = rng.standard_normal(picture.shape, np.float32) * rng.uniform(2, 7)
    return np.clip(picture + noise, 0, 255).astype(np.uint8)


def _name(thing: Thing) -> tuple[str, str, str]:
    return thing.shape, thing.color, thing.digit


def _middle_px(thing: Thing) -> tuple[int, int]:
    row, column = divmod(thing.cell, SIDE)
    return (
        row * CELL_PX + CELL_PX // 2 + thing.offset_px[0],
        column * CELL_PX + CELL_PX // 2 + thing.offset_px[1],
    )


def _thing(rng: Rng, shape: str, cell: int) -> Thing:
    down_px, right_px = rng.integers(-JITTER_PX, JITTER_PX + 1, 2)
    color, digit = COLORS[rng.integers(len(COLORS))], DIGITS[rng.integers(len(DIGITS))]
    return Thing(shape, color, digit, cell, (int(down_px), int(right_px)))


def _free(rng: Rng, taken: list[set[int]], seconds: range) -> int:
    """Return a cell that is free in all of some seconds; -1 if none is."""
    free = [cell for cell in range(SIDE * SIDE) if not any(cell in taken[second] for second in seconds)]
    return int(rng.choice(free)) if free else -1


def _visit(rng: Rng, shape: str, place: int, taken: list[set[int]]) -> tuple[Visit, ...]:
    """Return the visits of one shape: the first three come once and alone, the fourth as a group, the fifth often."""
    num_visits = int(rng.integers(1, 4)) if place == 4 else 1
    num_things = int(rng.integers(1, 4)) if place == 3 else 1
    first_s = int(rng.integers(0, SECONDS // num_visits - 3))
    found: list[Visit] = []
    for number in range(num_visits):
        start_s = (
            first_s + number * (SECONDS // num_visits)
            if num_visits > 1
            else int(rng.integers(0, SECONDS - 3))
        )
        seconds = range(start_s, min(SECONDS, start_s + int(rng.integers(2, 4))))
        things: list[Thing] = []
        for _ in range(num_things):
            cell = _free(rng, taken, seconds)
            things.append(_thing(rng, shape, cell))
            for second in seconds:
                taken[second].add(cell)
        found.append(Visit(seconds.start, seconds.stop, tuple(things)))
    return tuple(found)


def _leave_bag(
    rng: Rng, shape: str, visit: Visit, taken: list[set[int]], things: list[list[Thing]]
) -> tuple[str, int, int] | None:
    """Perhaps put a bag where a visitor was, for some seconds; else perhaps one where nobody was."""
    start_s = visit.end_s if rng.random() < 0.5 else int(rng.integers(0, SECONDS - 6))
    seconds = range(start_s, min(SECONDS, start_s + int(rng.integers(4, 8))))
    own = start_s == visit.end_s
    cell = visit.things[0].cell
    if own and (not seconds or any(cell in taken[second] for second in seconds)):
        return None
    if not own:
        cell = _free(rng, taken, seconds)
        if cell < 0 or rng.random() < 0.5 or cell == visit.things[0].cell:
            return None
    for second in seconds:
        taken[second].add(cell)
        things[second].append(Thing(BAG, "black", "", cell, (0, 0)))
    return (shape, seconds.start, seconds.stop) if own else None


def _wander(rng: Rng, shapes: list[str], taken: list[set[int]], things: list[list[Thing]]) -> tuple[int, ...]:
    """Let residents come, walk and go; return the seconds in which two collide."""
    liveliness = rng.choice([0.0, 0.3, 0.7], SECONDS // 8).repeat(8)
    walkers: list[Thing] = []
    collisions: list[int] = []
    wanted = int(rng.integers(4, 8))
    for second in range(SECONDS):
        walkers = [thing for thing in walkers if rng.random() > 0.06]
        if rng.random() < 0.1:
            wanted = int(rng.integers(4, 8))
        placed: list[Thing] = []
        for thing in walkers:
            row, column = divmod(thing.cell, SIDE)
            down, right = [(0, 1), (0, -1), (1, 0), (-1, 0)][rng.integers(4)]
            target = (row + down) * SIDE + column + right
            inside = 0 <= row + down < SIDE and 0 <= column + right < SIDE
            moves = rng.random() < liveliness[second] and inside and target not in taken[second]
            cell = target if moves else thing.cell
            if cell in taken[second]:
                cell = _free(rng, taken, range(second, second + 1))
            if cell >= 0:
                placed.append(Thing(thing.shape, thing.color, thing.digit, cell, thing.offset_px))
                taken[second].add(cell)
        while len(placed) < wanted and (cell := _free(rng, taken, range(second, second + 1))) >= 0:
            placed.append(_thing(rng, shapes[rng.integers(len(shapes))], cell))
            taken[second].add(cell)
        walkers = placed
        shown = placed
        if rng.random() < 0.02 and len(placed) > 1 and not collisions:
            collisions.append(second)
            shown = [*placed[2:], *(Thing(BURST, "white", "", thing.cell, (0, 0)) for thing in placed[:2])]
        things[second] += shown
    return tuple(collisions)
