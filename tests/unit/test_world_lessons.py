"""Lessons: clips are shown as the product shows them, and a question sees the clip and itself, never another."""

import numpy as np
import pytest
import torch

from actors.models.prompting import prompt_ids, prompt_text, question, render
from jobs.world import lessons as ls
from jobs.world.judge import PLANS, plan_for, read
from jobs.world.model import HIDDEN, make_model
from jobs.world.scenes import SECONDS, make_scene
from jobs.world.splits import seeds
from jobs.world.words import IMAGE, make_tokenizer, vocabulary
from pipeline.compress.uniform import pool_grid
from pipeline.queries import Query
from pipeline.tokens import VisualTokens

TOKENIZER = make_tokenizer()
TAUGHT = ls.load_scenes(seeds("train", 6), TOKENIZER)
PER_FRAME = sum(ls.SIZES)


class InternVl:
    before, after = "<img>", "</img>"


def plans(count):
    """Plans of all kinds, each with the scene's questions that it serves."""
    rng = np.random.default_rng(0)
    for number in range(count):
        scene, known = TAUGHT[number % len(TAUGHT)]
        easy = [0.0, 1.0][number % 5 == 0]
        plan, places = ls.make_plan(rng, scene, [one.asked for one in known], easy)
        yield known, plan, [known[place] for place in places]


@pytest.mark.parametrize("size", ls.SIZES)
def test_a_frame_is_pooled_as_the_product_pools(size):
    frames = 3
    values = torch.randn(frames * ls.TOKENS, HIDDEN)
    tokens = VisualTokens(
        values_ND=values,
        source_N=torch.arange(len(values)),
        weight_N=torch.ones(len(values)),
        num_per_frame=ls.TOKENS,
        grid=(4, 4),
    )
    wanted = pool_grid(tokens, [size] * frames).values_ND
    first = ls.FIRST_OF[size]
    pooled = ls.pooling() @ values.reshape(frames, ls.TOKENS, HIDDEN)
    assert torch.allclose(pooled[:, first : first + size].flatten(0, 1), wanted, atol=1e-6)


def test_a_plan_holds_what_compression_can_make_and_serves_some_question():
    for _, plan, chosen in plans(60):
        assert len(plan) == SECONDS
        assert set(plan) <= {0, *ls.SIZES}
        assert any(plan)
        assert chosen


def test_a_question_is_not_asked_where_its_evidence_is_hidden():
    for _, plan, chosen in plans(200):
        shown_s = {second for second, tokens in enumerate(plan) if tokens}
        if len(shown_s) == SECONDS or set(plan) <= {0, plan[min(shown_s)]}:
            continue  # uniform: whatever is lost is lost
        for lesson in chosen:
            for start_s, end_s in lesson.asked.evidence_s:
                assert shown_s & set(range(start_s, end_s)), (lesson.asked, plan)


@pytest.mark.parametrize("listed", [False, True])
def test_a_sequence_is_the_prompt_that_the_product_writes(listed):
    words = vocabulary()
    for known, plan, chosen in plans(10):
        shown = ls.show(plan, chosen, listed)
        whole = "".join(
            prompt_text(InternVl, IMAGE, [float(second)], tokens, "")
            for second, tokens in enumerate(plan) if tokens
        )  # fmt: skip
        image = words.index(IMAGE)
        own = [image if token < 0 else token for token in shown.source_L]
        for number, lesson in enumerate(chosen):
            kind = "choose" if lesson.asked.choices else "flag"
            choices = lesson.asked.choices if kind == "choose" else ()
            asked = Query("q", lesson.asked.text, kind if listed else "ask", choices if listed else ())
            wanted = prompt_ids(TOKENIZER, render(TOKENIZER, "", whole + question(asked)))
            branch = [token for token, of in zip(own, shown.branch_L, strict=True) if of in (0, number + 1)]
            assert branch == [*wanted, words.index(lesson.asked.answer)]
        assert known


def test_visual_tokens_are_those_of_the_frame_in_the_size_of_the_plan():
    for _, plan, chosen in plans(10):
        rows = [-1 - token for token in ls.show(plan, chosen, False).source_L if token < 0]
        wanted = [
            second * PER_FRAME + ls.FIRST_OF[tokens] + row
            for second, tokens in enumerate(plan) if tokens for row in range(tokens)
        ]  # fmt: skip
        assert rows == wanted


def test_branches_see_the_trunk_and_themselves_only():
    shown = [ls.show(plan, chosen, False) for _, plan, chosen in plans(4)]
    may_see = ls.collate(shown)["may_see"][:, 0]
    for one, sees in zip(shown, may_see, strict=True):
        for place, own in enumerate(one.branch_L):
            visible = {one.branch_L[other] for other in range(len(one.branch_L)) if sees[place, other]}
            assert visible <= {0, own}
            assert int(sees[place].nonzero().max()) == place
        assert int(sees[: one.trunk, one.trunk :].sum()) == 0


@torch.inference_mode()
def test_a_question_beside_others_is_answered_as_alone():
    model = make_model(0).eval()
    for parameter in model.parameters():
        parameter.mul_(3)  # untrained logits hardly differ
    tokens = torch.randn(1, SECONDS * PER_FRAME, HIDDEN)
    for _, plan, chosen in plans(2):
        several = chosen[:3]
        together = ls.show(plan, several, False)
        logits = model.lm_head(read(model, [together], tokens))[0]
        for lesson, (place, answer, _) in zip(several, together.targets[::2], strict=True):
            alone = ls.show(plan, [lesson], False)
            own = model.lm_head(read(model, [alone], tokens))[0][alone.targets[0][0]]
            assert answer == alone.targets[0][1]
            assert torch.allclose(logits[place], own, atol=1e-4)
            assert own.std() > 1e-2


def test_cells_say_what_stands_where():
    scene = make_scene(seeds("train", 1)[0])
    found = ls.cells(scene)
    for second, things in enumerate(scene.things):
        wanted = {thing.cell: (thing.shape, thing.color, thing.digit) for thing in things}
        for cell, (thing, ink, numeral) in enumerate(found[second].tolist()):
            seen = ls.THINGS[thing], ls.INKS[ink], ls.NUMERALS[numeral]
            assert seen == wanted.get(cell, ("", "", ""))


@pytest.mark.parametrize("name", PLANS)
def test_plans_that_judge_show_something_of_every_question(name):
    for lesson in TAUGHT[0][1]:
        plan = plan_for(name, lesson)
        assert len(plan) == SECONDS
        assert any(plan)
