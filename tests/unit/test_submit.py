"""What is sent along with a job, and what is refused before a cluster is asked."""

from pathlib import Path

import pytest

from jobs import submit
from pipeline.errors import ConfigError


def test_the_package_and_small_files_travel(tmp_path: Path) -> None:
    questions = tmp_path / "q.jsonl"
    questions.write_text('{"query_id": "a"}\n')
    videos = tmp_path / "videos"
    videos.mkdir()
    folder = tmp_path / "sent"
    sent = submit.pack(["answer", str(videos), str(questions), "s3://bucket/out"], folder)
    assert sent == ["answer", str(videos), "given/2/q.jsonl", "s3://bucket/out"]
    assert (folder / sent[2]).read_text() == questions.read_text()
    for package in ("actors", "jobs", "pipeline"):
        assert (folder / package / "__init__.py").is_file()
    assert not list(folder.rglob("__pycache__"))


def test_a_command_named_like_a_file_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("show").mkdir()
    assert submit.pack(["show", "s3://bucket/out", "SELECT 1"], tmp_path / "sent")[0] == "show"


def test_a_large_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submit, "MAX_SENT_BYTES", 10)
    questions = tmp_path / "q.csv"
    questions.write_text("x" * 11)
    with pytest.raises(ConfigError, match=r"q\.csv: 0 MiB, more than the 0 MiB that are sent"):
        submit.pack(["answer", str(questions)], tmp_path / "sent")


@pytest.mark.parametrize(
    ("command", "found"),
    [([], "found nothing"), (["anwser"], "found 'anwser'"), (["submit"], "found 'submit'")],
)
def test_only_commands_are_submitted(command: list[str], found: str) -> None:
    with pytest.raises(ConfigError, match=found):
        submit.check_command(command)


def test_a_variable_that_is_not_set_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE", "1")
    monkeypatch.delenv("NOT_HERE", raising=False)
    assert submit.read_variables(["HERE"]) == {"HERE": "1"}
    with pytest.raises(ConfigError, match="--env NOT_HERE: not set"):
        submit.read_variables(["HERE", "NOT_HERE"])
