"""What a job makes of selectors: which it refuses, and how a window's questions are planned with one."""

from dataclasses import replace

import numpy as np
import pytest

from pipeline import rows, stages
from pipeline.budget import Plan
from pipeline.config import CompressConfig, DecodeConfig, JobConfig, PlanConfig, ScoreConfig, WindowConfig
from pipeline.errors import AnswerError, ConfigError
from pipeline.frames import FrameSize
from pipeline.isolation import Reader
from pipeline.listing import list_videos
from pipeline.queries import Query
from pipeline.route import Route
from pipeline.select import FRAME_SELECTORS, METHODS
from pipeline.select.fit import find_selector, needs_pixels, smallest_budget
from pipeline.select.relevance import show_relevant
from pipeline.select.slow_fast import mark_slow
from pipeline.select.window import whole
from tests import videos
from tests.selecting import path, seen

RELEVANCE = [0.1, 0.8, 0.45, 0.9, 0.1, 0.1, 0.7, 0.2]
"""Two spans at a threshold of .5: frames 1 to 3 and frame 6."""
FRAMES = seen(path(8, seed=4), relevance=RELEVANCE, slow=[1, 0, 0, 1, 0, 0, 0, 0])


def window(*queries: Query) -> dict:
    return {
        "query_ids": [query.query_id for query in queries],
        "pts_s": FRAMES.pts_s_N.tolist(),
        "end_s": FRAMES.end_s,
        "embedding": rows.pack(FRAMES.embedding_NE),
        "relevance": rows.pack(np.tile(FRAMES.relevance_N[:, None], (1, len(queries)))),
        "novelty": FRAMES.novelty_N.tolist(),
        "slow": FRAMES.slow_N.tolist(),
    }


def plans(name: str, *queries: Query, budget: int = 100, **options) -> list[dict]:
    config = PlanConfig(selector=name, budget_tokens=budget)
    routes = {query.query_id: Route("fragment", 0.9, "rules: why") for query in queries}
    row = window(*queries)
    return stages.plan_window(routes, queries, config, ScoreConfig(), 16, row, **options)["plans"]


@pytest.mark.parametrize("name", sorted(FRAME_SELECTORS.keys() - {"relevance"}))
def test_the_selector_plans_and_the_router_routes(name):
    [found] = plans(name, Query("q", "a dog", "ask"))
    expected = FRAME_SELECTORS[name](FRAMES, budget_tokens=100, tokens_per_frame=16)
    assert found["tokens"] == list(expected.tokens_N)
    assert found["reason"] == expected.reason
    assert (found["route"], found["route_reason"]) == ("fragment", "rules: why")


def test_a_query_s_own_budget_counts():
    found = plans("uniform", Query("a", "x", "ask"), Query("b", "y", "ask", budget_tokens=16))
    assert [sum(plan["tokens"]) for plan in found] == [96, 16]


def test_the_entry_of_the_default_plans_as_a_job_does():
    [found] = plans("relevance", Query("q", "a dog", "ask"))
    assert found["tokens"] == list(show_relevant(FRAMES, budget_tokens=100, tokens_per_frame=16).tokens_N)
    shown = show_relevant(FRAMES, budget_tokens=100, tokens_per_frame=16, route=Route("global", 1.0, ""))
    assert set(shown.tokens_N) == {8}


def test_a_find_is_confirmed_on_the_frames_of_its_spans():
    [found] = plans("uniform", Query("q", "a dog", "find"), confirm_find=True, budget=3 * 16)
    inside = [1, 2, 3, 6]
    assert set(np.flatnonzero(found["tokens"])) < set(inside)
    assert sum(found["tokens"]) == 3 * 16
    assert found["reason"] == "inside the spans to confirm: 3 of 4 frames at 16 tokens, at equal distances"
    assert not any(plans("uniform", Query("q", "a dog", "find"))[0]["tokens"])
    nowhere = Query("q", "a dog", "find", threshold=0.95)
    [nothing] = plans("uniform", nowhere, confirm_find=True, budget=1)
    assert nothing["reason"] == "no span to confirm: no visual tokens needed"


def test_a_budget_that_buys_nothing_is_the_question_s_own_failure():
    found = plans("clusters", Query("a", "x", "ask", budget_tokens=3), Query("b", "y", "ask"))
    assert "a budget of 3 tokens buys nothing" in found[0]["error_message"]
    assert not any(found[0]["tokens"])
    assert any(found[1]["tokens"])
    assert found[1]["error_message"] == ""


def test_what_heeds_no_question_is_found_once_for_all_of_a_budget(monkeypatch):
    asked = []

    def select(frames, *, budget_tokens, tokens_per_frame):
        asked.append(budget_tokens)
        return FRAME_SELECTORS["uniform"](
            frames, budget_tokens=budget_tokens, tokens_per_frame=tokens_per_frame
        )

    queries = [Query(name, name, "ask") for name in "abc"] + [Query("d", "d", "ask", budget_tokens=32)]
    for heeds, expected in ((False, [100, 32]), (True, [100, 100, 100, 32])):
        asked.clear()
        monkeypatch.setitem(FRAME_SELECTORS, "mine", select)
        monkeypatch.setitem(METHODS, "mine", replace(METHODS["uniform"], query_dependent=heeds))
        assert [sum(plan["tokens"]) for plan in plans("mine", *queries)] == [96, 96, 96, 32]
        assert asked == expected


def test_a_model_that_cannot_cut_frames_is_shown_whole_ones():
    [found] = plans("clusters", Query("q", "a dog", "ask"), cuts_frames=False, budget=50)
    [cut] = plans("clusters", Query("q", "a dog", "ask"), budget=50)
    assert {4, 16} <= set(cut["tokens"])
    assert found["tokens"] == [16 if count == 16 else 0 for count in cut["tokens"]]
    assert found["reason"].endswith("2 left; frames are shown whole: this model's tokens cannot be cut")


def test_where_no_frame_would_be_left_the_largest_ones_are_shown_whole():
    plan = Plan("global", (0, 8, 2, 8, 8, 2, 0), "why")
    assert whole(plan, 33, 16).tokens_N == (0, 16, 0, 0, 16, 0, 0)
    assert whole(plan, 16, 16).tokens_N == (0, 0, 0, 16, 0, 0, 0)
    assert whole(Plan("global", (16, 8), "why"), 24, 16).tokens_N == (16, 0)
    assert whole(Plan("global", (), "why"), 24, 16).tokens_N == ()
    with pytest.raises(AnswerError, match="15 tokens buys nothing"):
        whole(plan, 15, 16)


def test_some_frames_of_a_window_are_seen_as_if_there_were_no_others():
    """Frames 4 to 6 are fast against frame 3: the first of them that is kept is new to who sees no frame 3."""
    some = FRAMES.only(np.asarray([0, 0, 1, 0, 1, 0, 1, 0], bool))
    assert some.pts_s_N.tolist() == [2.0, 4.0, 6.0]
    assert some.slow_N.tolist() == [True, True, False]
    assert np.array_equal(some.embedding_NE, FRAMES.embedding_NE[[2, 4, 6]])
    assert np.array_equal(some.relevance_N, FRAMES.relevance_N[[2, 4, 6]])


def job(name: str, compressor: str = "uniform", scorer: str = "auto") -> JobConfig:
    return JobConfig(
        plan=PlanConfig(selector=name),
        compress=CompressConfig(compressor=compressor),
        score=ScoreConfig(scorer=scorer),
    )


def test_a_scorer_that_plans_anew_would_not_heed_a_selector():
    assert find_selector(job("relevance"), refines=True) is show_relevant
    words = r"score.scorer 'early-layers' .* plan.selector 'clusters'"
    with pytest.raises(ConfigError, match=words):
        find_selector(job("clusters", scorer="early-layers"), refines=True)
    assert find_selector(job("clusters"), refines=False) is FRAME_SELECTORS["clusters"]


def test_whole_frames_or_none_do_not_go_with_selectors_that_cut():
    with pytest.raises(ConfigError, match=r"compressor 'none' .* plan.selector 'slow-fast'"):
        find_selector(job("slow-fast", "none"), refines=False)
    assert find_selector(job("uniform", "none"), refines=False)
    with pytest.raises(ConfigError, match=r"no entry 'cluster'.*did you mean 'clusters'"):
        find_selector(job("cluster"), refines=False)


def test_pixels_are_looked_at_only_for_who_asks():
    assert [name for name in FRAME_SELECTORS if needs_pixels(name)] == ["slow-fast"]
    assert needs_pixels("mine.package:select")


def test_slow_frames_are_marked_as_a_window_is_sampled(tmp_path):
    """Pictures that hardly differ; without being asked nothing is compared."""
    clip = videos.write_video(tmp_path / "a.mp4", numbers=range(4), fps=1, b_frames=0)
    [file] = list_videos(str(clip))
    asked = {**file, "start_s": 0, "end_s": 4, "key_gap_s": 0.0}
    reader = Reader(DecodeConfig(), WindowConfig(sample_fps=1))
    marked = stages.sample_window(reader, FrameSize(96, 160), asked, marks_slow=True)
    expected = mark_slow(rows.unpack(marked["pixels"])).tolist()
    assert marked["slow"] == expected
    assert not all(expected)
    assert stages.sample_window(reader, FrameSize(96, 160), asked)["slow"] == [True] * 4


@pytest.mark.parametrize(("name", "smallest"), [("uniform", 64), ("slow-fast", 4), ("clusters", 16)])
def test_the_least_budget_is_the_selector_s_own(name, smallest):
    assert smallest_budget(FRAME_SELECTORS[name], 64) == smallest
    assert smallest_budget(FRAME_SELECTORS[name], 1) == 1
