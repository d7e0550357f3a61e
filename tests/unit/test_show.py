"""`reelsift show` on real Parquet files: what it prints, and what it refuses."""

import csv
import io
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from jobs import show
from jobs.__main__ import run_command
from pipeline import cost, rows, sql, store
from pipeline.errors import ConfigError
from pipeline.prices import load_prices

ROOT = Path(__file__).parents[2]


def answer(query_id: str, kind: str, uri: str, **values: Any) -> rows.Row:
    given = {
        "window_id": f"{uri}@0",
        "query": f"text of {query_id}",
        "start_s": 0.0,
        "end_s": 60.0,
        "uri": uri,
    }
    return rows.fill({**given, "query_id": query_id, "kind": kind, **values}, rows.ANSWERS)


def span(start_s: float, score: float) -> dict[str, float]:
    return {"start_s": start_s, "end_s": start_s + 2, "score": score}


ANSWERS = [
    answer("dog", "find", "a.mp4", spans=[span(4, 0.9), span(8, 0.6)], tokens_dense=1000, tokens_used=100),
    answer("dog", "find", "b.mp4", spans=[span(1, 0.95)], tokens_dense=1000, tokens_used=150),
    answer("fire", "flag", "a.mp4", answer="no", spans=[span(0, 0.99)]),
    answer(
        "light",
        "choose",
        "a.mp4",
        answer="red",
        confidence=0.7,
        tokens_used=50,
        vision_frames=4,
        prefills=1,
        prefill_tokens=1200,
        decode_steps=3,
        decode_passes=2,
        oom_halvings=0,
        router_tokens=0,
    ),
    answer("light", "choose", "b.mp4", error_type="AnswerError", error_message="no model"),
]


@pytest.fixture
def out(tmp_path: Path) -> str:
    folder = str(tmp_path / "out [1]*")
    videos = [
        rows.fill({"uri": "a.mp4", "status": "ok", "duration_s": 1800.0, "fps": float("nan")}, rows.VIDEOS),
        rows.fill(
            {
                "uri": "c.mp4",
                "status": "unreadable",
                "error_type": "ProbeError",
                "error_message": "cut short",
            },
            rows.VIDEOS,
        ),
    ]
    store.write_table(store.join(folder, "videos", "p1.parquet"), rows.to_table(videos, rows.VIDEOS))
    for number, part in enumerate((ANSWERS[:2], ANSWERS[2:])):
        store.write_table(
            store.join(folder, "answers", f"p{number}.parquet"), rows.to_table(part, rows.ANSWERS)
        )
    store.write_bytes(store.join(folder, "answers", "half.parquet.1.tmp"), b"not yet")
    return folder


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = run_command(show.main, list(argv))
    return code, *capsys.readouterr()


def test_the_summary_counts_and_ranks(out: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, text, _ = run(capsys, out, "--format", "json")
    summary = json.loads(text)
    assert code == 0
    hits = [
        (hit["query_id"], hit["uri"], hit["start_s"], round(hit["score"], 3)) for hit in summary.pop("hits")
    ]
    assert hits == [
        ("dog", "b.mp4", 1, 0.95),
        ("dog", "a.mp4", 4, 0.9),
        ("dog", "a.mp4", 8, 0.6),
        ("light", "a.mp4", 0, 0.7),
    ]
    assert summary == {
        "videos": {"ok": 1, "unreadable": 1},
        "duration_s": 1800.0,
        "windows": 2,
        "answers": {"good": 4, "failed": 1},
        "failures": [
            {"error_type": "AnswerError", "count": 1, "example": "no model"},
            {"error_type": "ProbeError", "count": 1, "example": "cut short"},
        ],
        "tokens_dense": 2000,
        "tokens_used": 300,
        "saved_percent": 85.0,
        "model_work": {
            "model_answers": 3,
            "vision_frames": 4,
            "prefills": 1,
            "prefill_tokens": 1200,
            "decode_steps": 3,
            "decode_passes": 2,
            "oom_halvings": 0,
            "router_tokens": 0,
        },
        "cost": None,
    }


def test_the_summary_says_what_the_runs_that_ended_cost(out: str, capsys: pytest.CaptureFixture[str]) -> None:
    counters = {"decode_cpu_s": 3600.0, "video_s": 7200.0}
    prices = load_prices()
    one = cost.bill(counters, prices, gpus={}, held=None, num_queries=2, in_bucket=False)
    for name in ("1", "2"):
        store.write_bytes(store.join(out, "_run", name, "cost.json"), json.dumps(one).encode())
    store.write_bytes(store.join(out, "_run", "3", "config.json"), b"{}")  # cut short
    total, each = cost.of_work(prices, 7200.0, 0.0), cost.of_work(prices, 1800.0, 0.0)
    shown = json.loads(run(capsys, out, "--format", "json")[1])["cost"]
    assert shown["runs"] == 2
    assert shown["total"] == {"low": pytest.approx(total.low), "high": pytest.approx(total.high)}
    expected = f"  cost     {cost.told(asdict(total))} of work, {cost.told(asdict(each))} per video hour"
    assert f"{expected} (spot to on demand; runs that ended: 2)" in run(capsys, out)[1].splitlines()


def test_the_summary_as_a_page(out: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, text, _ = run(capsys, out, "--limit", "1")
    assert code == 0
    for line in (
        "  videos   2 (ok 1, unreadable 1), 0.50 h",
        "  answers  4 good, 1 failed",
        "  failed   1 x AnswerError, for example: no model",
        "  tokens   2,000 dense -> 300 used (85.0 % saved)",
        "  model    4 frames seen by the vision tower, 1 prompts of 1,200 tokens prefilled for 3 answers,"
        " 3 decode steps of theirs in 2 passes",
        "dog (find): text of dog",
        "  0.950           1.0-3.0 s  b.mp4",
        "  0.700          0.0-60.0 s  a.mp4  red",
    ):
        assert line in text.splitlines()
    assert "fire" not in text
    assert "  cost  " not in text


def test_answers_of_an_older_version_without_counters_have_a_summary(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = rows.to_table(ANSWERS, rows.ANSWERS).drop_columns(list(rows.COST))
    store.write_table(store.join(str(tmp_path), "answers", "p.parquet"), old)
    code, text, _ = run(capsys, str(tmp_path))
    assert code == 0
    assert "  answers  4 good, 1 failed" in text.splitlines()
    assert "vision tower" not in text


def test_a_changed_video_counts_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path)
    runs = [
        ("20260101T000000-b", [("1", "old"), ("2", "same"), ("3", "zz")]),
        ("20260102T000000-a", [("1", "new")]),
        ("20260103T000000-c", [("3", "aa")]),
    ]
    for run_id, versions in runs:
        for table, schema in rows.TABLES.items():
            part = [
                rows.fill({"run_id": run_id, "video_id": video, "version": version, "uri": video}, schema)
                for video, version in versions
            ]
            store.write_table(store.join(out, table, f"{run_id}-p.parquet"), rows.to_table(part, schema))
    with sql.open_views(out) as connection:
        for table in rows.TABLES:
            now = sql.select(connection, f"SELECT video_id, version FROM {table} ORDER BY ALL")[1]
            assert list(now) == [("1", "new"), ("2", "same"), ("3", "aa")], table
            ever = sql.select(connection, f"SELECT version FROM all_{table} ORDER BY ALL")[1]
            assert [version for (version,) in ever] == ["aa", "new", "old", "same", "zz"], table
    summary = json.loads(run(capsys, out, "--format", "json")[1])
    assert sum(summary["videos"].values()) == summary["answers"]["good"] == 3


def test_sql_in_three_formats(out: str, capsys: pytest.CaptureFixture[str]) -> None:
    question = "SELECT uri, spans, 'a\nb' AS two FROM answers WHERE query_id = 'dog' ORDER BY uri"
    code, text, _ = run(capsys, out, question, "--format", "json")
    found = json.loads(text)
    assert code == 0
    assert text.count("\n") == 1
    assert [row["uri"] for row in found] == ["a.mp4", "b.mp4"]
    assert found[1]["spans"][0]["end_s"] == 3.0
    _, text, _ = run(capsys, out, question, "--format", "csv", "--limit", "1")
    (row,) = csv.DictReader(io.StringIO(text, newline=""))
    assert row["two"] == "a\nb"
    assert json.loads(row["spans"])[1]["start_s"] == 8.0
    _, text, err = run(capsys, out, question, "--limit", "1")
    assert [line.split()[0] for line in text.splitlines()] == ["uri", "-----", "a.mp4"]
    assert "only the first 1 rows" in err


def test_a_file_name_with_line_breaks_stays_on_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, uri = str(tmp_path / "out"), "a\nb\x1b[31m\u2028c  d.mp4"
    found = [
        answer("dog", "find", uri, spans=[span(4, 0.9)]),
        answer("cat", "find", uri, error_type="X", error_message=uri),
    ]
    store.write_table(store.join(folder, "answers", "p.parquet"), rows.to_table(found, rows.ANSWERS))
    shown = r"a\nb\x1b[31m\u2028c  d.mp4"
    code, text, _ = run(capsys, folder, "SELECT uri FROM answers LIMIT 1")
    assert (code, text) == (0, f"uri\n{'-' * len(shown)}\n{shown}\n")
    code, text, _ = run(capsys, folder)
    assert code == 0
    assert f"  0.900           4.0-6.0 s  {shown}" in text.splitlines()
    assert f"  failed   1 x X, for example: {shown}" in text.splitlines()
    _, text, _ = run(capsys, folder, "SELECT uri FROM answers LIMIT 1", "--format", "json")
    assert json.loads(text) == [{"uri": uri}]


def test_numbers_that_json_does_not_know_become_null(out: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, text, _ = run(
        capsys,
        out,
        "SELECT fps, DATE '2026-01-02' d, 1.5::DECIMAL x FROM videos ORDER BY uri",
        "--format",
        "json",
    )
    assert json.loads(text)[0] == {"fps": None, "d": "2026-01-02", "x": "1.500"}


@pytest.mark.parametrize(
    "statement", ["DESCRIBE answers", "SHOW TABLES", "SUMMARIZE videos", "WITH a AS (SELECT 1) FROM a"]
)
def test_reading_statements_run(out: str, capsys: pytest.CaptureFixture[str], statement: str) -> None:
    assert run(capsys, out, statement)[0] == 0


@pytest.mark.parametrize(
    ("statement", "why"),
    [
        ("COPY videos TO '/tmp/stolen.csv'", "found COPY"),
        ("SELECT 1; DROP VIEW videos", "found SELECT, DROP"),
        ("CREATE TABLE t AS SELECT 1", "found CREATE"),
        ("SET enable_external_access = true", "found SET"),
        ("ATTACH '/tmp/x.db'", "found ATTACH"),
        ("EXPLAIN ANALYZE SELECT 1", "found EXPLAIN"),
        ("-- only a comment", "found nothing"),
        ("", "found nothing"),
        ("SELEC 1", 'syntax error at or near "SELEC"'),
        ("SELECT nope FROM answers", '"nope" not found'),
        ("SELECT * FROM read_csv('/etc/passwd')", "Permission Error"),
        ("SELECT * FROM '{out}/../other.parquet'", "Permission Error"),
        ("SELECT * FROM '{out}/answers/../../other.parquet'", "Permission Error"),
        ("SELECT * FROM table", "syntax error"),
        ("SELECT error('x')", "x"),
        ("SELECT uri::INT FROM answers", "a.mp4"),
    ],
)
def test_everything_else_is_refused(
    out: str, capsys: pytest.CaptureFixture[str], statement: str, why: str
) -> None:
    store.write_table(store.join(out, "..", "other.parquet"), pa.table({"secret": [1]}))
    code, text, err = run(capsys, out, statement.replace("{out}", out))
    assert (code, text) == (2, "")
    assert err.startswith("reelsift: ")
    assert why in err


def test_variables_of_the_program_are_not_tables(out: str) -> None:
    secret = pa.table({"n": [1]})
    with sql.open_views(out) as connection, pytest.raises(ConfigError, match="secret does not exist"):
        sql.select(connection, "SELECT * FROM secret")
    assert secret


@pytest.mark.parametrize("order", [1, -1])
def test_runs_of_several_versions_are_one_table(tmp_path: Path, order: int) -> None:
    """A younger column is NULL in older rows, whichever run comes first; one that is gone stands behind the others."""
    now = rows.to_table([answer("new", "ask", "a.mp4", judged=[])], rows.ANSWERS)
    past = rows.to_table([answer("old", "ask", "a.mp4", confidence=0.5)], rows.ANSWERS)
    old = past.drop_columns(["judged"]).append_column("gone", pa.array([7]))
    runs = ["20260101T000000-aaaaaa", "20260102T000000-bbbbbb"][::order]
    for run_id, table in zip(runs, (old, now), strict=True):
        for part in ("1", "2"):
            store.write_table(store.join(str(tmp_path), "answers", f"{run_id}-answers-{part}.parquet"), table)
    with sql.open_views(str(tmp_path)) as connection:
        names, _ = sql.select(connection, "SELECT * FROM all_answers")
        assert names == [*rows.ANSWERS.names, "gone"]
        columns = "query_id, confidence, judged, gone"
        _, found = sql.select(connection, f"SELECT DISTINCT {columns} FROM all_answers ORDER BY ALL")
        assert list(found) == [("new", 0.0, [], None), ("old", 0.5, None, 7)]
        _, found = sql.select(connection, "SELECT count(*) FROM all_answers")
        assert list(found) == [(4,)]


def test_a_table_of_older_runs_alone_has_todays_columns(tmp_path: Path) -> None:
    old = rows.to_table(ANSWERS, rows.ANSWERS).drop_columns(["judged"])
    store.write_table(store.join(str(tmp_path), "answers", "r-a-1.parquet"), old)
    with sql.open_views(str(tmp_path)) as connection:
        _, found = sql.select(connection, "SELECT judged FROM all_answers WHERE judged IS NOT NULL")
        assert list(found) == []


def test_tables_without_files_are_empty_and_typed(out: str) -> None:
    with sql.open_views(out) as connection:
        for table, schema in rows.TABLES.items():
            names, found = sql.select(connection, f"SELECT * FROM {table}")
            assert names == schema.names
            assert sql.select(connection, f"SELECT * FROM all_{table}")[0] == schema.names
            assert bool(list(found)) == (table in ("videos", "answers"))
        _, found = sql.select(connection, "SELECT column_name, column_type FROM (DESCRIBE verdicts)")
        types = dict(found)
    assert types["spans"] == "STRUCT(start_s DOUBLE, end_s DOUBLE, score FLOAT)[]"


def test_a_new_output_folder_has_a_summary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store.write_bytes(str(tmp_path / "_run" / "r1" / "config.json"), b"{}")
    code, text, _ = run(capsys, str(tmp_path))
    assert code == 0
    assert "  videos   0 (none), 0.00 h" in text.splitlines()


def test_other_folders_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, str(tmp_path / "no"))[::2] == (2, f"reelsift: {tmp_path}/no: no such folder\n")
    code, _, err = run(capsys, str(tmp_path))
    assert code == 2
    assert "is not an output folder" in err
    store.write_bytes(str(tmp_path / "_run" / "x"), b"")
    assert "--format csv needs a query" in run(capsys, str(tmp_path), "--format", "csv")[2]


def test_a_wrong_option_is_a_usage_error(out: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        show.main([out, "SELECT 1", "--limit", "0"])


def test_it_loads_no_heavy_library(out: str) -> None:
    program = "import sys; from jobs import show; show.main(sys.argv[1:])\n"
    program += "print(sorted({'torch', 'ray', 'pandas', 'av'} & {*sys.modules}))"
    done = subprocess.run(
        [sys.executable, "-c", program, out], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
