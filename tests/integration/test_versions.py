"""A cluster that runs another Ray or Python: refused in seconds, with both versions."""

import json
import subprocess
import sys
import time

import pytest
import ray

from tests.integration.ray_head import QUIET

GOOD = {"query_id": "q", "kind": "find", "text": "a dog"}

PRETEND = """
import json, sys
from ray._common.usage import usage_constants, usage_lib
from ray._private import ray_constants
from ray._raylet import GcsClient

gcs = GcsClient(sys.argv[1])
before = usage_lib.get_cluster_metadata(gcs)
wanted = json.dumps({**before, **json.loads(sys.argv[2])}).encode()
gcs.internal_kv_put(
    usage_constants.CLUSTER_METADATA_KEY, wanted, overwrite=True, namespace=ray_constants.KV_NAMESPACE_CLUSTER
)
print(json.dumps({name: before[name] for name in ("ray_version", "python_version")}))
"""


@pytest.fixture
def another_version(ray_address):
    """What the head has written down about itself says another version for a while."""
    import os

    def pretend(versions: dict) -> dict:
        command = [sys.executable, "-c", PRETEND, ray_address, json.dumps(versions)]
        said = subprocess.run(
            command, env={**os.environ, **QUIET}, capture_output=True, text=True, timeout=900
        )
        assert said.returncode == 0, said.stderr
        return json.loads(said.stdout.strip().splitlines()[-1])

    before = pretend({"ray_version": "2.59.0", "python_version": "3.10.4"})
    try:
        yield before
    finally:
        pretend(before)


def test_a_cluster_of_other_versions(another_version, reelsift, ask, clips, tmp_path, ray_address):
    started = time.monotonic()
    refused = reelsift("answer", clips, ask(GOOD), tmp_path / "out")
    assert refused.code == 3
    python = another_version["python_version"]
    assert (
        f"it runs Ray 2.59.0 on Python 3.10.4, this machine Ray {ray.__version__} on Python {python}"
        in refused.err
    )
    assert ray_address in refused.err
    assert "Traceback" not in refused.err
    assert not list((tmp_path / "out").glob("*/*.parquet")), "nothing was decoded"
    print(f"refused after {time.monotonic() - started:.1f} s")
