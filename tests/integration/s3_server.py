"""A real S3 server for tests: Ceph's gateway, started once per session by ceph.sh beside this file."""

import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import fsspec
import pytest

from jobs.ray_start import free_ports
from pipeline import store
from tests.integration.needs import lacking

SCRIPT = Path(__file__).with_name("ceph.sh")
PROGRAMS = {"radosgw": "radosgw", "ceph-mon": "ceph-mon", "ceph-osd": "ceph-osd", "ceph": "ceph-common"}


@dataclass(frozen=True, slots=True)
class S3Server:
    endpoint: str
    access_key: str
    secret_key: str

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to reach it."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
        }


@dataclass(frozen=True, slots=True)
class Bucket:
    server: S3Server
    uri: str
    """s3://NAME, empty when the test begins."""


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """The server, real Ceph: its programs are system packages, which `make` may not install."""
    missing = sorted({package for program, package in PROGRAMS.items() if not shutil.which(program)})
    if missing:
        lacking(f"no S3 server to start: install the Debian packages {' '.join(missing)}")
    port, monitor_port = map(str, free_ports(2))
    server = S3Server(f"http://127.0.0.1:{port}", uuid.uuid4().hex, uuid.uuid4().hex)
    folder = tempfile.mkdtemp(prefix="reelsift-s3-")  # short: paths of unix sockets are limited
    try:
        subprocess.run(
            [SCRIPT, "start", folder, port, monitor_port, server.access_key, server.secret_key],
            check=True,
            timeout=600,
        )
        yield server
    finally:
        subprocess.run([SCRIPT, "stop", folder], check=True)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def s3(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """A fresh bucket, with this process's environment pointing at its server until the test ends."""
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    fsspec.get_filesystem_class(
        "s3"
    ).clear_instance_cache()  # clients read the environment when they are built
    bucket = Bucket(s3_server, f"s3://test-{uuid.uuid4().hex[:12]}")
    fs, name = store.open_fs(bucket.uri)
    fs.call_s3("create_bucket", Bucket=name)
    return bucket
