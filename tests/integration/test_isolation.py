"""Videos that break their decoder, each in a real child, and a job over such videos.

Each costs its video a reasoned failure; in a job it is one failed answer per question, tried a known number of times.
"""

import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

from pipeline import isolation
from pipeline.errors import DecodeError
from tests import videos
from tests.integration.ray_head import Head
from tests.integration.results import comparable, read
from tests.reading import children, is_locked, look, named, reader

ROOT = Path(__file__).parents[2]

REASONS = {
    "segfault": "it ended with SIGSEGV",
    "sleep": "it was ended after 12 s",
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
    "--decode.timeout-s", "12", "--decode.memory-mb", "300",
    "--window.length-s", "10",
)  # fmt: skip


@pytest.fixture
def archive(tmp_path) -> Path:
    folder = tmp_path / "videos"
    folder.mkdir()
    for kind in (*REASONS, *GOOD):
        videos.write_video(folder / f"{kind}.mp4", numbers=range(60), options=videos.X264)
    return folder


def breaks_in_logs(head: Head, archive: Path) -> Counter[str]:
    """How often a child broke, by kind of file: the logs of Ray's workers."""
    found: Counter[str] = Counter()
    for log in head.folder.glob("session_latest/logs/worker-*.err"):
        for line in log.read_text(errors="replace").splitlines():
            if ": its decoder broke: " in line and str(archive) in line:
                found[Path(line.partition(".mp4:")[0]).name] += 1
    return found


def test_files_that_break_their_decoder(shared_head, reelsift, archive, ask, tmp_path):
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

    assert breaks_in_logs(shared_head, archive) == dict.fromkeys(TRIED_TWICE, 2)
    [quarantine] = (out / "_run").glob("*/quarantine")
    noted = {path.name.partition("-")[0] for path in quarantine.glob("*.json")}
    assert noted == {row["video_id"] for kind in TRIED_TWICE for row in answers[kind]}

    before = {table: comparable(out, table) for table in ("videos", "answers", "verdicts")}
    again = reelsift("answer", archive, ask(*QUERIES), out, *SETTINGS)
    assert again.code == 0, again.err
    assert "nothing to do" in again.err
    assert breaks_in_logs(shared_head, archive) == dict.fromkeys(TRIED_TWICE, 2), (
        "a second run tries nothing again"
    )
    assert before == {table: comparable(out, table) for table in before}


BREAKS = {
    "segfault": "SIGSEGV",
    "abort": r"SIGABRT: malloc\(\): corrupted top size",
    "loop": "ended after 1 s",
    "sleep": "ended after 1 s",
    "hold_the_lock": "ended after 1 s",
    "drip": "ended after 1 s",
    "endless_plans": "ended after 1 s",
    "endless_reads": "asks for 1048576 bytes at 0",
    "fill_memory": r"more than 512 MB \(--decode.memory-mb\)",
    "leave": "exit code 7",
    "leave_at_once": "exit code 0",
    "close_socket": "closed its connection",
    "garbage": "cannot be a message",
    "deep_json": "cannot be a message: not JSON",
    "three_gb": "3221225472",
    "wrong_shape": r"a picture of \[96, 161, 3\]",
    "endless": "more than 3 samples",
    "negative_read": "asks for 5 bytes at -5",
    "plan_of_text": "no list of ranges",
}
"""Decoder, and what is said of it."""


@pytest.mark.parametrize("kind", BREAKS)
def test_a_decoder_that_breaks_costs_its_video_only(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(isolation, "TRIES", 1)
    ours = reader(timeout_s=1.0 if "after 1 s" in BREAKS[kind] else 30.0)
    with pytest.raises(DecodeError, match=BREAKS[kind]) as caught:
        look(ours, named(tmp_path, kind))
    assert str(tmp_path / f"{kind}.mp4") in str(caught.value)
    assert children() == []
    assert look(reader(), named(tmp_path, "good")).shape == (3, 96, 160, 3)


def test_standard_error_never_fills(tmp_path):
    assert len(look(reader(timeout_s=20), named(tmp_path, "flood_errors"))) == 3


def test_descriptors_that_a_child_pushes_are_not_taken(tmp_path):
    num_open = psutil.Process().num_fds()
    assert len(look(reader(timeout_s=20), named(tmp_path, "pass_file"))) == 3
    isolation.drop_child()
    assert psutil.Process().num_fds() <= num_open


def test_a_child_that_grows_is_replaced_before_it_is_full(tmp_path):
    ours = reader("leak", memory_mb=256)
    for index in range(12):
        assert len(look(ours, named(tmp_path, f"video{index}"))) == 3


def test_what_a_child_says_is_text_that_can_be_stored(tmp_path):
    with pytest.raises(DecodeError, match="a lone") as caught:
        look(reader(), named(tmp_path, "surrogates"))
    assert len(str(caught.value)) < 5000
    assert str(caught.value).encode()


@pytest.mark.parametrize("kind", ["good", "hold_the_lock"])
def test_a_child_ends_with_its_worker(kind, tmp_path):
    """Whatever it is doing then: waiting, or held in foreign code that minds no signal."""
    named(tmp_path, kind)
    code = f"""
        import time
        from pathlib import Path
        from tests.reading import look, reader, row
        look(reader(timeout_s=1000), row(Path({str(tmp_path / kind)!r} + ".mp4")))
        time.sleep(1000)
    """
    worker = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT)
    try:
        deadline = time.monotonic() + 600
        while not (found := [child for child in psutil.Process(worker.pid).children() if is_locked(child)]):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(0.3)  # the request follows at once
        assert is_locked(found[0])
    finally:
        worker.send_signal(signal.SIGKILL)
        worker.wait()
    gone, alive = psutil.wait_procs(found, timeout=120)
    assert (len(gone), alive) == (1, [])
