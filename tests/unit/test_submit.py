"""How a cluster is asked, and how its answers are told."""

import importlib.metadata
import json
import os
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest
import requests

from jobs import submit
from pipeline.errors import ClusterError, ConfigError

RAY = importlib.metadata.version("ray")


def test_a_dashboard_that_is_away_for_a_moment_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submit, "POLL_S", 0.0)

    class Flaky:
        """Stands in for a client whose connection breaks."""

        def __init__(self, times: float) -> None:
            self.times = times

        def get_job_status(self, job_id: str) -> str:
            self.times -= 1
            if self.times >= 0:
                raise requests.ConnectionError("refused")
            return f"{job_id} runs"

    assert submit._status(Flaky(3), "a") == "a runs"
    monkeypatch.setattr(submit, "AWAY_S", 0.0)
    with pytest.raises(ClusterError, match="reelsift submit --follow a"):
        submit._status(Flaky(float("inf")), "a")


@pytest.mark.parametrize(
    ("command", "found"),
    [([], "found nothing"), (["anwser"], "found 'anwser'"), (["submit"], "found 'submit'")],
)
def test_only_commands_are_submitted(command: list[str], found: str) -> None:
    with pytest.raises(ConfigError, match=found):
        submit.check_command(command)


def test_a_variable_that_is_not_set_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE", "1")
    monkeypatch.delenv("NOT_HERE", raising=False)
    assert submit.read_variables(["HERE"]) == {"HERE": "1"}
    with pytest.raises(ConfigError, match="--env NOT_HERE: not set"):
        submit.read_variables(["HERE", "NOT_HERE"])


@contextmanager
def dashboard(answers: dict[str, tuple[int, str]]) -> Generator[tuple[str, list[str]]]:
    """Serve answers by path, as a cluster's dashboard would; yield its address and the paths that were asked for."""
    asked: list[str] = []

    class Dashboard(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            status, text = answers.get(self.path, (404, "no such page"))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        do_POST = do_PUT = do_GET

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    server = HTTPServer(("127.0.0.1", 0), Dashboard)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "localhost", "ray://127.0.0.1:10001", "auto", ""])
def test_an_address_that_is_none_is_refused_at_once(address: str) -> None:
    with pytest.raises(ConfigError, match=r"--address '.*expected the URL .* http://host:8265"):
        submit.main(["--address", address, "--", "show", "s3://bucket/out"])


@pytest.mark.parametrize("variable", ["RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"])
def test_the_address_that_is_given_goes_before_those_of_the_shell(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "http://127.0.0.1:1")
    with dashboard({"/api/version": version(RAY), "/api/jobs/a": job(status="STOPPED")}) as (address, _):
        assert submit.connect(address).get_address() == address
    assert os.environ[variable] == "http://127.0.0.1:1"


def test_a_dashboard_that_goes_away_in_between_is_told() -> None:
    with dashboard({"/api/version": version(RAY)}) as (address, _):
        client = submit.connect(address)
    with pytest.raises(ClusterError, match=rf"{address} has answered and now does not: .*nothing was sent"):
        submit.check_version(client, address)
    with pytest.raises(
        ClusterError, match=rf"{address} has answered and now does not: .*`ray job list` tells"
    ):
        submit.start(client, "python", "s3://bucket/sent.zip", {}, None)


def test_a_token_that_is_refused_in_between_is_told() -> None:
    answers = {"/api/version": version(RAY)}
    with dashboard(answers) as (address, _):
        client = submit.connect(address)
        answers["/api/version"] = answers["/api/jobs/"] = (401, "no")
        with pytest.raises(ClusterError, match="refuses the token"):
            submit.check_version(client, address)
        with pytest.raises(ClusterError, match="refuses the token"):
            submit.start(client, "python", "s3://bucket/sent.zip", {}, None)


def version(ray: str) -> tuple[int, str]:
    return 200, json.dumps({"version": "4", "ray_version": ray, "ray_commit": "x", "session_name": "y"})


def job(**values: object) -> tuple[int, str]:
    return 200, json.dumps({"type": "SUBMISSION", "submission_id": "a", "entrypoint": "x", **values})


def test_a_cluster_of_another_ray_is_refused_before_anything_is_sent() -> None:
    with (
        dashboard({"/api/version": version("2.59.0")}) as (address, asked),
        pytest.raises(ClusterError, match=r"runs Ray 2\.59\.0.*is for Ray 2\.60.*nothing was sent"),
    ):
        submit.main(["--address", address, "--", "show", "s3://bucket/out"])
    assert set(asked) == {"/api/version"}


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ((200, "{}"), "the answer has no 'ray_version'"),
        ((200, "<html>"), "no Ray dashboard answers at"),
        ((502, "bad gateway"), "no Ray dashboard answers at .*502"),
        ((403, "no"), "the cluster at http.* refuses the token"),
    ],
)
def test_what_answers_and_is_no_dashboard(answer: tuple[int, str], says: str) -> None:
    with dashboard({"/api/version": answer}) as (address, _), pytest.raises(ClusterError, match=says):
        submit.connect(address)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ((404, "Job a does not exist"), "no job 'a' on this cluster"),
        ((500, "the head is busy"), r"has been away for 0 s .*status code 500.*--follow a"),
        ((401, "no"), "refuses the token"),
    ],
)
def test_why_nothing_is_known_of_a_job(
    answer: tuple[int, str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submit, "AWAY_S", 0.0)
    answers = {"/api/version": version(RAY), "/api/jobs/a": answer}
    with dashboard(answers) as (address, _), pytest.raises(ClusterError, match=says):
        submit.main(["--address", address, "--follow", "a"])


@pytest.mark.filterwarnings("ignore:ssl=None is deprecated:DeprecationWarning")  # Ray's own client says so
@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({"status": "SUCCEEDED", "driver_exit_code": 0}, 0),
        ({"status": "STOPPED"}, 130),
        ({"status": "FAILED", "driver_exit_code": 1}, 1),
        ({"status": "FAILED", "driver_exit_code": 2}, 2),
        ({"status": "FAILED", "driver_exit_code": -9, "message": "killed"}, 3),
        ({"status": "FAILED", "message": "never began"}, 3),
    ],
)
def test_the_exit_code_is_the_jobs(
    found: dict[str, object], expected: int, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = {"/api/version": version(RAY), "/api/jobs/a": job(**found)}
    with dashboard(answers) as (address, _):
        assert submit.main(["--address", address, "--follow", "a"]) == expected
    assert str(found.get("message", "")) in capsys.readouterr().err
