"""Videos that broke their decoder twice are known to every process of a run."""

import json
import logging
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline import quarantine
from pipeline.errors import StoreError

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _forget(monkeypatch):
    monkeypatch.setattr(quarantine, "_known", {})
    monkeypatch.setattr(quarantine, "_due_s", {})


def test_without_a_folder_nothing_is_kept():
    quarantine.add("", "a-1", "videos/a.mp4", "it crashed")
    assert quarantine.reason("", "a-1") == ""


def test_good_videos_make_no_folder(tmp_path):
    assert quarantine.reason(str(tmp_path / "quarantine"), "a-1") == ""
    assert list(tmp_path.iterdir()) == []


def test_what_is_added_is_known_at_once(tmp_path):
    folder = str(tmp_path / "quarantine")
    assert quarantine.reason(folder, "a-1") == ""
    quarantine.add(folder, "a-1", "videos/a.mp4", "it crashed")
    assert quarantine.reason(folder, "a-1") == "it crashed"
    assert quarantine.reason(folder, "a-2") == "", "another version may be whole"
    assert quarantine.reason(str(tmp_path / "other"), "a-1") == "", "another run tries again"


def test_another_process_knows_it(tmp_path):
    quarantine.add(str(tmp_path), "a-1", "videos/a.mp4", "it crashed: é")
    code = f"from pipeline import quarantine; print(ascii(quarantine.reason({str(tmp_path)!r}, 'a-1')))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ascii("it crashed: é")


def test_what_others_add_is_known_after_a_while(tmp_path):
    folder = str(tmp_path)
    assert quarantine.reason(folder, "a-1") == ""
    (tmp_path / "a-1.json").write_text(json.dumps({"reason": "it hung"}))
    assert quarantine.reason(folder, "a-1") == "", "it is listed every 20 s"
    quarantine._due_s[folder] = time.monotonic()
    assert quarantine.reason(folder, "a-1") == "it hung"


def test_a_file_that_is_being_written_is_passed_over(tmp_path):
    (tmp_path / "a-1.json.0f0f0f0f.tmp").write_text('{"rea')
    (tmp_path / "b-1.json").write_text(json.dumps({"reason": "it hung"}))
    assert quarantine.reason(str(tmp_path), "a-1") == ""
    assert quarantine.reason(str(tmp_path), "b-1") == "it hung"


def test_only_the_names_of_others_are_kept(tmp_path):
    """Of a video that does not come up, the file is not read: it may hold anything."""
    for number in range(5):
        (tmp_path / f"b-{number}.json").write_text("not JSON")
    (tmp_path / "a-1.json").write_text(json.dumps({"reason": "it hung"}))
    assert quarantine.reason(str(tmp_path), "good-1") == ""
    assert quarantine.reason(str(tmp_path), "a-1") == "it hung"


def test_processes_that_begin_together_do_not_list_together():
    for number in range(20):
        quarantine.reason(f"/no/such/folder{number}", "a-1")
    due_s = quarantine._due_s.values()
    assert max(due_s) - min(due_s) > quarantine.REFRESH_S / 10


def test_the_log_names_the_file(tmp_path, caplog):
    quarantine.add(str(tmp_path), "a-1", "videos/a.mp4", "it crashed; leave it out")
    assert "videos/a.mp4 is not opened again in this run (a-1): it crashed; leave it out" in caplog.text


def test_a_folder_that_cannot_be_written_stops_nothing(tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    folder = str(tmp_path / "file" / "quarantine")
    with caplog.at_level(logging.ERROR):
        quarantine.add(folder, "a-1", "videos/a.mp4", "it crashed")
    assert "videos/a.mp4: cannot write down in" in caplog.text
    assert quarantine.reason(folder, "a-1") == "it crashed"


def test_a_folder_that_cannot_be_listed_says_so(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    with pytest.raises(StoreError):
        quarantine.reason("s3://bucket/quarantine", "a-1")
