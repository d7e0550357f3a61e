"""A job over videos that break their decoder: each is one failed answer per question, tried a known number of times."""

import os
from collections import Counter
from pathlib import Path

import pytest

from tests import videos
from tests.integration.results import comparable, read

REASONS = {
    "segfault": "it ended with SIGSEGV",
    "sleep": "it was ended after 2 s",
    "fill_memory": "it needs more than 300 MB",
    "fork": "unexpected PermissionError while reading",
}
"""Kind of file, and what its failed rows say. What is refused is an error at once; all others are tried twice."""
TRIED_TWICE = {"segfault", "sleep", "fill_memory"}
GOOD = ("good", "good_too")
QUERIES = [
    {"query_id": "dog", "kind": "find", "text": "a dog"},
    {"query_id": "car", "kind": "flag", "text": "a car"},
]
SETTINGS = (
    "--decode.decoder", "tests.hostile_decoders:by_name",
    "--decode.timeout-s", "2", "--decode.memory-mb", "300",
    "--window.length-s", "10",
)  # fmt: skip


@pytest.fixture
def archive(tmp_path) -> Path:
    folder = tmp_path / "videos"
    folder.mkdir()
    for kind in (*REASONS, *GOOD):
        videos.write_video(folder / f"{kind}.mp4", numbers=range(60), options=videos.X264)
    return folder


def breaks_in_logs() -> Counter[str]:
    """How often a child broke, by kind of file: the workers' logs of this folder's Ray."""
    found: Counter[str] = Counter()
    for log in Path(f"/tmp/rs{os.getpid()}/session_latest/logs").glob("worker-*.err"):
        for line in log.read_text(errors="replace").splitlines():
            if ": its decoder broke: " in line:
                found[Path(line.partition(".mp4:")[0]).name] += 1
    return found


def test_files_that_break_their_decoder(reelsift, archive, ask, tmp_path):
    out = tmp_path / "out"
    done = reelsift("answer", archive, ask(*QUERIES), out, *SETTINGS)
    assert done.code == 0, done.err
    assert (done.json["videos"], done.json["answers"]) == (6, 6 * len(QUERIES)), done.json

    answers: dict[str, list[dict]] = {}
    for row in read(out, "answers"):
        answers.setdefault(Path(row["uri"]).stem, []).append(row)
    assert {kind: len(own) for kind, own in answers.items()} == dict.fromkeys((*REASONS, *GOOD), len(QUERIES))
    for kind, words in REASONS.items():
        for row in answers[kind]:
            assert (row["error_type"], row["frames_seen"]) == ("DecodeError", 0), kind
            assert words in row["error_message"]
            assert str(archive / f"{kind}.mp4") in row["error_message"]
    for kind in GOOD:
        assert all(row["error_type"] == "" and row["frames_seen"] == 2 for row in answers[kind]), kind

    assert breaks_in_logs() == dict.fromkeys(TRIED_TWICE, 2)
    [quarantine] = (out / "_run").glob("*/quarantine")
    noted = {path.name.partition("-")[0] for path in quarantine.glob("*.json")}
    assert noted == {row["video_id"] for kind in TRIED_TWICE for row in answers[kind]}

    before = {table: comparable(out, table) for table in ("videos", "answers", "verdicts")}
    again = reelsift("answer", archive, ask(*QUERIES), out, *SETTINGS)
    assert again.code == 0, again.err
    assert "nothing to do" in again.err
    assert breaks_in_logs() == dict.fromkeys(TRIED_TWICE, 2), "a second run tries nothing again"
    assert before == {table: comparable(out, table) for table in before}
