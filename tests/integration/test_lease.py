"""One driver per output folder, on a real S3 server: others are refused, waited for or replaced.

What may not be written is said before anything is decoded.
"""

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest

from pipeline import lease, store
from tests import videos
from tests.integration.conftest import QUIET, ROOT
from tests.integration.s3_server import Bucket

pytestmark = pytest.mark.needs_ceph

QUERIES = [{"query_id": "bike", "kind": "find", "text": "a bicycle"}]
NO_RAY = {"RAY_ADDRESS": "127.0.0.1:1"}
"""Nobody listens there: whoever decodes anything has another error."""


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


@pytest.mark.timeout(600)
def test_two_drivers_on_one_bucket(s3: Bucket, ray_address, reelsift, clip, ask):
    out = store.join(s3.uri, "out")
    arguments = ("answer", str(clip), str(ask(*QUERIES)), out)
    first = subprocess.Popen(
        [sys.executable, "-m", "jobs", *arguments],
        cwd=ROOT,
        env={**os.environ, **QUIET, "RAY_ADDRESS": ray_address},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        while lease.read(out) is None and first.poll() is None:
            time.sleep(0.05)
        second = reelsift(*arguments, **NO_RAY)
        assert second.code == 3, second.err
        for word in (
            f"another driver writes to {out}",
            f"process {first.pid} on ",
            "Wait until it has finished",
        ):
            assert word in second.err
        printed, err = first.communicate(timeout=150)
    finally:
        first.kill()
        first.communicate()
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
