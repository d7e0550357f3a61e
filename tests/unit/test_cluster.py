"""A cluster that cannot be joined: the message says why, and what to do."""

import pytest
from ray._private.utils import check_version_info, compute_version_info

from jobs.cluster import explain_no_connection

RAY, PYTHON = compute_version_info()[:2]


def what_ray_says(ray: str, python: str) -> RuntimeError:
    """Ray's own exception for a cluster of these versions."""
    with pytest.raises(RuntimeError) as caught:
        check_version_info({"ray_version": ray, "python_version": python}, "node 10.0.0.1")
    return caught.value


@pytest.mark.parametrize(
    ("ray", "python", "wrong"),
    [
        ("2.59.1", PYTHON, "; Ray must be"),
        (RAY, "3.12.1", "; Python must be"),
        ("2.9.0", "3.9.2", "; Ray and Python"),
    ],
)
def test_both_versions_are_named(ray, python, wrong):
    said = explain_no_connection("10.0.0.1:6379", what_ray_says(ray, python))
    assert f"it runs Ray {ray} on Python {python}, this machine Ray {RAY} on Python {PYTHON}" in said
    assert wrong in said
    assert "10.0.0.1:6379" in said
    assert "reelsift submit" in said


def test_anything_else_is_passed_on():
    said = explain_no_connection("", Exception("The current node timed out during startup"))
    assert said.startswith("cannot start Ray on this machine: The current node timed out during startup; ")
    said = explain_no_connection("10.0.0.1:6379", ValueError("no such session"))
    assert said.startswith("cannot reach Ray at 10.0.0.1:6379: no such session; check RAY_ADDRESS")
