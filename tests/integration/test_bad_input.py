"""Every awkward and broken video that we can write, in one archive: what can be answered is, the rest says why."""

import csv
import os
import re
import shutil
from pathlib import Path

import pytest

from pipeline import rows, store
from tests import videos
from tests.integration.results import comparable, read, written
from tests.integration.s3_server import Bucket

QUERIES = [
    {"query_id": "stripes", "kind": "find", "text": "a pattern of stripes"},
    {"query_id": "dog", "kind": "flag", "text": "a dog"},
]
LATER = {"query_id": "later", "kind": "find", "text": "a bicycle"}
SETTINGS = ("--window.length-s", "4", "--window.sample-fps", "2")

INTACT = {
    "good.mp4": {},
    "one picture.mkv": {"numbers": [0], "b_frames": 0},
    "odd size.mp4": {"size": (641, 361), "pix_fmt": "yuv444p", "numbers": range(30)},
    "turned.mp4": {"rotation_deg": 90, "numbers": range(30)},
    "variable rate.mp4": {"numbers": videos.SOME},
    "slides.mp4": {"numbers": [0, 210, 240], "b_frames": 0},
    "open groups.ts": videos.INTACT["open groups.ts"][1],
    "starts at 100 s.mkv": {"start_s": 100.0, "numbers": range(60)},
    "sound is longer.mp4": {"audio_s": 8.0, "numbers": range(60)},
    "ünï côdé 日本.mp4": {"numbers": range(30)},
    "overwritten later.mp4": {},
}
TRUNCATED = {
    "cut.mp4": r"(pictures|packets) end at 1\d\.\d",
    "cut.mkv": r"(pictures|packets) end at 1\d\.\d",
    "cut.ts": r"ends inside a transport packet, pictures end at 1\d\.\d s",
}
"""What the note of a file says that was cut at 60 %."""
BROKEN = {
    "empty.mp4": ("unreadable", r"the file is empty \(0 bytes\)"),
    "text.mp4": ("unreadable", "the file is text, not a video: b'not a video"),
    "noise.avi": ("unreadable", "no known video format"),
    "no index.mp4": ("unreadable", r"without its index \(moov\)"),
    "index leads nowhere.mp4": ("unreadable", "not one picture can be decoded"),
    "sound.mp4": ("no_video", "the file holds only audio;"),
    "cover.mp4": ("no_video", "only audio and a cover picture"),
}
"""Status of a file that is no video, and what its message says."""
DAMAGED = "damaged middle.mp4"
ALL = {*INTACT, *TRUNCATED, *BROKEN, DAMAGED}


def write_archive(folder: Path, scratch: Path) -> None:
    for name, settings in INTACT.items():
        videos.write_video(folder / name, **{"options": videos.X264, **settings})
    for name in TRUNCATED:
        videos.cut(write_long(scratch / name), folder / name, 0.6)
    videos.damage(write_long(scratch / DAMAGED), folder / DAMAGED, 0.4, 0.25)
    whole = videos.write_video(scratch / "whole.mp4", options=videos.X264)  # its index comes last
    videos.cut(whole, folder / "no index.mp4", 0.6)
    data = bytearray(whole.read_bytes())
    table = data.index(b"stco") + 12
    data[table : table + 60] = b"\xff" * 60
    (folder / "index leads nowhere.mp4").write_bytes(data)
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("not a video\n" * 99)
    (folder / "noise.avi").write_bytes(bytes(range(256)) * 9)
    videos.write_audio(folder / "sound.mp4")
    videos.write_audio(folder / "cover.mp4", with_cover=True)


def write_long(path: Path) -> Path:
    """Write 20 s whose index, if there is one, stands first."""
    first = {"movflags": "faststart"} if path.suffix == ".mp4" else None
    return videos.write_video(path, numbers=range(600), options=videos.X264, container_options=first)


@pytest.fixture
def archive(tmp_path) -> Path:
    for name in ("videos", "scratch"):
        (tmp_path / name).mkdir()
    write_archive(tmp_path / "videos", tmp_path / "scratch")
    return tmp_path / "videos"


def by_name(out: Path, table: str) -> dict[str, list[dict]]:
    found: dict[str, list[dict]] = {}
    for row in read(out, table):
        found.setdefault(Path(row["uri"]).name, []).append(row)
    return found


def test_a_folder_full_of_trouble(reelsift, archive, ask, tmp_path):
    out = tmp_path / "out"
    done = reelsift("answer", archive, ask(*QUERIES), out, *SETTINGS)
    assert done.code == 0, done.err
    _nothing_is_lost(out, done)
    for name in INTACT:
        _an_intact_file_is_answered(out, name)
    for name, note in TRUNCATED.items():
        _a_cut_file_is_answered_as_far_as_it_goes(out, name, note)
    _damage_costs_the_windows_it_lies_in(out)
    for name, (status, words) in BROKEN.items():
        _a_broken_file_is_one_failed_row(out, name, status, words)
    _broken_files_are_told_apart(out)
    _bad_neighbours_change_nothing(out, reelsift, archive, ask)
    _too_many_failures_are_exit_code_1(out, reelsift, archive, ask)
    _a_file_that_breaks_after_its_probe_fails_alone(out, reelsift, archive, ask)


def _nothing_is_lost(out, done):
    found, answers, verdicts = (by_name(out, table) for table in ("videos", "answers", "verdicts"))
    assert found.keys() == verdicts.keys() == ALL
    assert answers.keys() == ALL - BROKEN.keys()
    for name in ALL:
        [video] = found[name]
        windows = video["num_windows"]
        asked = [(answer["window_id"], answer["query_id"]) for answer in answers.get(name, [])]
        assert len(asked) == len(set(asked)) == windows * len(QUERIES), name
        assert {verdict["query_id"] for verdict in verdicts[name]} == {"stripes", "dog"}, name
        assert len(verdicts[name]) == len(QUERIES), name
        assert {verdict["num_windows"] for verdict in verdicts[name]} == {windows}, name
    frames = read(out, "frames")
    assert len({(frame["video_id"], frame["wanted_s"]) for frame in frames}) == len(frames)
    for answer in read(out, "answers"):
        start_s, end_s = answer["start_s"], answer["end_s"]
        assert all(start_s <= span["start_s"] < span["end_s"] <= end_s for span in answer["spans"])
        assert all(start_s <= frame["pts_s"] < end_s for frame in answer["evidence"])
    assert done.json["videos"] == len(ALL)
    assert done.json["failed_videos"] == len(BROKEN)


def _an_intact_file_is_answered(out, name):
    [video] = by_name(out, "videos")[name]
    assert (video["status"], video["note"], video["error_type"]) == ("ok", "", ""), name
    for answer in by_name(out, "answers")[name]:
        assert answer["error_type"] == "", (name, answer["error_message"])
        assert 0 < answer["frames_seen"] <= answer["frames_planned"], name
    assert not any(verdict["error_type"] for verdict in by_name(out, "verdicts")[name]), name


def _a_cut_file_is_answered_as_far_as_it_goes(out, name, note):
    [video] = by_name(out, "videos")[name]
    assert (video["status"], video["error_type"]) == ("truncated", ""), name
    assert re.search(note, video["note"]), (name, video["note"])
    answers = by_name(out, "answers")[name]
    assert all(answer["error_type"] == "" and answer["frames_seen"] > 0 for answer in answers), name
    assert 9 < video["duration_s"] == max(answer["end_s"] for answer in answers) < 14, name


def _damage_costs_the_windows_it_lies_in(out):
    answers = by_name(out, "answers")[DAMAGED]
    failed = [answer for answer in answers if answer["error_type"]]
    assert {answer["error_type"] for answer in failed} == {"DecodeError"}
    assert {answer["start_s"] for answer in failed} == {8.0}, "of 20 s, the bytes from 40 % to 65 % are noise"
    assert all("can be decoded" in answer["error_message"] for answer in failed)
    assert all(answer["frames_seen"] > 0 for answer in answers if not answer["error_type"])
    assert all(verdict["num_failed_windows"] == 1 for verdict in by_name(out, "verdicts")[DAMAGED])


def _a_broken_file_is_one_failed_row(out, name, status, words):
    [video] = by_name(out, "videos")[name]
    assert (video["status"], video["error_type"], video["num_windows"]) == (status, "ProbeError", 0), name
    assert re.search(words, video["error_message"]), (name, video["error_message"])
    assert name in video["error_message"]
    for verdict in by_name(out, "verdicts")[name]:
        assert (verdict["error_type"], verdict["error_message"]) == ("ProbeError", video["error_message"]), (
            name
        )
        assert verdict["answer"] == "", "silence must not be taken for a no"


def _broken_files_are_told_apart(out):
    messages = {by_name(out, "videos")[name][0]["error_message"].replace(name, "") for name in BROKEN}
    assert len(messages) == len(BROKEN)


def _bad_neighbours_change_nothing(out, reelsift, archive, ask):
    alone = out.with_name("alone")
    done = reelsift("answer", archive / "good.mp4", ask(*QUERIES), alone, *SETTINGS)
    assert done.code == 0, done.err
    [video] = read(alone, "videos")
    for table in rows.TABLES:
        expected = comparable(alone, table)
        assert expected
        assert expected == [row for row in comparable(out, table) if video["video_id"] in row], table


def _too_many_failures_are_exit_code_1(out, reelsift, archive, ask):
    files = written(out)
    again = reelsift("answer", archive, ask(*QUERIES), out, *SETTINGS, "--max-failed-fraction", "0.01")
    assert again.code == 1, again.err
    assert "nothing to do" in again.err
    assert written(out) == files


def _a_file_that_breaks_after_its_probe_fails_alone(out, reelsift, archive, ask):
    before = {table: set(comparable(out, table)) for table in rows.TABLES if table != "frames"}
    victim = archive / "overwritten later.mp4"
    status = victim.stat()
    with victim.open("r+b") as file:  # same size, same time: as far as a listing can tell the same file
        file.write(b"\x07" * status.st_size)
    os.utime(victim, ns=(status.st_atime_ns, status.st_mtime_ns))
    shutil.rmtree(out / "frames")  # else no video would be read again
    done = reelsift("answer", archive, ask(*QUERIES, LATER), out, *SETTINGS)
    assert done.code == 0, done.err
    answers = by_name(out, "answers")
    later = {name: [a for a in answers[name] if a["query_id"] == "later"] for name in answers}
    assert len(later[victim.name]) == 2, "one for each of its windows"
    for answer in later[victim.name]:
        assert (answer["error_type"], answer["frames_seen"]) == ("DecodeError", 0)
        assert "no known video format" in answer["error_message"]
        assert str(victim) in answer["error_message"]
    broken = {name for name in later if any(answer["error_type"] for answer in later[name])}
    assert broken == {victim.name, DAMAGED}
    for table in before:
        assert before[table] <= set(comparable(out, table)), f"{table}: old rows are never touched"
    [verdict] = [row for row in by_name(out, "verdicts")[victim.name] if row["query_id"] == "later"]
    assert (verdict["error_type"], verdict["num_failed_windows"]) == ("DecodeError", 2)


def test_a_manifest_full_of_trouble(reelsift, ask, tmp_path):
    """What a manifest names and nobody can have is a row like any broken file, and the others are answered."""
    for name in ("good.mp4", "second, good.mp4"):
        videos.write_video(tmp_path / name, options=videos.X264)
    (tmp_path / "folder.mp4").mkdir()
    os.mkfifo(tmp_path / "pipe.mp4")
    broken = ["gone.mp4", "folder.mp4", "pipe.mp4", "gs://bucket/x.mp4"]
    named = ["good.mp4", *broken, "second, good.mp4", str(tmp_path / "good.mp4")]
    manifest, out = tmp_path / "list.csv", tmp_path / "out"
    with manifest.open("w", newline="") as file:
        csv.writer(file).writerows([["uri"], *([name] for name in named)])
    done = reelsift("answer", manifest, ask(*QUERIES), out, *SETTINGS)
    assert done.code == 0, done.err
    assert "1 rows name a file that a row before them names" in done.err
    assert (done.json["videos"], done.json["failed_videos"]) == (6, 4)
    found, verdicts = read(out, "videos"), by_name(out, "verdicts")
    failed = {row["uri"].removeprefix(f"{tmp_path}/"): row for row in found if row["error_type"]}
    assert failed.keys() == set(broken)
    assert {row["status"] for row in failed.values()} == {"unreadable"}
    for row in failed.values():
        assert f"({manifest} names it)" in row["error_message"]
        its = verdicts[Path(row["uri"]).name]
        assert [(verdict["error_type"], verdict["error_message"]) for verdict in its] == [
            ("ProbeError", row["error_message"])
        ] * len(QUERIES)
    (tmp_path / "gone.mp4").write_bytes((tmp_path / "good.mp4").read_bytes())
    again = reelsift("answer", manifest, ask(*QUERIES), out, *SETTINGS)
    assert again.code == 0, again.err
    assert again.json["failed_videos"] == 3, "a file that came is answered"


def test_nothing_at_all_can_be_read(reelsift, ask, tmp_path):
    """The rows are kept, the exit code is 3, and stays so while nothing changes."""
    folder, out = tmp_path / "videos", tmp_path / "out"
    folder.mkdir()
    for name in ("a.mp4", "b.mp4"):
        (folder / name).write_text("not a video\n" * 99)
    (folder / "c.mp4").symlink_to(folder / "nowhere")
    for _ in range(2):
        done = reelsift("answer", folder, ask(*QUERIES), out, *SETTINGS)
        assert done.code == 3, done.err
        assert f"not one of the 3 videos at {folder} can be read, most often (2)" in done.err
        assert "the file is text, not a video" in done.err.splitlines()[-1]
        assert "Traceback" not in done.err
        assert done.json["failed_videos"] == 3
    assert "nothing to do" in done.err
    assert len(read(out, "videos")) == 3
    assert len(read(out, "verdicts")) == 3 * len(QUERIES)
    videos.write_video(folder / "good.mp4", options=videos.X264)
    mended = reelsift("answer", folder, ask(*QUERIES), out, *SETTINGS)
    assert mended.code == 0, mended.err


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("list.csv", b"path\na.mp4\n", "found the columns 'path', expected one called 'uri'"),
        ("list.txt", b"# nothing yet\n", "names no video"),
        ("clip.txt", b"\x00\x00\x00\x20ftypisom\xff\xfe", "rename it if it is a video"),
        ("list.parquet", b"uri\n", "not a Parquet file"),
    ],
)
def test_a_manifest_that_is_none(reelsift, ask, tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    done = reelsift("answer", tmp_path / name, ask(*QUERIES), tmp_path / "out", RAY_ADDRESS="127.0.0.1:1")
    assert done.code == 2, done.err
    assert words in done.err
    assert str(tmp_path / name) in done.err
    assert not (tmp_path / "out").exists()


@pytest.mark.needs_ceph
def test_a_bucket_in_trouble(s3: Bucket, reelsift, ask, tmp_path):
    """Each trouble has a line of its own and an exit code: 2 for the wrong place, 3 for one that cannot be asked."""
    store.write_bytes(store.join(s3.uri, "pics", "a.jpg"), b"x")
    store.write_bytes(store.join(s3.uri, "in", "a.mp4"), b"x")
    silent = "http://127.0.0.1:1"
    cases = [
        ("s3://no-such-bucket-here/in", {}, 3, "no bucket 'no-such-bucket-here' at this endpoint"),
        (f"{s3.uri}/nothing", {}, 2, "no object has a key that begins so"),
        (f"{s3.uri}/pics", {}, 2, "looked at 1 other files"),
        (f"{s3.uri}/in/*.mkv", {}, 2, "looked at 1 other files for a match"),
        (f"{s3.uri}/in", {"AWS_ENDPOINT_URL": silent}, 3, "nothing answers at the endpoint"),
        (f"{s3.uri}/in", {"AWS_SECRET_ACCESS_KEY": "wrong-and-private"}, 3, "AWS_SECRET_ACCESS_KEY"),
        ("gs://bucket/in", {}, 2, "cannot read gs://"),
    ]
    for uri, environment, code, words in cases:
        done = reelsift("answer", uri, ask(*QUERIES), tmp_path / "out", "--dry-run", **environment)
        assert done.code == code, (uri, done.err)
        assert words in done.err
        assert len(done.err.splitlines()) == 1, done.err
        assert "wrong-and-private" not in done.err
