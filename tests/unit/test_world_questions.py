"""Questions: answers and evidence agree with the scene, recomputed from what stands in it second by second."""

import re

import pytest

from jobs.world.questions import (
    CHOICES,
    COUNTS,
    FRAGMENT,
    GLOBAL,
    HELD_OUT_WAYS,
    QUARTERS,
    WAYS,
    ask,
)
from jobs.world.scenes import SECONDS, SIDE, make_scene
from jobs.world.splits import seeds
from jobs.world.sprites import BAG, BURST

SEEDS = (*seeds("train", 25), *seeds("test", 25))


def seconds_of(asked):
    return {second for start_s, end_s in asked.evidence_s for second in range(start_s, end_s)}


def present(scene, shape):
    """The seconds in which a shape can be seen."""
    return {second for second, things in enumerate(scene.things) if any(one.shape == shape for one in things)}


def runs(seconds):
    """How many stretches without a gap some seconds make."""
    return sum(second - 1 not in seconds for second in seconds)


def shown(scene, asked):
    """The things of the asked shape in one second of the evidence."""
    return [one for one in scene.things[min(seconds_of(asked))] if one.shape == asked.shape]


def other(asked):
    """The second shape that a question about two is about, as the text has it."""
    words = re.findall(r"the (\w+)", asked.text)
    named = [word for word in words if word not in ("order", "whole", "things")]
    assert named[0] == asked.shape
    return named[1]


ANSWERS = {
    "color": lambda scene, asked: shown(scene, asked)[0].color,
    "digit": lambda scene, asked: shown(scene, asked)[0].digit,
    "side": lambda scene, asked: "left" if shown(scene, asked)[0].cell % SIDE < SIDE // 2 else "right",
    "group": lambda scene, asked: COUNTS[len(shown(scene, asked)) - 1],
    "when": lambda scene, asked: QUARTERS[min(present(scene, asked.shape)) // (SECONDS // 4)],
    "at": lambda scene, asked: shown(scene, asked)[0].color,
    "order": lambda scene, asked: (
        "yes" if min(present(scene, asked.shape)) < min(present(scene, other(asked))) else "no"
    ),
    "first": lambda scene, asked: min(asked.choices, key=lambda shape: min(present(scene, shape))),
    "times": lambda scene, asked: COUNTS[runs(present(scene, asked.shape)) - 1],
    "ever": lambda scene, asked: "yes" if present(scene, asked.shape) else "no",
    "collide": lambda scene, _: "yes" if present(scene, BURST) else "no",
}


def left_bag(scene, shape):
    """Whether a bag lies where the visitor was, from the second on in which it is gone."""
    gone = max(present(scene, shape)) + 1
    [visitor] = [one for one in scene.things[gone - 1] if one.shape == shape]
    return gone < SECONDS and any(one.shape == BAG and one.cell == visitor.cell for one in scene.things[gone])


ANSWERS["leave"] = lambda scene, asked: "yes" if left_bag(scene, asked.shape) else "no"


@pytest.mark.parametrize("held_out", [False, True], ids=["", "held-out"])
@pytest.mark.parametrize("seed", SEEDS)
def test_answers_agree_with_what_stands_there(seed, held_out):
    scene = make_scene(seed)
    asked = ask(scene, held_out=held_out)
    for one in asked:
        assert one.answer == ANSWERS[one.category](scene, one), one
        assert one.answer in (one.choices or ("yes", "no"))
    assert {one.category for one in asked} >= {*FRAGMENT, *GLOBAL} - {"at", "order", "first"}


@pytest.mark.parametrize("seed", SEEDS)
def test_evidence_is_when_the_visitor_is_there(seed):
    scene = make_scene(seed)
    for one in ask(scene):
        evidence = seconds_of(one)
        assert evidence <= set(range(SECONDS))
        if one.category in GLOBAL:
            assert not evidence
        elif one.category == "at":
            [second] = evidence
            assert f"at {second} s" in one.text
            assert len(shown(scene, one)) == 1
        elif one.category == "leave":
            there = present(scene, one.shape)
            assert evidence == there | {s for s in (max(there) + 1, max(there) + 2) if s < SECONDS}
        else:
            assert evidence == present(scene, one.shape)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_same_is_asked_in_ways_that_were_never_trained(seed):
    scene = make_scene(seed)
    own, other_ways = ask(scene), ask(scene, held_out=True)
    sometimes = {"order", "first"}
    assert {one.category for one in own} - sometimes == {one.category for one in other_ways} - sometimes
    assert not {one.text for one in own} & {one.text for one in other_ways}


def test_ways_kept_for_tests_are_no_others_and_hold_no_new_word():
    for category, ways in WAYS.items():
        assert len(set(ways)) == len(ways)
        assert len(ways) > HELD_OUT_WAYS + 1, category
        assert not set(ways[:-HELD_OUT_WAYS]) & set(ways[-HELD_OUT_WAYS:])
    trained = {word for ways in WAYS.values() for way in ways[:-HELD_OUT_WAYS] for word in way.split()}
    assert {word for ways in WAYS.values() for way in ways for word in way.split()} <= trained


def test_every_category_is_of_one_route_and_has_its_answers():
    assert {*FRAGMENT, *GLOBAL} == set(WAYS)
    assert not set(FRAGMENT) & set(GLOBAL)
    assert set(CHOICES) <= set(WAYS)
    routes = {one.category: one.route for seed in SEEDS[:8] for one in ask(make_scene(seed))}
    assert {name for name, route in routes.items() if route == "fragment"} <= set(FRAGMENT)
    assert {name for name, route in routes.items() if route == "global"} <= set(GLOBAL)
