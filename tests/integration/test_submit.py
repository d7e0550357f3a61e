"""Jobs of a real cluster that asks for a token: submitted, followed, refused, stopped."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.ray_start import free_ports
from pipeline import store
from tests.integration.conftest import Finished
from tests.integration.ray_head import QUIET, RAY, ROOT, ray_head
from tests.integration.s3_server import Bucket

pytestmark = pytest.mark.needs_ceph

TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "tests-only-" + "0" * 32}
S3_VARIABLES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION")


@pytest.fixture(scope="module")
def dashboard() -> Iterator[str]:
    """The dashboard of a head of its own."""
    port, web, agent, grpc, metrics, client = free_ports(6)
    # `python` of the cluster's image is the one with the dependencies
    path = f"{RAY.parent}{os.pathsep}{os.environ['PATH']}"
    with ray_head(
        "--include-dashboard=true", f"--dashboard-port={web}", "--dashboard-host=127.0.0.1",
        f"--dashboard-agent-listen-port={agent}", f"--dashboard-agent-grpc-port={grpc}",
        f"--metrics-export-port={metrics}", f"--ray-client-server-port={client}", port=port, PATH=path, **TOKEN,
    ):  # fmt: skip
        yield f"http://127.0.0.1:{web}"


def submit(dashboard: str, *args: object, folder: Path = ROOT, **environment: str) -> Finished:
    command = [sys.executable, "-m", "jobs", "submit", "--address", dashboard, *map(str, args)]
    merged = {**os.environ, **QUIET, **TOKEN, **environment}
    merged.pop("RAY_ADDRESS", None)
    return Finished(
        subprocess.run(command, cwd=folder, env=merged, capture_output=True, text=True, timeout=900)
    )


def wait_for_dashboard(dashboard: str) -> None:
    """The dashboard is up a few seconds after the head."""
    for _ in range(60):
        if "refuses" not in (err := submit(dashboard, "--follow", "nothing").err) and "answers" not in err:
            return
        time.sleep(1)
    pytest.fail(f"no dashboard at {dashboard}: {err}")


def test_a_job_on_a_cluster_with_a_token(dashboard, s3: Bucket, clips, ask, tmp_path):
    wait_for_dashboard(dashboard)
    source, out = store.join(s3.uri, "in"), store.join(s3.uri, "out")
    for path in sorted(clips.iterdir()):
        store.write_bytes(store.join(source, path.name), path.read_bytes())
    questions = ask({"query_id": "rabbit", "kind": "find", "text": "a rabbit"})
    passed = [f"--env={name}" for name in S3_VARIABLES if name in os.environ]
    # from another folder: the package and the questions travel
    answer = ("--", "answer", f"{source}/", questions, f"{out}/", "--window.sample-fps", "1")

    refused = submit(dashboard, *passed, *answer, RAY_AUTH_TOKEN="wrong-" + "0" * 32, folder=tmp_path)
    assert refused.code == 3
    assert "refuses the token" in refused.err
    assert "RAY_AUTH_TOKEN_PATH" in refused.err

    done = submit(dashboard, *passed, "--id", "first", *answer, folder=tmp_path, PYTHONPATH=str(ROOT))
    assert done.code == 0, done.err + done.out
    assert done.json["failed_videos"] == 1
    assert done.json["answers"] >= 3
    assert done.json["out"] == f"{out}/"
    again = submit(dashboard, *passed, "--id", "first", *answer)
    assert again.code == 3
    assert "first" in again.err

    # the form that the documents name, from a checkout as git has it
    checkout = tmp_path / "checkout"
    files = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    for name in filter(None, files.split("\0")):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, checkout / name)
    shutil.copyfile(questions, checkout / "questions.jsonl")
    theirs = store.join(s3.uri, "theirs")
    variables = {name: os.environ[name] for name in S3_VARIABLES if name in os.environ}
    plain = subprocess.run(
        [RAY, "job", "submit", "--address", dashboard, "--runtime-env-json", json.dumps({"env_vars": variables}),
         "--working-dir", ".", "--", "python", "-m", "jobs.answer", store.join(source, "bikes.mp4"), "questions.jsonl",
         f"{theirs}/", "--window.sample-fps", "1"],
        cwd=checkout, env={**os.environ, **QUIET, **TOKEN}, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert plain.returncode == 0, plain.stderr + plain.stdout
    assert "succeeded" in plain.stdout
    assert any(entry.uri.endswith(".parquet") for entry in store.list_files(store.join(theirs, "verdicts")))

    wrong = submit(dashboard, "--", "answer", source, questions)
    assert wrong.code == 2, wrong.err
    assert "expected VIDEOS QUERIES OUT" in wrong.err

    unknown = submit(dashboard, "--stop", "nobody")
    assert unknown.code == 3
    assert "no job 'nobody'" in unknown.err
    held = ("--score.scorer", "plugins_sample:HELD", "--score.model", tmp_path / "never")
    waits = ("answer", source, questions, store.join(s3.uri, "slow"), *held)
    own = ("--ship", ROOT / "tests" / "plugins_sample.py")
    slow = submit(dashboard, *passed, *own, "--no-wait", "--id", "slow", "--", *waits)
    assert slow.out.strip() == "slow", slow.err
    assert submit(dashboard, "--stop", "slow").code == 0
    assert submit(dashboard, "--follow", "slow").code == 130


def test_no_cluster_is_said_at_once(tmp_path):
    started = time.monotonic()
    found = submit("http://127.0.0.1:1", "--", "show", tmp_path)
    assert found.code == 3
    assert "no Ray dashboard answers" in found.err
    assert time.monotonic() - started < 600
