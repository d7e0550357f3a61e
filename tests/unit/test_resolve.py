"""What is looked up before a job starts, and what is refused."""

import os
import subprocess
import sys

import pytest

from jobs.resolve import resolve
from pipeline.config import AnswerConfig, CompressConfig, DecodeConfig, JobConfig, PlanConfig, ScoreConfig
from pipeline.errors import ConfigError, ModelError
from pipeline.queries import Query, one_query
from tests import tiny_models, tiny_models_any


@pytest.mark.parametrize(
    ("config", "hint"),
    [
        (JobConfig(compress=CompressConfig(compressor="unifrom")), "did you mean 'uniform'"),
        (
            JobConfig(compress=CompressConfig(compressor="dycoke", threshold=0.9)),
            "no effect on compressor 'dycoke'",
        ),
        (JobConfig(plan=PlanConfig(router="rulse")), "did you mean 'rules'"),
        (JobConfig(plan=PlanConfig(router="llm")), "Routers that fit this job: rules"),
        (JobConfig(plan=PlanConfig(router="trained")), "Routers that fit this job: rules"),
        (JobConfig(decode=DecodeConfig(decoder="pyva")), "did you mean 'pyav'"),
        (JobConfig(score=ScoreConfig(scorer="embeded")), "did you mean 'embedded'"),
        (JobConfig(aggregator="strongest"), "did you mean 'strongest-window'"),
        (JobConfig(answer=AnswerConfig(model="/no/such/model")), "/no/such/model"),
        (JobConfig(score=ScoreConfig(model="/no/such/model")), "/no/such/model"),
    ],
)
def test_names_that_do_not_exist(config, hint):
    with pytest.raises((ConfigError, ModelError), match=hint):
        resolve(config, [one_query("a dog")])


def test_what_needs_visual_tokens_is_refused_for_models_that_hide_them(tmp_path):
    answering = AnswerConfig(model=str(tiny_models_any.build("gemma3", tmp_path)))
    queries = [Query("q", "a dog", "flag")]
    resolve(JobConfig(answer=answering), queries)
    for compressor in ("dtd", "dycoke"):
        config = JobConfig(answer=answering, compress=CompressConfig(compressor=compressor))
        with pytest.raises(ConfigError, match=r"shown whole. Compressors that fit: none, uniform"):
            resolve(config, queries)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """16 visual tokens a frame."""
    return str(tiny_models.build("smolvlm", tmp_path_factory.mktemp("model")))


def test_budgets_are_held_against_the_smallest_frame_of_the_plan(model):
    answering = AnswerConfig(model=model, frame_px=64)
    least = {"find": [Query("q", "a dog", "find", budget_tokens=1)], "enough": [Query("q", "a dog", "flag")]}
    for queries in least.values():
        resolve(JobConfig(answer=answering, plan=PlanConfig(budget_tokens=4)), queries)
    finding = JobConfig(answer=AnswerConfig(model=model, frame_px=64, confirm_find=True))
    with pytest.raises(ConfigError, match=r"query 'q': its budget_tokens 1 .*at least 4 visual tokens"):
        resolve(finding, least["find"])
    with pytest.raises(ConfigError, match=r"query 'q': --plan\.budget-tokens 3 .*at least 4 visual tokens"):
        resolve(JobConfig(answer=answering, plan=PlanConfig(budget_tokens=3)), least["enough"])
    plan = PlanConfig(budget_tokens=3, scale_background=8)
    resolve(JobConfig(answer=answering, plan=plan), least["enough"])
    resolve(JobConfig(plan=PlanConfig(budget_tokens=1)), [Query("q", "a dog", "flag", budget_tokens=1)])


def test_what_routes_is_written_down_only_where_it_is_a_model(model):
    answering = AnswerConfig(model=model)
    asked = resolve(JobConfig(answer=answering, plan=PlanConfig(router="llm")), [one_query("a dog")])
    assert (asked.routes, asked.models["router"]) == ({}, "llm")
    ruled = resolve(JobConfig(answer=answering), [one_query("a dog")])
    assert [route.route for route in ruled.routes.values()] == ["fragment"]
    assert "router" not in ruled.models


def test_a_plan_that_the_compressor_cannot_follow():
    with pytest.raises(ConfigError, match=r"--plan\.scale-global 1"):
        JobConfig(compress=CompressConfig(compressor="none"))
    JobConfig(compress=CompressConfig(compressor="none"), plan=PlanConfig(scale_global=1, scale_background=1))


def test_without_a_model_neither_driver_nor_scorer_imports_torch(tmp_path):
    """But for the first scorer on a machine, which makes a network of torch's weights."""
    program = """if True:
        import sys
        import jobs.answer, jobs.estimate, jobs.flow, jobs.routing
        from actors.scorer import Scorer
        from jobs.resolve import resolve
        from pipeline.config import JobConfig, ScoreConfig
        from pipeline.queries import one_query
        queries = [one_query("a dog")]
        found = resolve(JobConfig(), queries)
        print({"torch", "transformers"} & sys.modules.keys())
        Scorer(found.scorer.make, ScoreConfig(), queries, "cpu")
        print({"torch", "transformers"} & sys.modules.keys())
    """
    command, environment = [sys.executable, "-c", program], {**os.environ, "TMPDIR": str(tmp_path)}
    for scorer_needs in ("{'torch'}", "set()"):
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.stdout == f"set()\n{scorer_needs}\n", done.stderr
