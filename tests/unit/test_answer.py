"""The answer command: what it refuses before Ray starts, and how it reads Ray's traces."""

import subprocess
import sys
from pathlib import Path

import pytest

from actors.models import video_llm
from jobs import answer
from pipeline.config import AnswerConfig, CompressConfig, DecodeConfig, JobConfig, PlanConfig, ScoreConfig
from pipeline.errors import ConfigError, ModelError
from pipeline.queries import Query, one_query
from tests import tiny_models, tiny_models_any

ROOT = Path(__file__).parents[2]


def test_nothing_heavy_is_loaded_before_the_arguments_are_read():
    """`--help` must answer at once, so torch, ray and transformers may not stand at the top of the module."""
    heavy = "{'torch', 'ray', 'transformers', 'pyarrow', 'onnxruntime', 'duckdb', 'av'}"
    code = f"import sys, jobs.answer, jobs.__main__; sys.exit(str({heavy} & sys.modules.keys() or ''))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr.strip() == ""


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
        answer._resolve(config, [one_query("a dog")])


def test_what_needs_visual_tokens_is_refused_for_models_that_hide_them(tmp_path):
    answering = AnswerConfig(model=str(tiny_models_any.build("gemma3", tmp_path)))
    queries = [Query("q", "a dog", "flag")]
    answer._resolve(JobConfig(answer=answering), queries)
    for compressor in ("dtd", "dycoke"):
        config = JobConfig(answer=answering, compress=CompressConfig(compressor=compressor))
        with pytest.raises(ConfigError, match=r"shown whole. Compressors that fit: none, uniform"):
            answer._resolve(config, queries)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """16 visual tokens a frame."""
    return str(tiny_models.build("smolvlm", tmp_path_factory.mktemp("model")))


def test_budgets_are_held_against_the_smallest_frame_of_the_plan(model):
    answering = AnswerConfig(model=model, frame_px=64)
    least = {"find": [Query("q", "a dog", "find", budget_tokens=1)], "enough": [Query("q", "a dog", "flag")]}
    for queries in least.values():
        answer._resolve(JobConfig(answer=answering, plan=PlanConfig(budget_tokens=4)), queries)
    finding = JobConfig(answer=AnswerConfig(model=model, frame_px=64, confirm_find=True))
    with pytest.raises(ConfigError, match=r"query 'q': its budget_tokens 1 .*at least 4 visual tokens"):
        answer._resolve(finding, least["find"])
    with pytest.raises(ConfigError, match=r"query 'q': --plan\.budget-tokens 3 .*at least 4 visual tokens"):
        answer._resolve(JobConfig(answer=answering, plan=PlanConfig(budget_tokens=3)), least["enough"])
    plan = PlanConfig(budget_tokens=3, scale_background=8)
    answer._resolve(JobConfig(answer=answering, plan=plan), least["enough"])
    answer._resolve(
        JobConfig(plan=PlanConfig(budget_tokens=1)), [Query("q", "a dog", "flag", budget_tokens=1)]
    )


def test_a_dry_run_says_who_decides_routes_and_loads_no_model(model, tmp_path, capsys, monkeypatch):
    (tmp_path / "a.mp4").write_bytes(b"no video")
    monkeypatch.setattr(video_llm, "load_model", None)
    job = JobConfig(answer=AnswerConfig(model=model), plan=PlanConfig(router="llm"))
    assert answer._run(str(tmp_path), str(tmp_path / "out"), [one_query("a dog")], job, dry_run=True) == 0
    told = capsys.readouterr().err
    assert f"route decided by {model} when the run starts: router llm" in told
    assert (
        answer._run(str(tmp_path), str(tmp_path / "out"), [one_query("a dog")], JobConfig(), dry_run=True)
        == 0
    )
    assert "(find, fragment)" in capsys.readouterr().err


def test_what_routes_is_written_down_only_where_it_is_a_model(model):
    answering = AnswerConfig(model=model)
    asked = answer._resolve(JobConfig(answer=answering, plan=PlanConfig(router="llm")), [one_query("a dog")])
    assert (asked.routes, asked.models["router"]) == ({}, "llm")
    ruled = answer._resolve(JobConfig(answer=answering), [one_query("a dog")])
    assert [route.route for route in ruled.routes.values()] == ["fragment"]
    assert "router" not in ruled.models


def test_a_plan_that_the_compressor_cannot_follow():
    with pytest.raises(ConfigError, match=r"--plan\.scale-global 1"):
        JobConfig(compress=CompressConfig(compressor="none"))
    JobConfig(compress=CompressConfig(compressor="none"), plan=PlanConfig(scale_global=1, scale_background=1))


@pytest.mark.parametrize(("query", "paths"), [((), ("v", "o")), (("a dog",), ("v", "q", "o")), ((), ())])
def test_the_number_of_paths(query, paths):
    with pytest.raises(ConfigError, match="expected VIDEOS"):
        answer._inputs(answer.Arguments(paths=paths, query=query))


def test_the_same_question_twice_is_one_query():
    _, _, queries = answer._inputs(answer.Arguments(paths=("v", "o"), query=("a dog", "a dog", "a cat")))
    assert [query.text for query in queries] == ["a dog", "a cat"]
