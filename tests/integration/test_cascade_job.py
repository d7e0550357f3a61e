"""The job with a scorer inside the language model: frames are proposed, judged there, and planned again."""

import pytest
import torch

from actors.models.heads import Heads, ImageHead, save_heads
from tests import tiny_models
from tests.integration.results import read

BUDGET_TOKENS, CANDIDATES = 40, 2
QUERIES = [
    {"query_id": "dog", "kind": "find", "text": "a dog"},
    {"query_id": "car", "kind": "flag", "text": "a car"},
    {"query_id": "place", "kind": "choose", "text": "Which of these?", "choices": ["street", "dog"]},
    {"query_id": "free", "kind": "ask", "text": "What colour is the car?"},
    {"query_id": "story", "kind": "ask", "text": "Summarize the video."},
]
REFINED = {"car", "free"}
SETTINGS = ("--window.length-s", "4", "--window.sample-fps", "1", "--plan.budget-tokens", BUDGET_TOKENS,
            "--answer.frame-px", "96", "--answer.max-new-tokens", "4", "--answer.dtype", "float32",
            "--score.candidates", CANDIDATES, "--plan.early-layers", "2", "--plan.early-tokens", "4")  # fmt: skip


@pytest.fixture
def one_clip(clips):
    for path in clips.iterdir():
        if path.name != "bikes.mp4":
            path.unlink()
    return clips


@pytest.mark.parametrize(("scorer", "kind"), [("early-layers", "qwen3_vl"), ("trained", "smolvlm")])
def test_frames_are_proposed_and_judged_in_the_model(reelsift, one_clip, ask, tmp_path, scorer, kind):
    model = tiny_models.build(kind, tmp_path / "model")
    torch.manual_seed(0)
    save_heads(
        tmp_path / "heads", Heads(tiny_models.HIDDEN, 2, 4, None, ImageHead(tiny_models.HIDDEN), model="tiny")
    )
    out = tmp_path / "out"
    named = ("--answer.model", model, "--score.scorer", scorer, "--plan.heads", tmp_path / "heads")
    done = reelsift("answer", one_clip, ask(*QUERIES), out, *SETTINGS, *named)
    assert done.code == 0, done.err
    answers = read(out, "answers")
    assert {row["query_id"] for row in answers if row["router_tokens"]} == REFINED
    for row in answers:
        assert (row["error_type"], row["error_message"]) == ("", "")
        assert row["tokens_used"] <= BUDGET_TOKENS
        assert row["scorer"].startswith(f"{scorer} 2x4")
        assert "after embedded" in row["scorer"]
        looked = " candidates looked at, " in row["plan_reason"]
        assert looked == (row["query_id"] in REFINED)
        assert len(row["judged"]) == (CANDIDATES if looked else 0)
        if looked:
            _shows_what_was_judged(row)
    assert "fragment" in {row["route"] for row in answers if row["query_id"] in REFINED}
    assert done.json["this_run"]["router_tokens"] == sum(row["router_tokens"] for row in answers)
    again = reelsift("answer", one_clip, ask(*QUERIES), out, *SETTINGS, *named)
    assert again.code == 0, again.err
    assert len(read(out, "answers")) == len(answers)


def _shows_what_was_judged(row):
    assert row["tokens_used"] == sum(frame["tokens"] for frame in row["evidence"]) > 0
    shown = {frame["pts_s"]: frame for frame in row["evidence"]}
    for frame in row["judged"]:
        assert frame == shown.get(frame["pts_s"], {**frame, "tokens": 0})
    judged = [frame for frame in row["evidence"] if frame["score"]]
    assert len(judged) <= CANDIDATES
    if row["route"] == "fragment":
        assert any(frame["score"] >= 0.5 for frame in judged)
        most = max(frame["tokens"] for frame in row["evidence"])
        assert all(frame["tokens"] == most for frame in judged if frame["score"] >= 0.5)


def test_a_job_without_a_model_is_refused_before_anything_starts(reelsift, one_clip, ask, tmp_path):
    done = reelsift("answer", one_clip, ask(QUERIES[0]), tmp_path / "out", "--score.scorer", "early-layers")
    assert done.code == 2
    assert "Scorers that fit this job: embedded, dual-encoder" in done.err
    assert not (tmp_path / "out").exists()
