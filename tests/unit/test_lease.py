"""One driver per output folder: who may write, who has to wait, who has lost it; the store on a real disk."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from pipeline import lease, store
from pipeline.errors import ConfigError, JobError, StoreError

ROOT = Path(__file__).parents[2]
HOLD = """
import sys
from pipeline import lease
from pipeline.errors import JobError
for line in sys.stdin:
    try:
        with lease.held(sys.argv[1], line.strip()):
            print("held", flush=True)
            sys.stdin.readline()
    except JobError as error:
        print(error, flush=True)
"""


@pytest.fixture
def out(tmp_path):
    return str(tmp_path / "out")


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setenv(lease.VARIABLE, "1")


@pytest.fixture
def driver(out):
    """Start a process that takes the folder for a run when it is told its name, and gives it back when told again."""
    started = []

    def start():
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, out],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def tell(process, run_id=""):
    process.stdin.write(f"{run_id}\n")
    process.stdin.flush()


def files(out):
    return sorted(path.name for path in Path(out, "_run", "lease").glob("*"))


def write(out, number=1, **changes):
    """Write a claim as another driver would have."""
    holder = replace(lease._myself("other"), owner="other", **changes)
    store.write_bytes(lease._uri(out, number), lease._encode(holder))
    return holder


def test_a_command_that_did_nothing_leaves_nothing(out, tmp_path):
    with lease.held(f"{out}/a", "r1") as held:
        held.check()
        assert files(f"{out}/a") == ["00000001.json"]
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_was_there_stays(out):
    Path(out).mkdir()
    with lease.held(out, "r1"):
        pass
    assert list(Path(out).iterdir()) == []


def test_it_is_given_back_whatever_happens(out):
    store.write_bytes(store.join(out, "_run", "r0", "stats.json"), b"{}")
    for number in (1, 2, 3):
        with contextlib.suppress(KeyboardInterrupt), lease.held(out, f"r{number}"):
            assert files(out) == [f"0000000{number}.json"]
            raise KeyboardInterrupt
        holder = lease.read(out)
        assert holder is not None
        assert holder.released
        assert holder.run_id == f"r{number}"
        assert not lease.runs(holder)


def test_who_gave_it_back_commits_nothing_more(out):
    """Commits of a command that was interrupted may still be under way."""
    store.write_bytes(store.join(out, "_run", "r0", "stats.json"), b"{}")
    with lease.held(out, "r1") as held:
        held.check()
    with pytest.raises(JobError, match="given back"):
        held.check()


def test_the_second_on_this_machine_is_refused_at_once_and_told_by_whom(out):
    with lease.held(out, "first") as held:
        with pytest.raises(JobError) as refused, lease.held(out, "second"):
            pass
        held.check()
        holder = lease.read(out)
    assert holder is not None
    assert holder.run_id == "first"
    for word in (
        out,
        "run first",
        f"process {os.getpid()}",
        socket.gethostname(),
        "since 20",
        "until 20",
        "Wait",
    ):
        assert word in str(refused.value)


def test_of_two_at_the_same_time_one_gets_it(driver):
    pair = [driver(), driver()]
    for number in range(20):
        for process in pair:
            tell(process, number)
        said = {process: process.stdout.readline() for process in pair}
        (winner, _), (_, refusal) = sorted(said.items(), key=lambda one: one[1] != "held\n")
        assert sorted(text == "held\n" for text in said.values()) == [False, True], said
        assert "another driver writes to" in refusal
        tell(winner)


def test_what_a_killed_driver_held_is_free_at_once(out, driver, caplog):
    victim = driver()
    tell(victim, "victim")
    assert victim.stdout.readline() == "held\n"
    victim.send_signal(signal.SIGKILL)
    while Path(f"/proc/{victim.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
        time.sleep(0.01)
    with lease.held(out, "next"):  # nobody has asked yet how it ended: it is a zombie
        assert files(out) == ["00000002.json"]
    assert "waiting" not in caplog.text


@pytest.mark.parametrize("changes", [{"pid": 2**22 + 1}, {"started": "1"}, {"pid": 1}])
def test_a_process_id_that_another_process_has_by_now_is_not_the_holder(out, changes, caplog):
    write(out, **changes)
    with lease.held(out, "next"):
        pass
    assert "waiting" not in caplog.text


@pytest.mark.parametrize("changes", [{"host": "other"}, {"kernel": "other boot"}])
def test_a_silent_holder_elsewhere_is_waited_for(out, changes, caplog):
    # its clock may be wrong either way
    write(out, lasts_s=1.0, **changes, renewed_s=time.time() + 500)
    with lease.held(out, "next") as held:
        held.check()
        assert files(out) == ["00000002.json"]
    assert "waiting 1 s to see whether it still runs" in caplog.text
    assert "run other" in caplog.text


def test_a_holder_elsewhere_that_shows_life_is_left_alone(out, monkeypatch):
    holder = write(out, lasts_s=600.0, host="other", renewed_s=time.time() - 500)

    def renewed(_):
        store.write_bytes(lease._uri(out, 1), lease._encode(replace(holder, renewed_s=time.time())))

    monkeypatch.setattr(time, "sleep", renewed)
    with pytest.raises(JobError, match="on other, since"), lease.held(out, "next"):
        pass
    assert files(out) == ["00000001.json"]


def test_a_holder_elsewhere_that_ends_meanwhile_frees_the_folder(out, monkeypatch):
    holder = write(out, lasts_s=600.0, host="other")

    def released(_):
        store.write_bytes(lease._uri(out, 1), lease._encode(replace(holder, released=True)))

    monkeypatch.setattr(time, "sleep", released)
    with lease.held(out, "next"):
        pass


def test_a_claim_of_yesterday_is_not_watched(out, caplog):
    write(out, host="other", renewed_s=time.time() - 86400)
    with lease.held(out, "next"):
        pass
    assert "waiting" not in caplog.text


def test_a_claim_that_cannot_be_read_is_watched(out, monkeypatch):
    monkeypatch.setattr(lease, "LASTS_S", 1.0)
    monkeypatch.setenv(lease.VARIABLE, "60")
    store.write_bytes(lease._uri(out, 7), b"")
    with lease.held(out, "next"):
        assert files(out) == ["00000008.json"]


def test_a_holder_that_was_silent_too_long_and_was_taken_over_stops(out):
    with lease.held(out, "first") as held:
        write(out, 2, host="elsewhere", pid=4711)
        held._until_s = 0.0
        with pytest.raises(
            JobError, match=r"taken over by run other, process 4711 on elsewhere.*\(run first"
        ):
            held.check()
        with pytest.raises(JobError, match="taken over"):
            held.check()
    assert "00000002.json" in files(out)
    holder = lease.read(out)
    assert holder is not None
    assert not holder.released, "of another: not this driver's to give back"


@pytest.mark.usefixtures("short")
def test_a_holder_hears_of_it_without_asking(out):
    with lease.held(out, "first") as held:
        write(out, 2)
        held._thread.join(timeout=30)
        with pytest.raises(JobError, match="taken over"):
            held.check()


def test_a_holder_that_was_silent_too_long_and_was_not_missed_goes_on(out):
    with lease.held(out, "first") as held:
        held._until_s = 0.0
        held.check()
        assert lease._latest(out).number == 2
        held.check()
        assert lease._latest(out).number == 2
        with pytest.raises(JobError, match="another driver"), lease.held(out, "second"):
            pass


@pytest.mark.usefixtures("short")
def test_it_is_renewed_as_long_as_it_is_held(out):
    with lease.held(out, "first") as held:
        before = lease.read(out)
        deadline = time.monotonic() + 30
        while lease.read(out) == before and time.monotonic() < deadline:
            time.sleep(0.05)
        after = lease.read(out)
        held.check()
    assert after is not None
    assert before is not None
    assert after.renewed_s > before.renewed_s
    assert asdict(replace(after, renewed_s=0)) == asdict(replace(before, renewed_s=0))


def test_a_number_that_was_used_up_is_no_claim(out):
    write(out, 7)
    assert not lease._create(out, 3, lease._myself("late"))
    assert files(out) == ["00000007.json"]


def test_what_cannot_be_written_is_said(out):
    store.write_bytes(out, b"a file")
    with (
        pytest.raises(StoreError, match=r"cannot write .*out/_run/lease.*out is a file, expected a"),
        lease.held(out, "r"),
    ):
        pass


@pytest.mark.parametrize("said", ["soon", "0", "nan", "4000"])
def test_a_length_that_is_none_is_refused(out, monkeypatch, said):
    monkeypatch.setenv(lease.VARIABLE, said)
    with pytest.raises(ConfigError, match=f"{lease.VARIABLE}={said}: expected seconds"), lease.held(out, "r"):
        pass
    assert not store.exists(out)


def test_a_claim_is_plain_json(out):
    with lease.held(out, "r"):
        found = json.loads(Path(out, "_run", "lease", "00000001.json").read_text())
    assert found["host"] == socket.gethostname()
    assert found["pid"] == os.getpid()
    assert not found["released"]
