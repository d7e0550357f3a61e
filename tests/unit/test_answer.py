"""The answer command: what it refuses before Ray starts, and how it reads Ray's traces."""

import subprocess
import sys
from pathlib import Path

import pytest

from actors.models import video_llm
from jobs import answer
from jobs.costs import CostOptions
from pipeline import windows
from pipeline.config import AnswerConfig, JobConfig, PlanConfig
from pipeline.errors import ConfigError, JobError
from pipeline.ledger import Run
from pipeline.queries import one_query
from tests import tiny_models

ROOT = Path(__file__).parents[2]


def test_nothing_heavy_is_loaded_before_the_arguments_are_read():
    """`--help` must answer at once, so torch, ray and transformers may not stand at the top of the module."""
    heavy = "{'torch', 'ray', 'transformers', 'pyarrow', 'onnxruntime', 'duckdb', 'av'}"
    code = f"import sys, jobs.answer, jobs.__main__; sys.exit(str({heavy} & sys.modules.keys() or ''))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr.strip() == ""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """16 visual tokens a frame."""
    return str(tiny_models.build("smolvlm", tmp_path_factory.mktemp("model")))


def test_a_dry_run_says_who_decides_routes_and_loads_no_model(model, tmp_path, capsys, monkeypatch):
    videos, out = tmp_path / "videos", str(tmp_path / "out")
    videos.mkdir()
    (videos / "a.mp4").write_bytes(b"no video")
    monkeypatch.setattr(video_llm, "load_model", None)
    job = JobConfig(answer=AnswerConfig(model=model), plan=PlanConfig(router="llm"))
    assert answer._run(str(videos), out, [one_query("a dog")], job, CostOptions(), dry_run=True) == 0
    told = capsys.readouterr().err
    assert f"route decided by {model} when the run starts: router llm" in told
    assert '"answer": "1 to 1 actors' in told
    assert answer._run(str(videos), out, [one_query("a dog")], JobConfig(), CostOptions(), dry_run=True) == 0
    told = capsys.readouterr().err
    assert "(find, fragment)" in told
    assert '"score": "1 to 1 actors' in told
    assert '"answer": "1 to 1 actors' not in told


@pytest.mark.parametrize("dry_run", [False, True])
def test_results_do_not_go_where_the_videos_lie(tmp_path, dry_run):
    out = str(tmp_path / "out")
    with pytest.raises(ConfigError, match=r"out is inside .*, where the videos lie"):
        answer._run(str(tmp_path), out, [one_query("a dog")], JobConfig(), CostOptions(), dry_run=dry_run)
    assert not list(tmp_path.iterdir())


def test_videos_that_share_a_key_end_a_run_before_any_is_read(tmp_path, monkeypatch):
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_bytes(b"no video")
    run = Run(str(tmp_path / "out"), "r")
    files, keys = answer.list_archive(str(tmp_path), run)
    assert (len(files), len(keys)) == (1, 2)
    monkeypatch.setattr(windows, "key", lambda *_: 1)
    with pytest.raises(JobError, match=r"1 of the 2 videos at .* have the key of another one"):
        answer.list_archive(str(tmp_path), run)


@pytest.mark.parametrize(("query", "paths"), [((), ("v", "o")), (("a dog",), ("v", "q", "o")), ((), ())])
def test_the_number_of_paths(query, paths):
    with pytest.raises(ConfigError, match="expected VIDEOS"):
        answer._inputs(answer.Arguments(paths=paths, query=query))


def test_the_same_question_twice_is_one_query():
    _, _, queries = answer._inputs(answer.Arguments(paths=("v", "o"), query=("a dog", "a dog", "a cat")))
    assert [query.text for query in queries] == ["a dog", "a cat"]
