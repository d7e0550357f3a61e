"""Routes that a model decides: in one task, once; the same output folder never asks again. Real Ray, tiny model."""

import json
import os
import shutil
import subprocess
import sys
from unittest.mock import ANY

import pytest
import torch

from actors.models.heads import Heads, SemanticHead, save_heads
from tests import tiny_models
from tests.integration.ray_head import QUIET, ROOT
from tests.integration.results import read

QUERIES = [
    {"query_id": "free", "kind": "ask", "text": "What colour is the car?"},
    {"query_id": "same", "kind": "ask", "text": "What colour is the car?"},
    {"query_id": "all", "kind": "choose", "text": "Which of these?", "choices": ["street", "dog"]},
    {"query_id": "dog", "kind": "find", "text": "a dog"},
]
MORE = {"query_id": "later", "kind": "flag", "text": "Is there a fire?"}
SETTINGS = ("--window.length-s", 4, "--window.sample-fps", 1, "--plan.budget-tokens", 16, "--answer.frame-px", 96,
            "--answer.max-new-tokens", 4, "--answer.dtype", "float32", "--plan.early-layers", 2)  # fmt: skip

WITHOUT_A_SEAT = """
import sys
from jobs import cluster, placement
placement.WAIT_S, placement.NO_PROGRESS_S = 0.2, 0.5
with cluster.connected():
    from actors.models import RouterFacts
    from jobs import flow, routing
    from pipeline.config import JobConfig, PoolConfig
    from pipeline.errors import ClusterError
    from pipeline.ledger import Run
    from pipeline.queries import Query
    from tests.plugins_sample import BROKEN_ROUTER

    queries = [Query("fire", "Is there a fire?", "flag")]
    job = flow.Job(JobConfig(), queries, Run(sys.argv[1], "run"), None, None, None, None, None, None)
    facts, seat = RouterFacts("broken", needs_model=True), placement.Seat("cpu", 64, 0.0, PoolConfig())
    try:
        routing.decide(BROKEN_ROUTER, facts, job, {}, seat)
    except ClusterError as error:
        print(error, file=sys.stderr)
"""


def heads(folder):
    torch.manual_seed(0)
    save_heads(folder, Heads(tiny_models.HIDDEN, 2, 64, SemanticHead(tiny_models.HIDDEN), None))
    return folder


def routes_written(out):
    """The routes of every run, by run."""
    return {path.parent.name: json.loads(path.read_text()) for path in (out / "_run").glob("*/routes.json")}


@pytest.mark.parametrize(("router", "more"), [("llm", [MORE]), ("trained", [])])
def test_a_model_decides_once_and_its_word_holds(reelsift, clips, ask, tmp_path, router, more):
    model = tiny_models.build("internvl", tmp_path / "model")
    videos, out = tmp_path / "some", tmp_path / "out"
    videos.mkdir()
    shutil.copy(clips / "bikes.mp4", videos)
    named = ("--answer.model", model, "--plan.router", router, "--plan.heads", heads(tmp_path / "heads"))

    def run(*queries):
        done = reelsift("answer", videos, ask(*queries), out, *SETTINGS, *named)
        assert done.code == 0, done.err
        return done

    first = run(*QUERIES)
    assert "routes of 3 questions: 0 written down by earlier runs, 3 to be decided by router" in first.err
    answers = read(out, "answers")
    assert not any(row["error_type"] for row in answers)
    found = {row["query_id"]: (row["route_reason"], row["route_confidence"]) for row in answers}
    assert len({(row["query_id"], row["route_reason"], row["route_confidence"]) for row in answers}) == len(
        QUERIES
    )
    assert found["free"] == found["same"]
    for reason, confidence in found.values():
        assert reason.startswith(f"{router}: whole ")
        assert 0.5 <= confidence <= 1
    [written] = routes_written(out).values()
    assert [row["text"] for row in written] == ["What colour is the car?", "Which of these?", "a dog"]

    shutil.copy(clips / "carphone_pristine.mp4", videos)
    second = run(*QUERIES, *more)
    assert f"3 written down by earlier runs, {len(more)} to be decided by router" in second.err
    assert {row["query_id"]: (row["route_reason"], row["route_confidence"]) for row in read(out, "answers")} == {
        **found, **{query["query_id"]: (ANY, ANY) for query in more}
    }  # fmt: skip
    assert sorted(map(len, routes_written(out).values())) == [3, 3 + len(more)]


def test_a_router_that_breaks_names_its_model(reelsift, clips, ask, tmp_path):
    model = tiny_models.build("internvl", tmp_path / "model")
    done = reelsift(
        "answer", clips / "bikes.mp4", ask(*QUERIES), tmp_path / "out", *SETTINGS, "--answer.model", model,
        "--plan.router", "tests.plugins_sample:BROKEN_ROUTER",
    )  # fmt: skip
    assert done.code == 3, done.err
    last = done.err.strip().splitlines()[-1]
    assert f"router broken with model '{model}' failed on 3 questions: ZeroDivisionError: by nought" in last
    assert not read(tmp_path / "out", "answers")


def test_a_router_without_a_seat_is_given_up(ray_address, tmp_path):
    """The cluster has three CPUs and never gets more."""
    command = [sys.executable, "-c", WITHOUT_A_SEAT, str(tmp_path)]
    environment = {**os.environ, **QUIET, "RAY_ADDRESS": ray_address}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert "router broken with model '' found no seat within 0.5 s: it needs 64 CPUs and 0 GPUs" in last
    assert "3 of 3 CPUs and 0 of 0 GPUs of the cluster are free" in last


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--plan.router", "llm"), "Routers that fit this job: rules"),
        (
            ("--answer.model", "MODEL", "--plan.scale-background", 1, "--plan.budget-tokens", 1),
            "'free': --plan.budget",
        ),
    ],
)
def test_what_cannot_work_is_refused_before_ray(reelsift, clips, ask, tmp_path, options, told):
    model = tiny_models.build("internvl", tmp_path / "model")
    given = [model if option == "MODEL" else option for option in options]
    done = reelsift("answer", clips, ask(*QUERIES), tmp_path / "out", *given, RAY_ADDRESS="127.0.0.1:1")
    assert done.code == 2, done.err
    assert told in done.err
    assert not (tmp_path / "out").exists()
