"""One driver per output folder, on a real S3 server: others are refused, waited for or replaced.

What may not be written is said before anything is decoded.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.fault_proxy import Fault, FaultProxy
from pipeline import lease, store
from tests import videos
from tests.integration.conftest import Finished
from tests.integration.needs import lacking
from tests.integration.ray_head import QUIET, ROOT
from tests.integration.s3_server import Bucket

pytestmark = pytest.mark.needs_ceph

QUERIES = [{"query_id": "bike", "kind": "find", "text": "a bicycle"}]
NO_RAY = {"RAY_ADDRESS": "127.0.0.1:1"}
"""Nobody listens there: whoever decodes anything has another error."""


@pytest.fixture
def start() -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Start `reelsift ...`; without RAY_ADDRESS on a Ray of its own, whose workers have the driver's environment."""
    folder = Path(tempfile.mkdtemp(prefix="rs3-", dir="/tmp"))  # short: socket paths are limited
    started: list[subprocess.Popen[str]] = []

    def run(*args: object, **environment: str) -> "subprocess.Popen[str]":
        merged = {**os.environ, **QUIET, "RAY_TMPDIR": str(folder), "TMPDIR": str(folder), **environment}
        if not environment.get("RAY_ADDRESS"):
            merged.pop("RAY_ADDRESS", None)
        command = [sys.executable, "-m", "jobs", *map(str, args)]
        pipes: dict[str, int] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        started.append(subprocess.Popen(command, cwd=ROOT, env=merged, text=True, **pipes))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.communicate()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def reelsift(start) -> Callable[..., Finished]:
    """Run `reelsift ...` to its end."""

    def run(*args: object, **environment: str) -> Finished:
        process = start(*args, **environment)
        out, err = process.communicate(timeout=900)
        return Finished(subprocess.CompletedProcess(process.args, process.returncode, out, err))

    return run


@pytest.fixture
def clip(tmp_path):
    folder = tmp_path / "clip"
    folder.mkdir()
    videos.write_video(folder / "a.mp4", numbers=range(150), size=(160, 96), options=videos.X264)
    return folder


def elsewhere(out: str, number: int, **changes) -> lease.Holder:
    """Write a claim as a driver of another machine would, whose clock is ten minutes fast."""
    now_s = time.time() + 600
    holder = replace(
        lease._myself("away"), owner="away", host="far-away", since_s=now_s, renewed_s=now_s, **changes
    )
    store.write_bytes(lease._uri(out, number), lease._encode(holder))
    return holder


def test_two_drivers_on_one_bucket(s3: Bucket, s3_ray_address, start, reelsift, clip, ask):
    out = store.join(s3.uri, "out")
    arguments = ("answer", clip, ask(*QUERIES), out)
    first = start(*arguments, RAY_ADDRESS=s3_ray_address, **{lease.VARIABLE: "3000"})
    while lease.read(out) is None and first.poll() is None:
        time.sleep(0.05)
    first.send_signal(signal.SIGSTOP)  # it shall not end before the second has started
    second = reelsift(*arguments, **NO_RAY)
    first.send_signal(signal.SIGCONT)
    assert second.code == 3, second.err
    for word in (f"another driver writes to {out}", f"process {first.pid} on ", "Wait until it has finished"):
        assert word in second.err
    printed, err = first.communicate(timeout=900)
    assert first.returncode == 0, err
    assert json.loads(printed.splitlines()[-1])["answers"] == 1
    _a_silent_driver_elsewhere_is_waited_for(out, reelsift, arguments)
    _a_live_driver_elsewhere_is_left_alone(out, reelsift, arguments)


def _a_silent_driver_elsewhere_is_waited_for(out, reelsift, arguments) -> None:
    elsewhere(out, 2, lasts_s=2.0)
    waited = reelsift(*arguments, **NO_RAY)
    assert waited.code == 0, waited.err
    assert "on far-away, since" in waited.err
    assert "waiting 2 s to see whether it still runs" in waited.err
    assert "nothing to do" in waited.err
    assert [entry.uri for entry in store.list_files(store.join(out, "_run", "lease"))] == [lease._uri(out, 3)]


def _a_live_driver_elsewhere_is_left_alone(out, reelsift, arguments) -> None:
    holder = elsewhere(out, 4, lasts_s=60.0)
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(0.5):
            later = replace(holder, renewed_s=time.time() + 600)
            store.write_bytes(lease._uri(out, 4), lease._encode(later))

    thread = threading.Thread(target=renew)
    thread.start()
    try:
        refused = reelsift(*arguments, **NO_RAY)
    finally:
        ended.set()
        thread.join()
    assert refused.code == 3
    assert "another driver writes to" in refused.err
    assert "far-away" in refused.err


def deny(s3: Bucket, action: str) -> None:
    fs, bucket = store.open_fs(s3.uri)
    arn = f"arn:aws:s3:::{bucket}"
    statement = {"Effect": "Deny", "Principal": "*", "Action": action, "Resource": [arn, f"{arn}/*"]}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    fs.call_s3("put_bucket_policy", Bucket=bucket, Policy=policy)


@pytest.mark.parametrize("action", ["s3:PutObject", "s3:DeleteObject"])
def test_a_bucket_that_may_not_be_written_is_found_out_before_anything_is_decoded(
    s3: Bucket, reelsift, clip, ask, action
):
    deny(s3, action)
    done = reelsift("answer", clip, ask(*QUERIES), store.join(s3.uri, "out"), **NO_RAY)
    assert done.code == 3, done.err
    [line] = [line for line in done.err.splitlines() if line.startswith("reelsift: ")]
    assert "access denied (AccessDenied)" in line
    assert f"in bucket {s3.uri.removeprefix('s3://')!r}: allow them {action}" in line
    assert "Traceback" not in done.err


@pytest.mark.usefixtures("s3")
def test_a_folder_that_may_not_be_written(reelsift, clip, ask):
    done = reelsift("answer", clip, ask(*QUERIES), "/sys/out", **NO_RAY)
    assert done.code == 3, done.err
    assert (
        "reelsift: cannot write /sys/out/_run/lease/00000001.json: permission denied for this user"
        in done.err
    )
    assert "give another folder" in done.err


def test_what_failed_is_done_again_when_it_is_asked_for(s3: Bucket, s3_ray_address, reelsift, clip, ask):
    """B cannot be read while it is probed, c while it is answered; nothing about the objects changes."""
    source, out = store.join(s3.uri, "in"), store.join(s3.uri, "out")
    for name in "abc":
        store.write_bytes(store.join(source, f"{name}.mp4"), (clip / "a.mp4").read_bytes())
    line = FaultProxy(s3.server.endpoint)

    def refuse(verb: str, path: str) -> Fault | None:
        name = path.rpartition("/")[2]
        is_closed = name == "b.mp4" or (name == "c.mp4" and _is_answering(out))
        return Fault("refusal", code="AccessDenied", status=403) if is_closed and verb == "GET" else None

    line.on_request = refuse
    arguments = ("answer", f"{source}/", ask(*QUERIES), out)
    broken = reelsift(*arguments, AWS_ENDPOINT_URL=line.address)
    line.refuse()
    assert broken.code == 0, broken.err
    assert (broken.json["failed_videos"], broken.json["failed_answers"]) == (1, 1), broken.err
    stands = reelsift(*arguments, **NO_RAY)
    assert stands.code == 0, stands.err
    assert "--retry-failed does them again" in stands.err
    healed = reelsift(*arguments, "--retry-failed", RAY_ADDRESS=s3_ray_address)
    assert healed.code == 0, healed.err
    assert "tried again: 1 failed videos, 1 failed answers; 2 verdicts are judged again" in healed.err
    assert (healed.json["failed_videos"], healed.json["failed_answers"], healed.json["videos"]) == (0, 0, 3)
    done = healed.json["this_run"]
    assert (done["videos"], done["windows"], done["answers"], done["verdicts"]) == (1, 2, 2, 2)
    nothing = reelsift(*arguments, "--retry-failed", **NO_RAY)
    assert nothing.code == 0, nothing.err
    assert "no failed rows to try again" in nothing.err


def _is_answering(out: str) -> bool:
    return any(
        "/manifest/windows/" in entry.uri
        for entry in store.list_files(store.join(out, "_run"), missing_ok=True)
    )


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A disk of one megabyte: the only way to a real "no space left" that leaves the machine's own disks alone."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode:
        lacking(f"a disk can only be filled where one may be mounted, by root: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_ends_the_run_and_space_lets_it_go_on(small_disk: Path, ray_address, reelsift, clip, ask):
    filler = small_disk / "filler"
    filler.write_bytes(b"0" * ((1 << 20) - 72 * 1024))
    arguments = ("answer", clip, ask(*QUERIES), small_disk / "out")
    full = reelsift(*arguments, RAY_ADDRESS=ray_address)
    assert full.code == 3, full.err
    [line] = [line for line in full.err.splitlines() if line.startswith("reelsift: ")]
    for word in (
        "cannot write",
        "No space left on device",
        "found ",
        "bytes free",
        "expected room",
        "free some space",
    ):
        assert word in line
    filler.unlink()
    done = reelsift(*arguments, RAY_ADDRESS=ray_address)
    assert done.code == 0, done.err
    assert done.json["answers"] == 1
