"""What is asked about a generated video: the text, the one-word answer, and when it can be seen.

A fragment question is about a visitor, or about one second; its evidence are the seconds in which the answer can be
seen. A global question is about the whole video and has no evidence of its own. Every question is written in several
ways; the last ways of each kind are kept for tests and never trained on.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from jobs.world.scenes import SECONDS, SIDE, Scene, Thing, Visit
from jobs.world.sprites import COLORS, DIGITS, SHAPES

QUARTERS = ("first", "second", "third", "fourth")
"""Answers to when: which quarter of the video."""
COUNTS = ("one", "two", "three")
SIDES = ("left", "right")
YES_NO = ("yes", "no")

WAYS: dict[str, tuple[str, ...]] = {
    "color": (
        "what color is the {a} ?", "which color does the {a} have ?", "tell me the color of the {a}",
        "the {a} has which color ?", "what is the color of the {a} ?", "what color does the {a} have ?",
        "which color is the {a} ?",
    ),
    "digit": (
        "what digit is on the {a} ?", "which digit does the {a} have ?", "tell me the digit of the {a}",
        "the {a} has which digit ?", "what is the digit on the {a} ?", "which digit is on the {a} ?",
        "what digit does the {a} have ?",
    ),
    "side": (
        "on which side is the {a} ?", "is the {a} on the left or on the right ?", "tell me the side of the {a}",
        "the {a} is on which side ?", "which side has the {a} ?", "on what side is the {a} ?",
        "is the {a} on the right or on the left ?",
    ),
    "group": (
        "how many things like the {a} are there at once ?", "what number of the {a} is there at once ?",
        "tell me how many of the {a} are there at once", "how many of the {a} are seen at once ?",
        "at once how many of the {a} are there ?", "tell me the number of the {a} seen at once",
    ),
    "when": (
        "when does the {a} come ?", "in which quarter does the {a} come ?", "tell me when the {a} is seen",
        "when is the {a} seen ?", "in which quarter is the {a} seen ?", "tell me in which quarter the {a} does come",
    ),
    "at": (
        "what color is the {a} at {t} s ?", "at {t} s which color does the {a} have ?",
        "tell me the color of the {a} at {t} s", "at {t} s what color is the {a} ?",
        "which color is the {a} at {t} s ?", "at {t} s tell me the color of the {a}",
    ),
    "order": (
        "does the {a} come before the {b} ?", "in the whole video is the {a} seen before the {b} ?",
        "is the {a} before the {b} in the order of things ?", "tell me whether the {a} does come before the {b}",
        "in the order of things does the {a} come before the {b} ?", "is the {a} seen before the {b} ?",
    ),
    "first": (
        "which comes first , the {a} or the {b} ?", "in the order of things what comes first , the {a} or the {b} ?",
        "tell me which of the {a} and the {b} comes first", "of the {a} and the {b} , which comes first ?",
        "what comes first , the {a} or the {b} ?",
    ),
    "times": (
        "how many times does the {a} come ?", "in the whole video how many times is the {a} seen ?",
        "how often does the {a} come ?", "tell me how many times the {a} does come",
        "how often is the {a} seen in the whole video ?", "in the whole video how many times does the {a} come ?",
    ),
    "ever": (
        "does a {a} ever come ?", "is a {a} ever seen in the whole video ?", "does the whole video have a {a} ?",
        "tell me whether a {a} does ever come", "in the whole video does a {a} ever come ?",
        "is there ever a {a} in the whole video ?",
    ),
    "leave": (
        "does the {a} leave a bag ?", "is a bag left by the {a} ?", "tell me whether the {a} does leave a bag",
        "a bag is left by the {a} ?", "tell me whether a bag is left by the {a}",
    ),
    "collide": (
        "do any things ever collide ?", "in the whole video do any things collide ?",
        "is there ever a collision in the whole video ?", "tell me whether any things collide in the whole video",
        "do things ever collide in the whole video ?",
    ),
}  # fmt: skip
"""Per category, the ways to ask; the last two are for tests only."""
HELD_OUT_WAYS = 2
FRAGMENT = ("color", "digit", "side", "group", "when", "at", "leave")
GLOBAL = ("order", "first", "times", "ever", "collide")
CHOICES: dict[str, tuple[str, ...]] = {
    "color": COLORS, "digit": DIGITS, "side": SIDES, "group": COUNTS, "when": QUARTERS, "at": COLORS,
    "first": (), "times": COUNTS,
}  # fmt: skip
"""Answers to choose from; categories that are not here are answered yes or no, `first` by one of its two shapes."""

Route = Literal["global", "fragment"]


@dataclass(frozen=True, slots=True)
class Asked:
    """One question about one scene."""

    category: str
    text: str
    answer: str
    choices: tuple[str, ...]
    """Empty where the answer is yes or no."""
    evidence_s: tuple[tuple[int, int], ...]
    """Seconds [start, end) in which the answer can be seen; empty for global questions."""
    shape: str
    """The shape that it is about, if it is about one."""

    @property
    def route(self) -> Route:
        """What VideoRouter's semantic router should say."""
        return "fragment" if self.category in FRAGMENT else "global"


def ask(scene: Scene, *, held_out: bool = False) -> list[Asked]:
    """Return one question of each category that the scene can answer, several of the most telling ones.

    Args:
        scene: what happens.
        held_out: ask in the ways that are kept for tests.
    """
    rng = np.random.default_rng([scene.seed, 3, held_out])
    found: list[Asked] = []

    def add(
        category: str, answer: str, visits: tuple[Visit, ...] = (), *, shape: str = "",
        choices: tuple[str, ...] | None = None, **words: str,
    ) -> None:  # fmt: skip
        ways = WAYS[category][-HELD_OUT_WAYS:] if held_out else WAYS[category][:-HELD_OUT_WAYS]
        text = ways[rng.integers(len(ways))].format(a=shape, **words)
        evidence_s = tuple((visit.start_s, visit.end_s) for visit in visits)
        found.append(Asked(category, text, answer, choices or CHOICES.get(category, ()), evidence_s, shape))

    visits = scene.visits
    singles, (group, often) = list(visits)[:3], list(visits)[3:]
    for shape in singles:
        [thing] = visits[shape][0].things
        add("color", thing.color, visits[shape], shape=shape)
        add("digit", thing.digit, visits[shape], shape=shape)
        add("side", SIDES[thing.cell % SIDE >= SIDE // 2], visits[shape], shape=shape)
    add("group", COUNTS[len(visits[group][0].things) - 1], visits[group], shape=group)
    for shape in (singles[rng.integers(3)], group):
        add("when", QUARTERS[visits[shape][0].start_s * 4 // SECONDS], visits[shape], shape=shape)
    if (lone := _lone_resident(rng, scene)) is not None:
        second, thing = lone
        add("at", thing.color, (Visit(second, second + 1, (thing,)),), shape=thing.shape, t=str(second))
    bag = scene.bag
    leave = (Visit(visits[singles[0]][0].start_s, min(SECONDS, visits[singles[0]][0].end_s + 2), ()),)
    add("leave", YES_NO[bag is None], leave, shape=singles[0])
    for category in ("order", "first"):
        one, other = rng.permutation([*singles, group])[:2].tolist()
        start, behind = visits[one][0].start_s, visits[other][0].start_s
        if start == behind:
            continue
        if category == "order":
            add("order", YES_NO[start > behind], shape=one, b=other)
        else:
            add("first", one if start < behind else other, shape=one, b=other, choices=(one, other))
    add("times", COUNTS[len(visits[often]) - 1], shape=often)
    ever = list(visits)[rng.integers(len(visits))] if rng.random() < 0.5 else scene.absent[0]
    add("ever", YES_NO[ever not in visits], shape=ever)
    add("collide", YES_NO[not scene.collisions_s])
    return found


def _lone_resident(rng: np.random.Generator, scene: Scene) -> tuple[int, Thing] | None:
    """Return a second and a resident that is the only one of its shape in it; None where eight tries find none."""
    for second in rng.permutation(SECONDS)[:8].tolist():
        here = [
            thing
            for thing in scene.things[second]
            if thing.shape in SHAPES and thing.shape not in scene.visits
        ]
        names = [thing.shape for thing in here]
        alone = [thing for thing in here if names.count(thing.shape) == 1]
        if alone:
            return second, alone[rng.integers(len(alone))]
    return None
