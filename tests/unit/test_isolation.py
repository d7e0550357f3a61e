"""Real children that misbehave: each costs its video a reasoned failure, and nobody else anything."""

import os
import pickle
import resource
import socket
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import psutil
import pytest

from pipeline import isolation, quarantine
from pipeline.child_process import PASSED_ON, Child
from pipeline.config import DecodeConfig, WindowConfig
from pipeline.errors import ClusterError, ConfigError, DecodeError, ProbeError
from pipeline.frames import Policy
from pipeline.isolation import Reader
from tests import videos
from tests.reading import SIZE, children, look, named, reader, row

ROOT = Path(__file__).parents[2]
SECRET = "wJalrXUtnFEMI-not-for-children"
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the lock-down is for Linux")


@pytest.fixture(scope="module", autouse=True)
def _nothing_leaks():
    """Descriptors and memory of this process stay what they were, over all the children of this module."""
    this = psutil.Process()
    num_open, held_bytes = this.num_fds(), this.memory_info().rss
    yield
    isolation.drop_child()
    assert children() == []
    assert this.num_fds() <= num_open + 1  # the library that reads /proc keeps one
    assert this.memory_info().rss < held_bytes + 200 * 2**20


BREAKS = {
    "segfault": "SIGSEGV",
    "hold_the_lock": r"ended after 0.5 s .*; raise --decode.timeout-s if the file is to be trusted, else leave",
    "fill_memory": r"more than 300 MB \(--decode.memory-mb\); raise --decode.memory-mb if",
    "wrong_shape": r"a picture of \[96, 161, 3\]",
    "endless": "more than 3 samples",
}
"""Decoder, and what is said of it. More of them: tests/integration/test_isolation.py."""


@pytest.mark.parametrize("kind", BREAKS)
def test_a_decoder_that_breaks_costs_its_video_only(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(isolation, "TRIES", 1)
    ours = reader(timeout_s=0.5 if "after" in BREAKS[kind] else 30.0, memory_mb=300)
    with pytest.raises(DecodeError, match=BREAKS[kind]) as caught:
        look(ours, named(tmp_path, kind))
    assert str(tmp_path / f"{kind}.mp4") in str(caught.value)
    assert children() == []
    assert look(reader(), named(tmp_path, "good")).shape == (3, 96, 160, 3)


FAILS = {
    "mistake": "unexpected IndexError while reading",
    "fork": "unexpected PermissionError",
    "start_threads": "unexpected RuntimeError while reading .*thread",
    "connect": "connect: PermissionError",
    "read_file": r"read: \['PermissionError', 'PermissionError', 'PermissionError'\]",
    "write_file": "write: PermissionError",
    "start_program": "exec: PermissionError",
    "kill_worker": "kill: PermissionError",
}


def test_what_is_refused_is_an_error_and_the_child_goes_on(tmp_path):
    """`start_threads` comes last: what it has started runs on."""
    pids = set()
    for kind in sorted(FAILS, key="start_threads".__eq__):
        with pytest.raises(DecodeError, match=FAILS[kind]) as caught:
            look(reader(), named(tmp_path, kind))
        assert str(tmp_path / f"{kind}.mp4") in str(caught.value)
        pids |= {child.pid for child in children()}
    assert len(pids) == 1


def test_the_second_break_is_the_last(tmp_path):
    """The third request starts no child, in this process and in every other of the run; it says the same words."""
    folder, bad = tmp_path / "quarantine", named(tmp_path, "segfault")
    ours = reader(folder=folder)
    with pytest.raises(DecodeError, match="broke its decoder 2 times, it ended with SIGSEGV"):
        look(ours, bad)
    assert children() == []
    with pytest.raises(DecodeError, match="broke its decoder 2 times, it ended with SIGSEGV"):
        look(ours, bad)
    with pytest.raises(ProbeError, match="broke its decoder 2 times"):
        ours.probe(bad)
    assert children() == []
    code = f"""
        from pathlib import Path
        import psutil
        from pipeline.errors import DecodeError
        from tests.reading import look, reader, row
        try:
            look(reader(folder={str(folder)!r}), row(Path({bad["uri"]!r})))
        except DecodeError as error:
            print(error, len(psutil.Process().children()))
    """
    done = run(code)
    assert "broke its decoder 2 times, it ended with SIGSEGV" in done
    assert done.endswith(" 0")
    assert len(look(ours, named(tmp_path, "good"))) == 3


def test_a_crash_that_does_not_come_again_costs_nothing(tmp_path):
    """The child of the first video is broken by the second, which a fresh child can read; nothing is written down."""
    folder = tmp_path / "quarantine"
    ours = reader("crash_on_second", folder=folder)
    for kind in "abc":
        assert len(look(ours, named(tmp_path, kind))) == 3
    assert not folder.exists()


def test_a_child_that_is_killed_once_costs_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(isolation, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(isolation, "TRIES", 1)
    folder = tmp_path / "quarantine"
    ours, window = reader(folder=folder), named(tmp_path, "good")
    look(ours, window)
    children()[0].kill()
    assert len(look(ours, window)) == 3
    assert not folder.exists()


def test_a_video_whose_child_is_killed_again_and_again_is_told_so_and_may_be_opened_again(
    tmp_path, monkeypatch
):
    """Short of memory, the kernel kills children before anything else; here, each one right after its request."""
    monkeypatch.setattr(isolation, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(isolation, "SHORTAGES", 2)
    folder, killed = tmp_path / "quarantine", set[int]()
    ours, send = reader(folder=folder, timeout_s=60), Child._send

    def send_and_kill(child: Child, *message: object, **file: object) -> None:
        send(child, *message, **file)
        killed.add(child.pid)
        psutil.Process(child.pid).kill()

    with monkeypatch.context() as short_of_memory:
        short_of_memory.setattr(Child, "_send", send_and_kill)
        with pytest.raises(
            DecodeError, match=r"killed 2 times \(it ended with SIGKILL.*short of memory"
        ) as caught:
            look(ours, named(tmp_path, "sleep"))
    assert socket.gethostname() in str(caught.value)
    assert len(killed) == 2
    assert not folder.exists()
    assert len(look(ours, named(tmp_path, "good"))) == 3


def test_a_machine_without_room_for_a_child_stops_the_run_and_is_named(monkeypatch):
    isolation.drop_child()
    monkeypatch.setattr(isolation, "FIRST_WAIT_S", 0.01)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        with pytest.raises(ClusterError, match=r"Too many open files.*tried 4 times.*run fewer") as caught:
            isolation._child_of(reader())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert socket.gethostname() in str(caught.value)


def test_nothing_of_the_environment_is_passed_on(tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("HF_TOKEN", SECRET)
    with pytest.raises(DecodeError, match=r"environ: .*PATH") as caught:
        look(reader(), named(tmp_path, "tell_environment"))
    assert SECRET not in str(caught.value)
    assert "AWS" not in str(caught.value)
    [child] = children()
    folder = Path(f"/proc/{child.pid}")
    assert SECRET.encode() not in (folder / "cmdline").read_bytes()
    try:
        environment, open_files = (folder / "environ").read_bytes(), (folder / "fd").iterdir()
        kinds = [str(file.readlink()).partition(":")[0] for file in open_files]
    except PermissionError:  # the child is not to be looked into by its own user either
        return
    names = {entry.partition(b"=")[0].decode() for entry in environment.split(b"\0") if entry}
    assert names <= {*PASSED_ON, "PYTHONPATH", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"}
    kinds = [kind for kind in kinds if not kind.endswith(".mp4")]  # it answers before it closes the video
    assert sorted(kinds) == ["/dev/null", "pipe", "pipe", "socket"]


def test_threads_take_turns_and_outlive_nothing(tmp_path):
    """Each gets its own pictures, from the one child, which does not end with the thread that started it."""
    ours = reader("grey_of_name", timeout_s=30)
    found: dict[int, set[int]] = {grey: set() for grey in (10, 20, 30)}
    pids: set[int] = set()

    def work(grey: int, window: dict) -> None:
        for _ in range(20):
            found[grey] |= set(np.unique(look(ours, window)).tolist())
            pids.update(child.pid for child in children())

    work(10, named(tmp_path, "10"))
    for first in (True, False):
        threads = [
            threading.Thread(target=work, args=(grey, named(tmp_path, str(grey)))) for grey in (20, 30)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == {10: {10}, 20: {20}, 30: {30}}, first
    assert len(pids) == 1


def test_a_child_started_by_a_thread_outlives_it(tmp_path):
    ours = reader()
    thread = threading.Thread(target=look, args=(ours, named(tmp_path, "good")))
    thread.start()
    thread.join()
    [child] = children()
    look(ours, named(tmp_path, "good"))
    assert children() == [child]


def test_a_forked_worker_has_a_child_of_its_own(tmp_path):
    ours, window = reader(), named(tmp_path, "good")
    look(ours, window)
    [child] = children()
    pid = os.fork()
    if not pid:  # pragma: no cover
        code = 1
        try:
            started_anew = children() == []
            look(ours, window)
            code = 0 if started_anew and len(children()) == 1 else 2
            isolation.drop_child()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    look(ours, window)
    assert children() == [child]


def test_a_reader_is_small_and_holds_nothing(tmp_path):
    ours = reader()
    look(ours, named(tmp_path, "good"))
    assert len(pickle.dumps(ours)) < 1000
    assert pickle.loads(pickle.dumps(ours)) == ours


def test_other_settings_have_another_child(tmp_path):
    window = named(tmp_path, "good")
    look(reader(), window)
    [first] = children()
    look(reader(memory_mb=600), window)
    assert len(children()) == 1
    assert children() != [first]


@pytest.mark.parametrize("decoder", ["no_such_name", "HEADER"])
def test_a_decoder_that_cannot_be_used_stops_the_run(decoder, tmp_path):
    with pytest.raises(ConfigError, match=f"tests.hostile_decoders:{decoder}"):
        look(reader(decoder), named(tmp_path, "good"))


def test_a_file_that_changes_is_refused(tmp_path):
    window = named(tmp_path, "good")
    with pytest.raises(DecodeError, match="has changed since it was listed"):
        look(reader(), {**window, "etag": "1"})


def test_real_pictures_come_through(intact):
    path, numbers = intact("h264.mp4")
    ours = Reader(DecodeConfig(memory_mb=512), WindowConfig(sample_fps=2))
    columns = ours.probe(row(path))
    assert (columns["status"], columns["codec"], columns["width_px"]) == ("ok", "h264", 160)
    assert columns["duration_s"] == pytest.approx(len(numbers) / 30)
    frames, _ = ours.sample(row(path), SIZE, Policy())
    assert [videos.number(picture) for picture in frames.data_NHWC] == [0, 15, 30, 45, 60, 75]
    frames, _ = ours.look(row(path), [2.0, 1.0, 2.0], SIZE)
    assert [videos.number(picture) for picture in frames.data_NHWC] == [30, 60]


def test_what_is_no_video_is_said_by_the_probe(tmp_path):
    with pytest.raises(ProbeError) as caught:
        reader().probe(row(videos.write_audio(tmp_path / "a.m4a")))
    assert caught.value.status == "no_video"


def run(code: str) -> str:
    """Run code in a process of its own; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_longest_video(intact, monkeypatch):
    path, _ = intact("h264.mp4")
    monkeypatch.setattr(isolation, "LONGEST_S", 4.0)
    with pytest.raises(ProbeError, match="its times say that it lasts 5 s"):
        Reader(DecodeConfig(memory_mb=512), WindowConfig(sample_fps=2)).probe(row(path))


def test_quarantine_is_not_asked_without_a_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(isolation, "TRIES", 1)
    ours, bad = reader(), named(tmp_path, "leave_at_once")
    for _ in range(2):
        with pytest.raises(DecodeError, match="exit code 0"):
            look(ours, bad)
    assert quarantine.reason("", "leave_at_once-1") == ""


def test_a_child_that_cannot_start_stops_the_run(tmp_path, monkeypatch):
    isolation.drop_child()
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(ConfigError, match=r"cannot be started .* exit code 1"):
        look(reader(), named(tmp_path, "good"))
