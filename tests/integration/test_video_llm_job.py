"""The job with video language models and a dual encoder: tiny random ones, saved and loaded like any others."""

import json
from itertools import groupby

import pytest

from pipeline import rows
from tests import tiny_models
from tests.integration.results import TIMING, read

BUDGET_TOKENS = 16
MAX_NEW_TOKENS = 8
KINDS = {
    "dog": {"kind": "find", "text": "a dog"},
    "car": {"kind": "flag", "text": "a car"},
    "place": {"kind": "choose", "text": "Which of these?", "choices": ["street", "dog"]},
    "free": {"kind": "ask", "text": "What colour is the car?"},
    "cheap": {"kind": "flag", "text": "a fire", "budget_tokens": 8},
}
QUERIES = [{"query_id": name, **query} for name, query in KINDS.items()]
ASKED = ("car", "place", "free", "cheap")
"""What is put to the language model and can be answered."""
SETTINGS = ("--window.length-s", "4", "--window.sample-fps", "1", "--plan.budget-tokens", BUDGET_TOKENS,
            "--answer.frame-px", "96", "--answer.max-new-tokens", MAX_NEW_TOKENS,
            "--answer.dtype", "float32")  # fmt: skip
WHOLE = ("--plan.scale-global", "1", "--plan.scale-background", "1")
"""What a plan must be for frames that are not cut."""
FAMILIES = [("internvl", "none"), ("qwen2_5_vl", "dycoke")]
"""Of the models that tests/unit has all of: one that is given whole frames, one of which a compressor keeps a part."""


@pytest.fixture
def two_clips(clips):
    for path in clips.iterdir():
        if path.name not in {"bikes.mp4", "carphone_pristine.mp4"}:
            path.unlink()
    return clips


@pytest.mark.parametrize(("kind", "compressor"), FAMILIES, ids=[kind for kind, _ in FAMILIES])
def test_every_kind_of_question(reelsift, two_clips, ask, tmp_path, kind, compressor):
    model = tiny_models.build(kind, tmp_path / "model")
    scorer = tiny_models.build("clip", tmp_path / "clip")
    named = ("--answer.model", model, "--compress.compressor", compressor, "--score.model", scorer)
    scales = WHOLE if compressor == "none" else ()
    out = tmp_path / "out"
    done = reelsift("answer", two_clips, ask(*QUERIES), out, *SETTINGS, *scales, *named)
    assert done.code == 0, done.err
    answers = read(out, "answers")
    windows = sum(video["num_windows"] for video in read(out, "videos"))
    assert len(answers) == windows * len(QUERIES)
    by_query = {name: [row for row in answers if row["query_id"] == name] for name in KINDS}
    _the_model_answers(by_query)
    _tokens_are_within_budget(by_query)
    _find_spends_nothing(by_query["dog"])
    assert not any(row["error_type"] for row in answers)
    for answer in answers:
        assert (answer["model"], answer["compressor"]) == (str(model), compressor)
        assert answer["model_revision"]
        assert str(scorer) in answer["scorer"]
    _verdicts_add_up(read(out, "verdicts"), by_query)
    for window in by_window(answers):
        _costs_are_counted_once(window, as_planned=compressor == "none")
    _the_run_counts_what_its_rows_say(done, out, answers)


def by_window(answers):
    ordered = sorted(answers, key=lambda row: row["window_id"])
    return [list(window) for _, window in groupby(ordered, key=lambda row: row["window_id"])]


def _the_model_answers(by_query):
    for name in ASKED:
        for row in by_query[name]:
            assert (row["error_type"], row["error_message"]) == ("", "")
            assert 0 < row["confidence"] <= 1
    assert {row["answer"] for row in by_query["car"] + by_query["cheap"]} <= {"yes", "no"}
    assert {row["answer"] for row in by_query["place"]} <= {"street", "dog"}
    assert all(row["answer"].strip() for row in by_query["free"])


def _tokens_are_within_budget(by_query):
    for name in ASKED:
        budget = KINDS[name].get("budget_tokens", BUDGET_TOKENS)
        for row in by_query[name]:
            assert 0 < row["tokens_used"] <= budget
            assert row["tokens_used"] <= row["tokens_dense"]
            assert sum(frame["tokens"] for frame in row["evidence"]) == row["tokens_used"]
            assert row["route"] in {"global", "fragment"}
            assert row["route_reason"].startswith("rules: ")
            assert " frames at " in row["plan_reason"]


def _find_spends_nothing(found):
    for row in found:
        assert (row["error_type"], row["tokens_used"]) == ("", 0)
        assert row["answer"] in {"found", "not found"}
        assert not any(row[name] for name in rows.COST)


def _verdicts_add_up(verdicts, by_query):
    assert len(verdicts) == 2 * len(KINDS)
    for verdict in verdicts:
        found = [row for row in by_query[verdict["query_id"]] if row["video_id"] == verdict["video_id"]]
        assert verdict["num_windows"] == len(found)
        assert verdict["tokens_used"] == sum(row["tokens_used"] for row in found)
        assert verdict["error_type"] == ""


def _costs_are_counted_once(window, *, as_planned):
    """Each frame of a window is encoded once, each plan prefilled once, by whoever needs it first."""
    asked = [row for row in window if row["query_id"] in ASKED]
    shown = {frame["pts_s"] for row in asked for frame in row["evidence"]}
    clips = {tuple((frame["pts_s"], frame["tokens"]) for frame in row["evidence"]) for row in asked}
    frames, prefills = (sum(row[name] for row in asked) for name in ("vision_frames", "prefills"))
    assert len(shown) <= frames <= asked[0]["frames_seen"]
    assert len(clips) <= prefills <= len(asked)
    if as_planned:
        assert (frames, prefills) == (len(shown), len(clips))
    for row in asked:
        assert min(row[name] for name in rows.COST) >= 0
        assert row["prefill_tokens"] > row["tokens_used"] * row["prefills"]
        steps = range(MAX_NEW_TOKENS) if row["kind"] == "ask" else range(1)
        assert row["decode_steps"] in steps


def _the_run_counts_what_its_rows_say(done, out, answers):
    counted = done.json["this_run"]
    for name in (*rows.COST, "tokens_used", "tokens_dense"):
        assert counted[name] == sum(row[name] for row in answers)
    assert counted["model_answers"] == sum(row["query_id"] in ASKED for row in answers)
    [stats] = (out / "_run").glob("*/stats.json")
    assert json.loads(stats.read_text())["this_run"] == counted


FINDS = [
    {"query_id": "bike", "kind": "find", "text": "a bicycle", "threshold": 0.3},
    {"query_id": "person", "kind": "find", "text": "a person", "threshold": 0.3},
    {"query_id": "never", "kind": "find", "text": "a whale", "threshold": 1.0},
]


def test_spans_are_confirmed_and_windows_share_a_call(reelsift, two_clips, ask, tmp_path):
    """Eight windows a call answer as one does, and confirming spans changes nothing but `find`."""
    queries = ask(*FINDS, *(query for query in QUERIES if query["query_id"] in ASKED))
    named = ("--answer.model", tiny_models.build("smolvlm", tmp_path / "model"))
    ways = {
        "plain": ("--answer.windows-per-call", 1),
        "confirmed": ("--answer.windows-per-call", 8, "--answer.confirm-find"),
    }
    found = {}
    for name, way in ways.items():
        done = reelsift("answer", two_clips, queries, tmp_path / name, *SETTINGS, *named, *way)
        assert done.code == 0, done.err
        answers = read(tmp_path / name, "answers")
        found[name] = {(row["window_id"], row["query_id"]): row for row in answers}
    assert found["plain"].keys() == found["confirmed"].keys()
    asked = 0
    for key, plain in found["plain"].items():
        confirmed = found["confirmed"][key]
        assert confirmed["error_type"] == ""
        if plain["kind"] == "find":
            asked += _only_confirmed_spans_stay(plain, confirmed)
        else:
            assert _seen(confirmed) == _seen(plain)
            assert confirmed["confidence"] == pytest.approx(plain["confidence"], abs=1e-5)
    assert asked


def _seen(row):
    """Return what must not depend on who else is asked; who pays for a shared prompt may."""
    return {name: value for name, value in row.items() if name not in {*TIMING, *rows.COST, "confidence"}}


def _only_confirmed_spans_stay(plain, confirmed):
    """Return how many spans the model was asked about."""
    assert not any(plain[name] for name in (*rows.COST, "tokens_used"))
    before = {(span["start_s"], span["end_s"]): span["score"] for span in plain["spans"]}
    after = {(span["start_s"], span["end_s"]): span["score"] for span in confirmed["spans"]}
    assert after.keys() <= before.keys()
    assert confirmed["answer"] == ("found" if after else "not found")
    assert 0 <= confirmed["tokens_used"] <= BUDGET_TOKENS
    assert 0 <= confirmed["confidence"] <= 1
    if not before:
        assert confirmed["plan_reason"] == "no span to confirm: no visual tokens needed"
        assert _seen({**confirmed, "plan_reason": plain["plan_reason"]}) == _seen(plain)
        return 0
    shown = [frame["pts_s"] for frame in confirmed["evidence"] if frame["tokens"]]
    asked = {(start, end) for start, end in before if any(start <= pts_s < end for pts_s in shown)}
    for span, score in after.items():
        assert score >= 0.5 if span in asked else score == before[span]
    assert before.keys() - asked <= after.keys()
    assert sum(frame["tokens"] for frame in confirmed["evidence"]) == confirmed["tokens_used"]
    return len(asked)
