"""`reelsift submit -- answer VIDEOS QUERIES OUT ...`: run a command as a job of a Ray cluster, and follow it.

The package, the questions of `answer` and what `--ship` names are sent along, so the cluster's image needs the
dependencies only. Anything else a command names must be visible from all machines: a bucket, or a shared folder.
"""

import argparse
import asyncio
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jobs.working_dir import pack
from pipeline.errors import ClusterError, ConfigError

EPILOG = """\
examples:
  reelsift submit -- answer s3://bucket/cams/ questions.jsonl s3://bucket/out/ --recipe world
  reelsift submit --ship mine.py -- answer s3://bucket/cams/ questions.jsonl s3://bucket/out/ --plan.router mine:route
  reelsift submit --stop ID

The address is that of the cluster's dashboard (RAY_API_SERVER_ADDRESS, else http://127.0.0.1:8265; `ray dashboard
cluster.yaml` forwards it from AWS). To a cluster that asks for a token, RAY_AUTH_MODE=token sends the one in
RAY_AUTH_TOKEN, in the file that RAY_AUTH_TOKEN_PATH names, or in ~/.ray/auth_token. Without RAY_AUTH_MODE none is sent.
Interrupting this command leaves the job running.

The exit code is the job's own: 0 done, 1 more rows failed than allowed, 2 wrong usage, 3 the run broke; 130 = stopped.
"""
OF_DASHBOARD = "RAY_API_SERVER_ADDRESS"
LOCAL_DASHBOARD = "http://127.0.0.1:8265"
STOPPED, BROKE = 130, 3
POLL_S = 0.5
AWAY_S = 60.0
"""How long the dashboard may be out of reach."""
STOP_S = 60.0
"""How long a job may take to end once it is told to."""


def main(argv: list[str]) -> int:
    """Submit, follow or stop a job; return its exit code.

    Raises:
        ConfigError: no command, an address that is none, or a file that is too large to be sent.
        ClusterError: no cluster answers, it runs another Ray, it refuses the token, or the job is unknown.
    """
    parser = argparse.ArgumentParser(
        prog="reelsift submit",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--address", default=os.environ.get(OF_DASHBOARD, LOCAL_DASHBOARD))
    parser.add_argument("--id", default=None, help="name of the job (default: made up by the cluster)")
    parser.add_argument(
        "--env",
        action="append",
        default=[],
        metavar="NAME",
        help="hand a variable of this shell on to the job;\nwho sees the dashboard sees it",
    )
    parser.add_argument(
        "--ship",
        action="append",
        default=[],
        metavar="PATH",
        help="send a .py file or a package's folder along, so that its plug-ins\nare found by import path",
    )
    parser.add_argument("--no-wait", action="store_true", help="print the job's id and return")
    parser.add_argument("--follow", metavar="ID", help="follow a job that was submitted before")
    parser.add_argument("--stop", metavar="ID", help="stop a job; what it has committed stays")
    split = argv.index("--") if "--" in argv else len(argv)
    given, command = parser.parse_args(argv[:split]), argv[split + 1 :]
    check_address(given.address)
    if given.stop or given.follow:
        client = connect(given.address)
        return stop(client, given.stop) if given.stop else follow(client, given.follow)
    check_command(command)
    variables = read_variables(given.env)
    with tempfile.TemporaryDirectory(prefix="reelsift-submit-") as folder:
        entrypoint = shlex.join(["python", "-m", "jobs", *pack(command, Path(folder), given.ship)])
        client = connect(given.address)
        check_version(client, given.address)
        job_id = start(client, entrypoint, folder, variables, given.id)
    if given.no_wait:
        print(job_id)
        return 0
    print(f"job {job_id} at {given.address}; interrupting leaves it running", file=sys.stderr)
    return follow(client, job_id)


def check_address(address: str) -> None:
    """Refuse what is no address of a dashboard; Ray would take it for one of the cluster, and wait for it.

    Raises:
        ConfigError: found and expected.
    """
    if not address.startswith(("http://", "https://")):
        msg = (
            f"--address {address!r} (else {OF_DASHBOARD}): expected the URL of the cluster's dashboard, as"
            " http://host:8265; 6379 and 10001 are ports of other services"
        )
        raise ConfigError(msg)


def check_command(command: Sequence[str]) -> None:
    """Refuse what is no command of this program.

    Raises:
        ConfigError: nothing behind `--`, or another command.
    """
    from jobs.__main__ import COMMANDS

    known = [name for name in COMMANDS if name != "submit"]
    if not command or command[0] not in known:
        found = f"found {command[0]!r}" if command else "found nothing"
        msg = (
            f"expected `--` and a command ({', '.join(known)}) behind it, {found}; see reelsift submit --help"
        )
        raise ConfigError(msg)


def read_variables(names: Sequence[str]) -> dict[str, str]:
    """Return the named variables of this shell.

    Raises:
        ConfigError: one is not set.
    """
    if missing := [name for name in names if name not in os.environ]:
        msg = f"--env {', '.join(missing)}: not set in this shell; export it, or leave it out"
        raise ConfigError(msg)
    return {name: os.environ[name] for name in names}


def connect(address: str) -> Any:
    """Return a client of a cluster's dashboard.

    Raises:
        ClusterError: nobody answers, or the token is missing or wrong.
    """
    import logging

    import requests
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    logging.getLogger("ray").setLevel(logging.ERROR)
    # Ray lets both go before what it is told
    hidden = {name: os.environ.pop(name) for name in (OF_DASHBOARD, "RAY_ADDRESS") if name in os.environ}
    try:
        return JobSubmissionClient(address)
    except AuthenticationError as error:
        raise ClusterError(_token_refused(f"the cluster at {address}", error)) from error
    # KeyError: what answers is no dashboard
    except (ConnectionError, RuntimeError, ValueError, KeyError, requests.RequestException) as error:
        found = f"the answer has no {error}" if isinstance(error, KeyError) else _first_line(error)
        msg = (
            f"no Ray dashboard answers at {address}: {found}; give --address, and forward the port of a"
            " remote head first, as `ray dashboard cluster.yaml` does"
        )
        raise ClusterError(msg) from error
    finally:
        os.environ.update(hidden)


@contextmanager
def _reachable(address: str, then: str) -> Generator[None]:
    """Say what to do where a dashboard that has answered does so no more.

    Raises:
        ClusterError: it is gone, or refuses the token.
    """
    import requests
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError as error:
        raise ClusterError(_token_refused(f"the cluster at {address}", error)) from error
    except requests.RequestException as error:
        msg = f"the dashboard at {address} has answered and now does not: {_first_line(error)}; {then}"
        raise ClusterError(msg) from error


def _token_refused(who: str, error: Exception) -> str:
    from jobs.cluster import SET_TOKEN

    return f"{who} refuses the token (HTTP 401 or 403): {_first_line(error)}; {SET_TOKEN}"


def check_version(client: Any, address: str) -> None:
    """Refuse a cluster that runs another Ray, before anything is sent there.

    Raises:
        ClusterError: both versions, or the dashboard is gone.
    """
    from importlib.metadata import version

    with _reachable(address, "nothing was sent; run the same command again when it is back"):
        theirs = client._do_request("GET", "/api/version").json().get("ray_version", "")
    ours = version("ray")
    if theirs != ours:
        msg = (
            f"the cluster at {address} runs Ray {theirs or '(unknown)'}, and what would be sent is for Ray {ours};"
            f" nothing was sent. Start the cluster with Ray {ours} (the image in cluster.yaml names it), or install"
            f" ray=={theirs or '...'} and the release of reelsift that goes with it here"
        )
        raise ClusterError(msg)


def start(client: Any, entrypoint: str, folder: str, variables: dict[str, str], job_id: str | None) -> str:
    """Submit a job and return its id.

    Raises:
        ClusterError: there is such a job, the cluster cannot take it, or the dashboard is gone.
    """
    environment = {"PYTHONUNBUFFERED": "1", **variables}
    then = "once it is back, `ray job list` tells whether it took the job; if not, run the same command again"
    try:
        with _reachable(client.get_address(), then):
            return client.submit_job(
                entrypoint=entrypoint,
                submission_id=job_id,
                runtime_env={"working_dir": folder, "env_vars": environment},
            )
    except RuntimeError as error:
        msg = f"the cluster does not take job {job_id or ''}: {_last_line(error)}"
        raise ClusterError(msg) from error


def follow(client: Any, job_id: str) -> int:
    """Print a job's log as it grows, and return its exit code.

    Raises:
        ClusterError: there is no such job.
    """
    _status(client, job_id)
    printed = 0
    while True:
        printed = asyncio.run(_print_log(client, job_id, printed))
        if _status(client, job_id).is_terminal():
            break
        time.sleep(POLL_S)  # the connection broke, or the log was closed a moment before the job
    found = _ask(client.get_job_info, job_id)
    status = str(found.status.value)
    print(f"job {job_id}: {status.lower()}", file=sys.stderr)
    if status == "SUCCEEDED":
        return 0
    if status == "STOPPED":
        return STOPPED
    code = found.driver_exit_code
    if code is None or code < 0:  # no exit of its own: a signal ended it, or it never began
        print(found.message or "", file=sys.stderr)
        return BROKE
    return code or BROKE


async def _print_log(client: Any, job_id: str, printed: int) -> int:
    """Print what a job has written behind the first `printed` characters until it ends or the connection breaks."""
    import aiohttp

    seen = 0
    try:
        async for text in client.tail_job_logs(job_id):
            sys.stdout.write(text[max(0, printed - seen) :])
            sys.stdout.flush()
            seen += len(text)
    except (RuntimeError, aiohttp.ClientError):
        pass
    return max(printed, seen)


def stop(client: Any, job_id: str) -> int:
    """Stop a job and wait for its end; return 0, also where it had ended before.

    Raises:
        ClusterError: there is no such job, or it does not end.
    """
    if not _status(client, job_id).is_terminal():
        _ask(client.stop_job, job_id)
    deadline = time.monotonic() + STOP_S
    while not (status := _status(client, job_id)).is_terminal():
        if time.monotonic() > deadline:
            msg = f"job {job_id} was told to stop {STOP_S:.0f} s ago and is still {status.value.lower()}; see its log"
            raise ClusterError(msg)
        time.sleep(POLL_S)
    print(f"job {job_id}: {status.value.lower()}", file=sys.stderr)
    return 0


def _status(client: Any, job_id: str) -> Any:
    return _ask(client.get_job_status, job_id)


def _ask(what: Callable[[str], Any], job_id: str) -> Any:
    """Return what a cluster says of a job; a dashboard that is away for a moment is waited for.

    Raises:
        ClusterError: there is no such job, no dashboard any more, or it refuses the token.
    """
    import requests
    from ray.exceptions import AuthenticationError

    deadline = time.monotonic() + AWAY_S
    while True:
        try:
            return what(job_id)
        except AuthenticationError as error:
            raise ClusterError(_token_refused("the cluster", error)) from error
        except (RuntimeError, requests.RequestException) as error:
            if "status code 404" in str(error):  # Ray tells of every answer but 200 with a RuntimeError
                msg = f"no job {job_id!r} on this cluster ({_last_line(error)}); `ray job list` names those there are"
                raise ClusterError(msg) from error
            if time.monotonic() > deadline:
                msg = (
                    f"the cluster's dashboard has been away for {AWAY_S:.0f} s ({_first_line(error)}); job {job_id} may"
                    f" well go on: come back with `reelsift submit --follow {job_id}`"
                )
                raise ClusterError(msg) from error
        time.sleep(POLL_S)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _last_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
