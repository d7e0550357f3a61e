"""A window's frames have times inside it, plans spend tokens on them, and the same ones come again as evidence."""

import numpy as np
import pytest

from pipeline import rows, stages
from pipeline.config import DecodeConfig, PlanConfig, ScoreConfig, WindowConfig
from pipeline.errors import DecodeError
from pipeline.frames import FrameSize
from pipeline.isolation import Reader
from pipeline.listing import list_videos
from pipeline.queries import Query
from pipeline.route import Route
from pipeline.windows import key_gap_s, spans
from tests import videos

SIZE = FrameSize(96, 160)
READER = Reader(DecodeConfig(), WindowConfig())


@pytest.fixture
def slides(tmp_path):
    """Picture 0 stands for 7 s, then come three more, 1 s apart."""
    return videos.write_video(tmp_path / "a.mp4", numbers=[0, 210, 240, 270], b_frames=0, options=videos.X264)


def seen(path) -> dict:
    """The file as it is listed."""
    [file] = list_videos(str(path))
    return file


def sample(path, start_s: float, end_s: float, decode: DecodeConfig | None = None) -> dict:
    window = {**seen(path), "start_s": start_s, "end_s": end_s, "key_gap_s": 1.0}
    reader = Reader(decode or DecodeConfig(), WindowConfig(sample_fps=2))
    return {**window, **stages.sample_window(reader, SIZE, window)}


@pytest.mark.parametrize(
    ("start_s", "end_s", "pts_s", "numbers"),
    [(0, 4, [0.0], [0]), (4, 8, [4.0, 7.0], [0, 210]), (8.5, 9.5, [8.5, 9.0], [240, 270])],
)
def test_a_standing_picture_counts_from_the_windows_start(slides, start_s, end_s, pts_s, numbers):
    found = sample(slides, start_s, end_s)
    assert found["pts_s"] == pytest.approx(pts_s)
    assert [videos.number(data) for data in rows.unpack(found["pixels"])] == numbers


def test_evidence_is_the_frames_that_were_sampled(slides):
    window = sample(slides, 4, 8)
    evidence = stages.fetch_evidence(READER, SIZE, {**window, "plans": [{"tokens": [4, 0]}]})
    assert evidence["evidence_index"] == [0]
    assert np.array_equal(rows.unpack(evidence["evidence_pixels"])[0], rows.unpack(window["pixels"])[0])


def test_a_file_that_changed_or_went_is_not_answered_under_its_old_version(slides):
    window = {**seen(slides), "start_s": 0, "end_s": 4, "key_gap_s": 0.0}
    videos.write_video(slides, options=videos.X264)
    with pytest.raises(DecodeError, match="has changed since it was listed"):
        stages.sample_window(READER, SIZE, window)
    slides.unlink()
    with pytest.raises(DecodeError, match="is gone now"):
        stages.sample_window(READER, SIZE, window)


def test_only_the_plans_that_need_evidence_suffer_when_it_cannot_be_had(slides):
    window = sample(slides, 4, 8)
    videos.write_video(slides, options=videos.X264)  # 5 s
    plans = [{"tokens": [4, 4], "error_message": ""}, {"tokens": [0, 0], "error_message": ""}]
    found = stages.fetch_evidence(READER, SIZE, {**window, "plans": plans})
    assert found["evidence_index"] == []
    assert "has changed since it was listed" in found["plans"][0]["error_message"]
    assert found["plans"][1]["error_message"] == ""


def test_other_frames_than_those_sampled_are_no_evidence(slides):
    window = sample(slides, 4, 8)
    videos.write_video(slides, options=videos.X264)  # 5 s
    window = {**window, **seen(slides), "plans": [{"tokens": [4, 4], "error_message": ""}]}
    found = stages.fetch_evidence(READER, SIZE, window)
    words = "frames at [0.0, 7.0] s were sampled before, now [0.0] s were delivered"
    assert words in found["plans"][0]["error_message"]


def test_what_came_of_every_sampled_time_is_kept(slides):
    window = sample(slides, 4, 8)
    assert window["frames_planned"] == 8
    assert [item["frame"] for item in window["samples"]] == [0] * 6 + [1] * 2
    assert [item["pts_s"] for item in window["samples"]] == pytest.approx([0.0] * 6 + [7.0] * 2)
    assert {item["quality"] for item in window["samples"]} == {"ok"}


def test_a_window_without_a_picture_fails_with_the_reason(slides):
    with pytest.raises(
        DecodeError, match=r"none of 8 pictures between 60 and 64 s.*the pictures end earlier"
    ):
        sample(slides, 60, 64)


def test_a_probe_writes_down_the_windows(slides):
    video = stages.probe(Reader(DecodeConfig(), WindowConfig(length_s=4, sample_fps=2)), seen(slides))
    expected = spans(video["duration_s"], WindowConfig(length_s=4, sample_fps=2), video["key_times_s"])
    assert video["num_windows"] == len(expected) > 1
    assert video["window_starts_s"] == [start_s for start_s, _ in expected]
    assert video["key_gap_s"] == key_gap_s(video["key_times_s"], video["duration_s"]) > 0


def test_a_stale_picture_is_as_far_off_as_it_is_old(slides):
    window = sample(slides, 8, 14)
    stale = [item for item in window["samples"] if item["quality"] == "stale"]
    assert stale
    for item in stale:
        assert item["off_s"] == pytest.approx(item["pts_s"] - item["wanted_s"])
        assert item["off_s"] < 0
    assert {item["off_s"] for item in window["samples"] if item["quality"] == "ok"} == {0.0}


@pytest.mark.parametrize(
    ("policy", "period_s", "key_gap_s", "expected"),
    [
        ("auto", 1.0, 1.0, "keyframe"),
        ("auto", 1.0, 1.1, "exact"),
        ("auto", 1.0, 0.0, "exact"),  # not known
        ("near", 1.0, 0.5, "near"),
        ("exact", 1.0, 0.5, "exact"),
    ],
)
def test_auto_takes_key_pictures_where_they_come_as_often_as_samples(policy, period_s, key_gap_s, expected):
    chosen = stages.policy_for(DecodeConfig(policy=policy, near_s=0.2), period_s, key_gap_s)
    assert chosen.kind == expected
    assert chosen.near_s == (0.2 if expected == "near" else 0.0)


RELEVANCE = [0.1, 0.8, 0.45, 0.9, 0.1, 0.1, 0.7, 0.2]
"""Two spans at a threshold of .5: frames 1 to 3, the weak one included, and frame 6."""


def plan(kind: str = "find", *, budget_tokens: int = 9999, threshold: float | None = None, **options) -> dict:
    """The plan of one query for a window of one frame a second, 64 tokens each."""
    query = Query("q", "a dog", kind, threshold=threshold, budget_tokens=budget_tokens)
    relevance_NP = np.asarray(RELEVANCE, np.float32)[:, None]
    pts_s = [10.0 + second for second in range(len(RELEVANCE))]
    window = {"relevance": rows.pack(relevance_NP), "query_ids": ["q"], "pts_s": pts_s, "end_s": 18.0}
    route = options.pop("route", Route("fragment", 0.9, "rules: why"))
    score = ScoreConfig(threshold=0.5, candidates=options.pop("candidates", 32))
    [found] = stages.plan_window({"q": route}, [query], PlanConfig(), score, 64, window, **options)["plans"]
    return found


def test_what_is_asked_alike_is_put_to_the_router_once():
    heard = []

    def route(asked):
        heard.extend(asked)
        return [Route("global", 0.9, text) for text, _ in asked]

    queries = [
        Query("a", "x", "ask"),
        Query("b", "y", "ask"),
        Query("c", "x", "ask"),
        Query("d", "x", "flag"),
    ]
    found = stages.route_queries(route, queries)
    assert heard == [("x", "ask"), ("y", "ask"), ("x", "flag")]
    assert [found[name].reason for name in "abcd"] == ["x", "y", "x", "x"]
    assert stages.route_queries(route, []) == {}


def test_a_plan_says_which_router_spoke():
    assert plan()["route_reason"] == plan("flag")["route_reason"] == "rules: why"


def test_find_spends_tokens_only_to_be_confirmed():
    assert plan()["tokens"] == [0] * 8
    assert plan(confirm_find=True)["tokens"] == [0, 64, 16, 64, 0, 0, 64, 0]
    assert plan(confirm_find=True)["reason"].startswith("inside the spans to confirm: 3 of 3 relevant frames")


def test_a_find_is_confirmed_within_its_budget_and_its_own_threshold():
    short = plan(confirm_find=True, budget_tokens=70)
    assert 0 < sum(short["tokens"]) <= 70
    assert not any(short["tokens"][frame] for frame in (0, 4, 5, 7))
    assert plan(confirm_find=True, threshold=0.85)["tokens"] == [0, 0, 0, 64, 0, 0, 0, 0]


def test_a_find_without_a_span_has_nothing_to_confirm_even_where_nothing_can_be_bought():
    found = plan(confirm_find=True, threshold=0.95, budget_tokens=1)
    assert (found["tokens"], found["error_message"]) == ([0] * 8, "")
    assert found["reason"] == "no span to confirm: no visual tokens needed"


def test_the_other_kinds_do_not_depend_on_whether_finds_are_confirmed():
    assert plan("flag", confirm_find=True) == plan("flag")


@pytest.mark.parametrize(("kind", "threshold"), [("flag", 0.5), ("flag", 0.95), ("find", 0.5)])
def test_a_model_that_cannot_cut_frames_is_shown_whole_ones(kind, threshold):
    """Relevant ones, the whole window where none is relevant, and those of spans."""
    options = {"threshold": threshold, "budget_tokens": 220, "confirm_find": True}
    cut, whole = plan(kind, **options), plan(kind, cuts_frames=False, **options)
    assert set(cut["tokens"]) - {0} != {64}
    assert set(whole["tokens"]) - {0} == {64}
    assert sum(whole["tokens"]) <= 220
    assert whole["reason"].endswith("; frames are shown whole: this model's tokens cannot be cut")
    assert "cannot be cut" not in cut["reason"]


def test_a_budget_below_a_whole_frame_says_that_no_scale_helps():
    assert plan("flag", budget_tokens=63)["error_message"] == ""
    found = plan("flag", budget_tokens=63, cuts_frames=False)
    assert "a budget of 63 tokens does not buy one frame: the smallest costs 64" in found["error_message"]
    assert found["error_message"].endswith("frames are shown whole: this model's tokens cannot be cut")
    assert not any(found["tokens"])


def test_a_scorer_that_refines_is_proposed_the_best_frames():
    """Neighbours too: frames 1 and 3 are 2 s apart, frame 6 is the third best."""
    found = plan("ask", refines=True)
    assert found["candidates"] == list(range(8))
    few = plan("flag", refines=True, candidates=2)
    assert few["candidates"] == [1, 3]
    assert few["tokens"] == plan("flag")["tokens"]


def test_the_whole_window_is_kept_ready_for_a_router_that_finds_nothing():
    """Not what the proposer shows: 70 tokens buy two frames at 32, or its best one at 64."""
    found = plan("flag", refines=True, candidates=2, budget_tokens=70)
    whole = plan("flag", budget_tokens=70, route=Route("global", 0.9, ""))
    assert found["fallback"] == [2, 6] == np.flatnonzero(whole["tokens"]).tolist()
    assert np.count_nonzero(found["tokens"]) == 1


def test_nothing_is_proposed_where_no_plan_follows_relevance():
    assert plan("flag")["candidates"] == plan("flag")["fallback"] == []
    assert plan("find", refines=True, confirm_find=True)["candidates"] == []
    assert plan("flag", refines=True, route=Route("global", 0.9, ""))["candidates"] == []
    assert plan("flag", refines=True, route=Route("fragment", 0.5, ""))["candidates"] == []
    broken = plan("flag", refines=True, budget_tokens=3)
    assert broken["error_message"]
    assert broken["candidates"] == []


def test_candidates_are_decoded_beside_the_planned_frames(slides):
    window = sample(slides, 4, 10)
    assert len(window["pts_s"]) == 4
    plans = [{"tokens": [4, 0, 0, 0], "candidates": [2]}, {"tokens": [0, 0, 0, 0], "candidates": [2, 3]}]
    evidence = stages.fetch_evidence(READER, SIZE, {**window, "plans": plans})
    assert evidence["evidence_index"] == [0, 2, 3]
    assert len(rows.unpack(evidence["evidence_pixels"])) == 3
    plans[0]["fallback"] = [0, 1]
    evidence = stages.fetch_evidence(READER, SIZE, {**window, "plans": plans})
    assert evidence["evidence_index"] == [0, 1, 2, 3]
