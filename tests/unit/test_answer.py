"""The answer command: what it refuses before Ray starts, and how it reads Ray's traces."""

import subprocess
import sys
from pathlib import Path

import pytest

from actors.models import video_llm
from jobs import answer, cluster, status
from jobs.costs import CostOptions
from pipeline import ledger, rows, store
from pipeline.config import AnswerConfig, JobConfig, PlanConfig
from pipeline.errors import ClusterError, ConfigError
from pipeline.listing import list_videos
from pipeline.queries import Query, one_query
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
    assert '"score": "none: scored in the tasks that decode"' in told
    assert '"answer": "1 to 1 actors' not in told


@pytest.mark.parametrize("dry_run", [False, True])
def test_results_do_not_go_where_the_videos_lie(tmp_path, dry_run):
    out = str(tmp_path / "out")
    with pytest.raises(ConfigError, match=r"out is inside .*, where the videos lie"):
        answer._run(str(tmp_path), out, [one_query("a dog")], JobConfig(), CostOptions(), dry_run=dry_run)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def archive(tmp_path):
    """Three files, and an output folder in which all are answered; no cluster can be joined."""
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        (tmp_path / name).write_bytes(b"no video")
    out = str(tmp_path / "out")
    listed = list(list_videos(str(tmp_path)))
    for table, kept in (("videos", {}), ("verdicts", {"query_id": "q"})):
        found = [rows.fill({**row, "run_id": "1-old", **kept}, rows.TABLES[table]) for row in listed]
        store.write_table(store.join(out, table, "1-old-a.parquet"), rows.to_table(found, rows.TABLES[table]))
    store.write_bytes(store.join(out, "_run", "1-old", "stats.json"), b"{}")
    return tmp_path, out


@pytest.fixture
def unreachable(monkeypatch):
    def connected():
        raise ClusterError("nobody listens")

    monkeypatch.setattr(cluster, "connected", connected)


def run(videos, out, **options):
    return answer._run(
        f"{videos}/*.mp4",
        out,
        [Query("q", "a dog", "find")],
        JobConfig(),
        CostOptions(),
        dry_run=False,
        **options,
    )


def written(out):
    """What an output folder holds, but for who held it last."""
    return sorted(str(path) for path in Path(out).rglob("*") if "lease" not in str(path))


@pytest.mark.usefixtures("unreachable")
def test_a_finished_job_needs_no_cluster(archive, capsys):
    before = written(archive[1])
    for retry_failed in (False, True):
        assert run(*archive, retry_failed=retry_failed) == 0
        assert "nothing to do" in capsys.readouterr().err
    assert written(archive[1]) == before


@pytest.mark.usefixtures("unreachable")
def test_a_job_without_a_cluster_writes_nothing_and_lists_no_more_than_one_new_file(archive, monkeypatch):
    videos, out = archive
    num_listed = []

    def counting(uri):
        for row in list_videos(uri):
            num_listed.append(row)
            yield row

    monkeypatch.setattr("jobs.archive.list_videos", counting)
    with pytest.raises(ClusterError, match="nobody listens"):
        run(videos, str(videos / "new"))
    assert len(num_listed) == 1
    assert not (videos / "new").exists()
    (videos / "d.mp4").write_bytes(b"no video")
    before = written(out)
    with pytest.raises(ClusterError, match="nobody listens"):
        run(videos, out)
    assert written(out) == before
    assert status.find_run(out).run_id == "1-old"


@pytest.mark.usefixtures("unreachable")
def test_what_is_open_or_failed_needs_a_cluster(archive):
    """A verdict failed; where it may not be judged it stays."""
    videos, out = archive
    [uri] = ledger.part_files(out, "verdicts")
    verdicts = ledger.read_slice(uri, 0, 3)
    verdicts[1] |= {"error_type": "AnswerError", "error_message": "no"}
    store.write_table(uri, rows.to_table(verdicts, rows.VERDICTS))
    assert run(videos, out) == 0
    before = Path(uri).read_bytes()
    with pytest.raises(ClusterError, match="nobody listens"):
        run(videos, out, retry_failed=True)
    assert Path(uri).read_bytes() == before
    store.write_table(uri, rows.to_table(verdicts[:2], rows.VERDICTS))
    with pytest.raises(ClusterError, match="nobody listens"):
        run(videos, out)


@pytest.mark.parametrize(("query", "paths"), [((), ("v", "o")), (("a dog",), ("v", "q", "o")), ((), ())])
def test_the_number_of_paths(query, paths):
    with pytest.raises(ConfigError, match="expected VIDEOS"):
        answer._inputs(answer.Arguments(paths=paths, query=query))


def test_the_same_question_twice_is_one_query():
    _, _, queries = answer._inputs(answer.Arguments(paths=("v", "o"), query=("a dog", "a dog", "a cat")))
    assert [query.text for query in queries] == ["a dog", "a cat"]
