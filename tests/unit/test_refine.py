"""A cascade's second half: plans made again from what an image router says, inside the answerer's own batches."""

from dataclasses import replace

import numpy as np
import pytest

from actors.models import Ask, Request, WindowView, relevance, video_llm
from actors.models.image_router import make_early_layers
from actors.models.refine import Refiner, attach
from pipeline.budget import Plan
from pipeline.config import AnswerConfig, CompressConfig, JobConfig, PlanConfig
from pipeline.errors import AnswerError, ConfigError
from pipeline.frames import Frames
from pipeline.queries import Query
from tests import tiny_models

FRAME_PX, PER_FRAME, NUM_FRAMES = 64, 16, 10
EVIDENCE = (0, 2, 3, 5, 6, 9)
CANDIDATES = (2, 3, 6, 9)
PTS_S = np.arange(NUM_FRAMES) * 2.0
PIXELS = np.random.default_rng(0).integers(0, 255, (len(EVIDENCE), FRAME_PX, FRAME_PX, 3), dtype=np.uint8)
WINDOW = WindowView(0.0, 20.0, PTS_S, EVIDENCE, Frames(PIXELS, PTS_S[list(EVIDENCE)]))
PLAN = PlanConfig(budget_tokens=48, early_layers=2, early_tokens=4)


class Says:
    """An image router that knows what it thinks of every moment, and remembers what it was asked."""

    work_bytes = 0

    def __init__(self, by_time_s):
        self.by_time_s = by_time_s
        self.num_tokens = 0
        self.asked = []

    def relevance(self, features, index, times_s, text):
        assert len(features.values_NKD) > max(index)
        self.asked.append((text, tuple(times_s)))
        self.num_tokens += 10 * len(index)
        found = [self.by_time_s.get(time_s, 0.1) for time_s in times_s]
        return np.array(found, np.float32)


class Refuses(Says):
    def relevance(self, features, index, times_s, text):
        if "bad" in text:
            msg = "this text cannot be read"
            raise AnswerError(msg)
        return super().relevance(features, index, times_s, text)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    folder = str(tiny_models.build("smolvlm", tmp_path_factory.mktemp("smolvlm")))
    config = AnswerConfig(model=folder, frame_px=FRAME_PX, dtype="float32", max_new_tokens=4)
    return video_llm.make(config, CompressConfig(), "cpu")


@pytest.fixture
def llm(loaded):
    yield loaded
    loaded.refiner = None


def ask(kind="flag", text="a fire", candidates=CANDIDATES, budget_tokens=None, query_id="q"):
    """An ask whose proposer wants frames 0, 3 and 5 to be shown."""
    tokens_N = [0] * NUM_FRAMES
    for frame in (0, 3, 5):
        tokens_N[frame] = 8
    return Ask(
        Query(query_id, text, kind, budget_tokens=budget_tokens),
        Plan("fragment", tuple(tokens_N), "proposed"),
        np.linspace(0, 1, NUM_FRAMES, dtype=np.float32),
        np.zeros((NUM_FRAMES, 0), np.float32),
        0.5,
        candidates,
    )


def refine(router, one, config=PLAN):
    """Return the ask as the router leaves it; its features are of every evidence frame."""
    features = type("Features", (), {"values_NKD": np.zeros((len(EVIDENCE), PER_FRAME, 1))})
    rows = range(len(EVIDENCE))
    return Refiner(router, config, PER_FRAME).open(WINDOW, rows, features).refine(one)


def test_the_plan_follows_the_router_within_the_budget():
    found = refine(Says({4.0: 0.9, 18.0: 0.6}), ask())
    assert found.plan.route == "fragment"
    assert [found.plan.tokens_N[frame] for frame in (2, 9)] == [16, 16]
    assert sum(found.plan.tokens_N) <= 48
    assert {frame for frame, tokens in enumerate(found.plan.tokens_N) if tokens} <= set(EVIDENCE)
    assert found.plan.reason.startswith("4 candidates looked at, 2 of 2 relevant frames at 16 tokens")
    assert found.refined_N == pytest.approx([0, 0, 0.9, 0.1, 0, 0, 0.1, 0, 0, 0.6])
    assert found.relevance_N.tolist() == ask().relevance_N.tolist()


def test_only_this_questions_frames_are_in_its_plan():
    """Frame 6 is decoded for somebody else."""
    found = refine(Says({4.0: 0.9}), ask(candidates=(2, 9)), replace(PLAN, budget_tokens=999))
    assert {frame for frame, tokens in enumerate(found.plan.tokens_N) if tokens} == {0, 2, 3, 5, 9}


def test_no_relevant_frame_is_the_window_as_a_whole():
    """Frames 4 and 7 were neither proposed nor to be shown."""
    found = refine(Says({}), ask())
    assert found.plan.route == "global"
    assert found.plan.reason == "4 candidates looked at, no relevant frame: 6 of 10 frames at 8 tokens"
    assert [frame for frame, tokens in enumerate(found.plan.tokens_N) if tokens] == [0, 2, 4, 5, 7, 9]
    assert set(found.plan.tokens_N) == {0, 8}


def test_a_router_that_likes_everything_does_not_choose():
    likes = Says(dict.fromkeys(PTS_S.tolist(), 0.9))
    found = refine(likes, ask(candidates=EVIDENCE))
    assert found.plan.route == "global"
    assert "relevance does not choose (6 of 6 frames): 6 of 10 frames" in found.plan.reason


def test_gaps_are_those_of_the_window():
    """Of 2, 3, 5 and 6, all that is known between 0 and 9, frame 5 lies farthest from both."""
    says = Says({0.0: 0.9, 18.0: 0.9})
    found = refine(says, ask(candidates=(0, 2, 6, 9)), replace(PLAN, budget_tokens=36))
    assert [frame for frame, tokens in enumerate(found.plan.tokens_N) if tokens] == [0, 5, 9]


def test_the_querys_own_budget_holds():
    found = refine(Says({4.0: 0.9, 18.0: 0.6}), ask(budget_tokens=16))
    assert sum(found.plan.tokens_N) == 16
    with pytest.raises(AnswerError, match="a budget of 3 tokens does not buy one frame"):
        refine(Says({}), ask(budget_tokens=3))


def test_numbers_that_are_none_are_refused():
    with pytest.raises(AnswerError, match="no finite numbers"):
        refine(Says({4.0: float("nan")}), ask())


# --- in the answerer's batches -----------------------------------------------------------------------------


def answer(llm, *asks, router=None):
    llm.refiner = Refiner(router, PLAN, PER_FRAME) if router else None
    return llm.answer([Request(WINDOW, asks)])[0]


def test_the_answer_rests_on_what_the_router_chose(llm):
    router = Says({4.0: 0.9, 18.0: 0.6})
    [found] = answer(llm, ask(), router=router)
    assert found.error == ""
    shown = {pts_s: (round(score, 3), tokens) for pts_s, score, tokens in found.evidence}
    assert (shown[4.0], shown[18.0]) == ((0.9, 16), (0.6, 16))
    assert found.plan == refine(Says({4.0: 0.9, 18.0: 0.6}), ask()).plan
    assert found.tokens_used == sum(found.plan.tokens_N) <= 48
    assert found.cost.router_tokens == 10 * len(CANDIDATES)


def test_an_answer_says_what_the_router_said_of_every_frame(llm):
    """Also of those that were not shown, of a whole window, and where nothing came of it."""
    [found] = answer(llm, ask(budget_tokens=16), router=Says({4.0: 0.9, 18.0: 0.6}))
    assert [(pts_s, tokens) for pts_s, _, tokens in found.judged] == [
        (4.0, 0),
        (6.0, 0),
        (12.0, 0),
        (18.0, 16),
    ]
    assert [said for _, said, _ in found.judged] == pytest.approx([0.9, 0.1, 0.1, 0.6])
    [whole] = answer(llm, ask(), router=Says({}))
    assert [said for _, said, _ in whole.judged] == pytest.approx([0.1] * 4)
    spent = {pts_s: tokens for pts_s, _, tokens in whole.evidence}
    assert [(pts_s, spent.get(pts_s, 0)) for pts_s, _, _ in whole.judged] == [
        (pts_s, tokens) for pts_s, _, tokens in whole.judged
    ]
    [alone] = answer(llm, ask(candidates=()), router=Says({}))
    assert alone.judged == ()


def test_it_answers_as_if_planned_so_at_once(llm):
    """Nothing but the plan has changed."""
    [refined] = answer(llm, ask("ask"), router=Says({4.0: 0.9}))
    [planned] = answer(llm, replace(ask("ask"), plan=refined.plan, candidates=()))
    assert (refined.answer, refined.tokens_used) == (planned.answer, planned.tokens_used)
    assert refined.confidence == pytest.approx(planned.confidence, abs=1e-6)
    assert (planned.plan, planned.cost.router_tokens) == (None, 0)


def test_frames_are_encoded_and_questions_routed_once(llm):
    """Two kinds ask the same of the same frames, a third asks something else of some of them."""
    router = Says({4.0: 0.9})
    asks = (ask(), ask("ask", query_id="r"), ask(text="a dog", candidates=(2, 3), query_id="s"))
    found = answer(llm, *asks, router=router)
    assert [one.error for one in found] == [""] * 3
    assert router.asked == [("a fire", (4.0, 6.0, 12.0, 18.0)), ("a dog", (4.0, 6.0))]
    assert [one.cost.router_tokens for one in found] == [40, 0, 20]
    assert sum(one.cost.vision_frames for one in found) == len(EVIDENCE)


def test_a_window_shown_as_a_whole_has_its_own_frames_encoded(llm):
    """Some were decoded for nothing but that."""
    pixels = np.resize(PIXELS, (NUM_FRAMES, *PIXELS.shape[1:]))
    window = WindowView(0.0, 20.0, PTS_S, range(NUM_FRAMES), Frames(pixels, PTS_S))
    llm.refiner = Refiner(Says({}), PLAN, PER_FRAME)
    [[found]] = llm.answer([Request(window, [ask()])])
    assert found.error == ""
    assert [pts_s for pts_s, _, _ in found.evidence] == [0.0, 4.0, 8.0, 10.0, 14.0, 18.0]


def test_what_is_not_to_be_routed_is_left_alone(llm):
    router = Says({})
    [found] = answer(llm, ask(candidates=()), router=router)
    assert router.asked == []
    assert [pts_s for pts_s, _, _ in found.evidence] == [0.0, 6.0, 10.0]


def test_one_question_that_cannot_be_routed_fails_alone(llm):
    bad, good = answer(llm, ask(text="bad"), ask(query_id="r"), router=Refuses({4.0: 0.9}))
    assert bad.error == "this text cannot be read"
    assert good.error == ""


def test_a_real_router_beside_a_real_model(llm):
    """Twice the same, and other questions beside it change nothing."""
    attach(llm, make_early_layers, JobConfig(plan=PLAN))
    [alone] = llm.answer([Request(WINDOW, [ask()])])[0]
    _, beside = llm.answer([Request(WINDOW, [ask(text="a dog"), ask(query_id="r")])])[0]
    assert alone.error == ""
    assert alone.plan.reason.startswith("4 candidates looked at, ")
    assert beside.plan == alone.plan
    for other, own in zip(beside.evidence, alone.evidence, strict=True):
        assert other == pytest.approx(own)
    assert alone.cost.router_tokens > len(CANDIDATES) * PLAN.early_tokens
    assert sum(alone.plan.tokens_N) <= PLAN.budget_tokens


def test_memory_for_the_router_is_kept_free(llm):
    """A window is let in only where its frames can also be routed."""
    router = Says({4.0: 0.9})
    router.work_bytes = 10**15
    [found] = answer(llm, ask(), router=router)
    assert "frames, one at a time in the vision tower, need 1000000.00 GB" in found.error


def test_an_answerer_without_layers_is_refused():
    with pytest.raises(ConfigError, match="a RelevanceAnswerer has none that can be looked into"):
        attach(relevance.RelevanceAnswerer(), make_early_layers, JobConfig())
