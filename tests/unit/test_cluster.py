"""A cluster that cannot be joined: the message says why, and what to do."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import grpc
import pytest
import ray
from ray._private.utils import check_version_info, compute_version_info

from jobs import cluster
from jobs.cluster import ASKS_FOR_TOKEN, check_token, explain_no_connection
from pipeline.errors import ClusterError

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
    assert "RAY_AUTH_MODE=token, without which Ray sends none" in said


@pytest.mark.parametrize(
    ("address", "num_failures", "num_tries"), [("local", 2, 3), ("local", 9, 5), ("ray:1", 9, 1)]
)
def test_ray_is_started_again_where_a_machine_was_too_busy(
    monkeypatch, caplog, address, num_failures, num_tries
):
    did = []

    def init(**options):
        did.append(options["address"])
        if did.count(address) <= num_failures:
            raise Exception("The current node timed out during startup")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: did.append("shutdown"))
    with pytest.raises(Exception, match="timed out") if num_failures > num_tries else nullcontext():
        cluster._init({"address": address})
    assert did == [address, *["shutdown", address] * (num_tries - 1)]
    assert len(caplog.records) == num_tries - 1


@pytest.fixture
def answering():
    """Start a server that answers a driver's first question with a status; give its address."""
    servers = []

    def start(status):
        def answer(request, context):
            del request
            if status is not grpc.StatusCode.OK:
                context.abort(status, "InvalidAuthToken")
            return b""

        service, method = ASKS_FOR_TOKEN[1:].split("/")
        handlers = {method: grpc.unary_unary_rpc_method_handler(answer)}
        server = grpc.server(ThreadPoolExecutor(1))
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        servers.append(server)
        return f"127.0.0.1:{port}"

    yield start
    for server in servers:
        server.stop(None).wait()


def test_a_refused_token_is_said_at_once(answering):
    address = answering(grpc.StatusCode.UNAUTHENTICATED)
    with pytest.raises(
        ClusterError, match=rf"{address} refuses .* token.*; set RAY_AUTH_MODE=token, without which"
    ):
        check_token(address)


@pytest.mark.parametrize("status", [grpc.StatusCode.OK, grpc.StatusCode.UNIMPLEMENTED])
def test_any_other_answer_is_left_to_ray(answering, status):
    check_token(answering(status))


@pytest.mark.parametrize("address", ["", "auto", "ray://127.0.0.1:1", "127.0.0.1:1"])
def test_where_nobody_can_be_asked_it_is_left_to_ray(address):
    check_token(address)
