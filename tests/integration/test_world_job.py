"""The generated world, from video files to answers: `reelsift world`, then `reelsift answer --recipe world`."""

import json

import pytest

from jobs.recipes import find_recipe
from pipeline import config as settings
from tests.integration.results import read

FINDS = [{"query_id": "find", "kind": "find", "text": "the bag"}]
PLAN = find_recipe("world").plan
SELECTOR = ("--recipe", "world", "--plan.selector", "clusters")


def own_queries(questions):
    """Every question as `ask`, and one as each other kind: asked of both videos, judged on its own."""
    queries = [{"query_id": one["id"], "kind": "ask", "text": one["question"]} for one in questions]
    for kind in ("choose", "flag"):
        one = next(one for one in questions if one["kind"] == kind)
        listed = {"choices": one["choices"]} if kind == "choose" else {}
        queries.append({"query_id": f"as-{kind}", "kind": kind, "text": one["question"], **listed})
    return queries


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("worlds") / "world"


@pytest.fixture
def world(folder, reelsift):
    """A folder with two videos and their questions, made by the first test that asks."""
    if not folder.exists():
        made = reelsift("world", folder, "--split", "test", "--videos", "2")
        assert made.code == 0, made.err
        assert made.json["videos"] == 2
    return folder


def test_what_ships_answers_what_is_generated(reelsift, world, ask, tmp_path):
    questions = [json.loads(line) for line in (world / "questions.jsonl").read_text().splitlines()]
    queries = [*own_queries(questions), *FINDS]
    out = tmp_path / "out"
    command = ("answer", world / "videos", ask(*queries), out, "--recipe", "world")
    done = reelsift(*command)
    assert done.code == 0, done.err
    answers = read(out, "answers")
    assert len(answers) == 2 * len(queries)
    assert not [(row["query_id"], row["error_message"]) for row in answers if row["error_type"]]
    _budgets_are_kept(answers)
    _models_are_named_as_on_every_machine(answers)
    _most_is_right(questions, answers)
    assert {row["answer"] for row in answers if row["query_id"] == "as-flag"} <= {"yes", "no"}
    choices = next(query["choices"] for query in queries if query["query_id"] == "as-choose")
    assert {row["answer"] for row in answers if row["query_id"] == "as-choose"} <= set(choices)
    assert "nothing to do" in reelsift(*command).err


def test_a_selector_spends_the_budget_and_the_router_keeps_its_word(reelsift, world, tmp_path):
    """Frames are chosen by another selector than relevance; a scorer that would not heed it is refused."""
    out = tmp_path / "out"
    command = ("answer", world / "videos", world / "queries.jsonl", out, *SELECTOR)
    refused = reelsift(*command)
    assert refused.code == 2
    assert "score.scorer 'trained'" in refused.err
    assert "plan.selector 'clusters'" in refused.err

    done = reelsift(*command, "--score.scorer", "dual-encoder", "--plan.budget-tokens", 64)
    assert done.code == 0, done.err
    answers = [row for row in read(out, "answers") if row["kind"] != "find"]
    assert answers
    for row in answers:
        assert row["error_message"] == ""
        assert "clusters of 32 frames" in row["plan_reason"]
        assert row["route_reason"].startswith("trained")
        assert {frame["tokens"] for frame in row["evidence"]} <= {4, 16}
        assert 0 < row["tokens_used"] <= 64


def _budgets_are_kept(answers):
    for row in answers:
        assert row["tokens_used"] <= PLAN.budget_tokens
        assert (row["tokens_used"] > 0) == (row["kind"] != "find")
        assert (
            sum(frame["tokens"] for frame in row["evidence"]) == row["tokens_used"] or row["kind"] == "find"
        )
        if row["kind"] != "find":
            assert row["route"] in {"global", "fragment"}
            assert row["route_reason"].startswith("trained")


def _models_are_named_as_on_every_machine(answers):
    """No path of this machine is in a row, so that runs of two machines can be compared."""
    assert {row["model"] for row in answers if row["kind"] != "find"} == {"package:world/model"}
    assert all("package:world/pair" in row["scorer"] for row in answers)


def _most_is_right(questions, answers):
    """Chance is about one in four; every question is judged on the video that it is about."""
    said = {(row["uri"].rsplit("/", 1)[1], row["query_id"]): row["answer"] for row in answers}
    right = [said[one["video"], one["id"]].strip().lower() == one["answer"] for one in questions]
    assert sum(right) / len(right) > 0.5


def test_the_recipe_s_fingerprint_holds_no_path():
    dumped = json.dumps(settings.dump(find_recipe("world")))
    assert "/home" not in dumped
    assert "world_data" not in dumped
