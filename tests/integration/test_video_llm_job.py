"""The job with a video language model and a dual encoder: tiny random ones, saved and loaded like any other."""

import pytest

from tests import tiny_models
from tests.integration.results import read

BUDGET_TOKENS = 16
KINDS = {
    "dog": {"kind": "find", "text": "a dog"},
    "car": {"kind": "flag", "text": "a car"},
    "place": {"kind": "choose", "text": "Which of these?", "choices": ["street", "dog"]},
    "free": {"kind": "ask", "text": "What colour is the car?"},
    "cheap": {"kind": "flag", "text": "a fire", "budget_tokens": 8},
    "starved": {"kind": "ask", "text": "Is there a fire?", "budget_tokens": 1},
}
QUERIES = [{"query_id": name, **query} for name, query in KINDS.items()]
ASKED = ("car", "place", "free", "cheap")
"""What is put to the language model and can be answered."""
SETTINGS = ("--window.length-s", "4", "--window.sample-fps", "1", "--plan.budget-tokens", BUDGET_TOKENS,
            "--answer.frame-px", "96", "--answer.max-new-tokens", "8")  # fmt: skip


@pytest.fixture
def two_clips(clips):
    for path in clips.iterdir():
        if path.name not in {"bikes.mp4", "carphone_pristine.mp4"}:
            path.unlink()
    return clips


@pytest.mark.parametrize(
    ("kind", "compressor"), [("smolvlm", "uniform"), ("qwen2_5_vl", "dycoke")], ids=["uniform", "dycoke"]
)
def test_every_kind_of_question(reelsift, two_clips, ask, tmp_path, kind, compressor):
    model = tiny_models.build(kind, tmp_path / "model")
    scorer = tiny_models.build("clip", tmp_path / "clip")
    named = ("--answer.model", model, "--compress.compressor", compressor, "--score.model", scorer)
    done = reelsift("answer", two_clips, ask(*QUERIES), tmp_path / "out", *SETTINGS, *named)
    assert done.code == 0, done.err
    answers = read(tmp_path / "out", "answers")
    windows = sum(video["num_windows"] for video in read(tmp_path / "out", "videos"))
    assert len(answers) == windows * len(QUERIES)
    by_query = {name: [row for row in answers if row["query_id"] == name] for name in KINDS}
    _the_model_answers(by_query)
    _tokens_are_within_budget(by_query)
    _find_spends_nothing(by_query["dog"])
    _a_budget_below_one_frame_fails_alone(by_query)
    for answer in answers:
        assert (answer["model"], answer["compressor"]) == (str(model), compressor)
        assert answer["model_revision"]
        assert str(scorer) in answer["scorer"]
    _verdicts_add_up(read(tmp_path / "out", "verdicts"), by_query)


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
            assert row["tokens_used"] < row["tokens_dense"]
            assert sum(frame["tokens"] for frame in row["evidence"]) == row["tokens_used"]
            assert row["route"] in {"global", "fragment"}
            assert " frames at " in row["plan_reason"]


def _find_spends_nothing(rows):
    for row in rows:
        assert (row["error_type"], row["tokens_used"]) == ("", 0)
        assert row["answer"] in {"found", "not found"}


def _a_budget_below_one_frame_fails_alone(by_query):
    for row in by_query["starved"]:
        assert (row["error_type"], row["answer"], row["tokens_used"]) == ("AnswerError", "", 0)
        assert "a budget of 1 tokens does not buy one frame" in row["error_message"]
        assert "raise budget_tokens" in row["error_message"]
    failed = {name for name, rows in by_query.items() if any(row["error_type"] for row in rows)}
    assert failed == {"starved"}


def _verdicts_add_up(verdicts, by_query):
    assert len(verdicts) == 2 * len(KINDS)
    for verdict in verdicts:
        rows = [row for row in by_query[verdict["query_id"]] if row["video_id"] == verdict["video_id"]]
        assert verdict["num_windows"] == len(rows)
        assert verdict["tokens_used"] == sum(row["tokens_used"] for row in rows)
        assert bool(verdict["error_type"]) == (verdict["query_id"] == "starved")
