"""What is sent along with a job, and what is refused before a cluster is asked."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jobs import submit, working_dir
from jobs.answer import read_arguments
from pipeline.errors import ConfigError


def test_the_package_and_the_questions_travel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("videos", "world", "model"):
        Path(folder).mkdir()
    Path("q.jsonl").write_text('{"query_id": "a"}\n')
    sent = working_dir.pack(
        ["answer", "videos", "q.jsonl", "out", "--recipe", "world", "--answer.model=model"], tmp_path / "sent"
    )
    # OUT need not be there yet, a recipe is no folder, and of an option given twice the last counts
    assert sent == [
        "answer", str(tmp_path / "videos"), "questions/q.jsonl", str(tmp_path / "out"), "--recipe", "world",
        "--answer.model=model", "--answer.model", str(tmp_path / "model"),
    ]  # fmt: skip
    assert (tmp_path / "sent" / sent[2]).read_text() == Path("q.jsonl").read_text()
    assert read_arguments(sent[1:]).job.answer.model == str(tmp_path / "model")
    for package in ("actors", "jobs", "pipeline"):
        assert (tmp_path / "sent" / package / "__init__.py").is_file()
    assert not list((tmp_path / "sent").rglob("__pycache__"))


def test_prices_and_rates_go_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("p.yaml").write_text("as_of: today")
    places = ["--query", "a dog", "s3://bucket/in", "s3://bucket/out"]
    sent = working_dir.pack(
        ["answer", *places, "--prices", "p.yaml", "--rates-from", "old"], tmp_path / "sent"
    )
    args = read_arguments(sent[1:])
    assert (tmp_path / "sent" / args.prices).read_text() == "as_of: today"
    assert args.rates_from == str(tmp_path / "old")
    with pytest.raises(ConfigError, match="no such file of prices"):
        working_dir.pack(["answer", *places, "--prices", "none.yaml"], tmp_path / "other")


def test_places_behind_a_scheme_stay(tmp_path: Path) -> None:
    command = ["answer", "--query", "a dog", "s3://bucket/in", "s3://bucket/out"]
    assert working_dir.pack(command, tmp_path / "sent") == command
    assert working_dir.pack(["show", "out"], tmp_path / "other") == ["show", "out"]


def test_manifests_stay_where_their_videos_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("videos.csv").write_text("uri\ncam/a.mp4\n")
    sent = working_dir.pack(
        ["answer", "videos.csv", "s3://bucket/q.jsonl", "s3://bucket/out"], tmp_path / "sent"
    )
    assert sent[1] == str(tmp_path / "videos.csv")


@pytest.mark.parametrize(
    ("paths", "says"),
    [
        (["q.csv", "out"], "expected VIDEOS QUERIES OUT, found 2 paths"),
        (["in", "q.csv", "out"], r"q\.csv: 0 MiB, more than the 0 MiB that are sent"),
        (["in", "none.csv", "out"], r"none\.csv: no such file of questions"),
    ],
)
def test_what_cannot_be_sent_is_refused(
    paths: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(working_dir, "MAX_SENT_BYTES", 10)
    Path("q.csv").write_text("x" * 11)
    with pytest.raises(ConfigError, match=says):
        working_dir.pack(["answer", *paths], tmp_path / "sent")


SHOW = ["show", "s3://bucket/out"]


def test_modules_of_ones_own_are_imported_beside_the_package(tmp_path: Path) -> None:
    one, sent = tmp_path / "one.py", tmp_path / "sent"
    one.write_text("from pipeline import errors\nfrom two.part import NAME\n")
    (tmp_path / "two" / "__pycache__").mkdir(parents=True)
    (tmp_path / "two" / ".hidden").mkdir()
    (tmp_path / "two" / "part.py").write_text("NAME = 'part'\n")
    assert working_dir.pack(SHOW, sent, [str(one), f"{tmp_path}/two/"]) == SHOW
    assert [path.name for path in (sent / "two").iterdir()] == ["part.py"]
    asked = "import one; print(one.NAME, one.errors.__file__)"
    found = subprocess.run([sys.executable, "-c", asked], cwd=sent, env={}, capture_output=True, text=True)
    assert found.stdout.split() == ["part", str(sent / "pipeline" / "errors.py")], found.stderr


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (
            ["none.py"],
            r"--ship /.*/none\.py: found nothing; expected a \.py file, or the folder of a package",
        ),
        (["notes.txt"], r"notes\.txt: found another file; expected"),
        (["empty"], r"empty: found a folder without \.py files"),
        (["my-module.py"], "'my-module' is no name that Python can import"),
        (["mine.v2"], "'mine.v2' is no name that Python can import"),
        (["hollow"], "hollow: cannot be copied: .*link"),
        (["large"], r"large: \d+ MiB with all else, more than the 64 MiB"),
        (
            ["jobs.py"],
            "would take the place of 'jobs', .*the package itself has actors, jobs, pipeline, questions",
        ),
        (["questions"], "would take the place of 'questions'"),
        (["mine.py", "mine"], "would take the place of 'mine', which is sent already"),
    ],
)
def test_modules_that_cannot_be_sent_are_refused(
    names: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for file in (
        "notes.txt",
        "my-module.py",
        "jobs.py",
        "questions/a.py",
        "mine.py",
        "mine/a.py",
        "empty/a.txt",
        "mine.v2/a.py",
        "hollow/a.py",
        "large/a.py",
    ):
        Path(file).parent.mkdir(exist_ok=True)
        Path(file).touch()
    Path("hollow/link.py").symlink_to("gone")
    os.truncate("large/a.py", 65 << 20)
    with pytest.raises(ConfigError, match=says):
        submit.main([*(word for name in names for word in ("--ship", name)), "--", *SHOW])
