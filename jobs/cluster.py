"""Ray: connecting to it and keeping it quiet."""

import logging
import os
import re
import socket
import warnings
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from jobs import own_machine
from jobs.placement import NO_PROGRESS_S
from jobs.ray_start import TRIES
from pipeline.errors import ClusterError

if TYPE_CHECKING:
    from ray.data import DataContext

logger = logging.getLogger(__name__)

CONNECT_S = 10
"""Seconds to wait for a cluster's port to answer."""

MISMATCH = re.compile(
    r"Version mismatch:.*?Ray: (\S+)\s+Python: (\S+).*?Ray: (\S+)\s+Python: (\S+)", re.DOTALL
)
"""What Ray says when a driver's versions are not those of the cluster: the cluster's first."""

QUIET = {
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SCHEDULER_EVENTS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
"""Read by Ray at import; set before it."""


QUEUES = {"RAY_DATA_DOWNSTREAM_CAPACITY_OBJECT_STORE_BUDGET_UTIL_THRESHOLD": "0"}
"""Read by Ray Data at import. By default decoding runs ahead of a slower scorer until half of the object store is full;
with 0, until twice as much waits as the scorers are at work on, whatever the length of the archive."""
ASKS_FOR_TOKEN = "/ray.rpc.NodeInfoGcsService/GetClusterId"
"""The first thing that a driver asks of a cluster; it changes nothing there."""
SET_TOKEN = (
    "set RAY_AUTH_MODE=token, without which Ray sends none, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the token of"
    " its head, which lies in ~/.ray/auth_token there"
)


@contextmanager
def connected(*, whole: bool = False) -> Generator[None]:
    """Join the cluster of RAY_ADDRESS (as a submitted job does), else start Ray on this machine; leave it at the end.

    Args:
        whole: with all that Ray runs on a cluster, and as it runs there, also on this machine: for Ray Train, and to
            measure what a cluster costs. Else own_machine.py says what is different.

    Raises:
        ClusterError: the address does not answer or refuses the token, or its Ray or Python is another.
    """
    for name, value in (QUIET | QUEUES).items():
        os.environ.setdefault(name, value)
    address = os.environ.get("RAY_ADDRESS", "")
    _check_listening(address)
    if not address:
        # on one's own machine Ray's internal warnings help nobody; on a cluster they belong into its logs
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        # few CPUs, several kinds of tasks: Ray would end idle workers and start Python anew every few seconds
        os.environ.setdefault("RAY_num_workers_soft_limit", str(2 * _num_cpus() + 4))
    import ray

    check_token(address)
    options: dict[str, Any] = {"address": address or "local"}
    is_lean = not address and not whole
    if not address:
        options |= {"num_cpus": _num_cpus(), "include_dashboard": False}
    with own_machine.in_turn() if is_lean else nullcontext():
        try:
            with own_machine.started() if is_lean else nullcontext():
                _init(options)
        except Exception as error:  # a machine too busy to start Ray in time makes it raise Exception itself
            raise ClusterError(explain_no_connection(address, error)) from error
        context = _settle()
        with own_machine.used(context) if is_lean else nullcontext():
            try:
                yield
            finally:
                ray.shutdown()  # with the parts that its datasets ran with


def _init(options: dict[str, Any], tries: int = TRIES) -> None:
    """Join a cluster; or start Ray, anew where a machine is too busy for the 30 s that Ray gives its processes.

    What a failed start has begun idles beside the next one and ends with this process: Ray ends it then.
    """
    import ray

    try:
        ray.init(logging_level=logging.ERROR, log_to_driver=False, **options)
    except Exception as error:
        if options["address"] != "local" or tries == 1:
            raise
        logger.warning("Ray did not start and is started again: %s", error)
        ray.shutdown()
        _init(options, tries - 1)


def explain_no_connection(address: str, error: Exception) -> str:
    """Return why a cluster could not be joined; other versions of Ray or Python are told apart from the rest."""
    if not address:
        return f"cannot start Ray on this machine: {error}; give it memory and CPU time, and run the command again"
    found = MISMATCH.search(str(error))
    if found is None:
        return (
            f"cannot reach Ray at {address}: {error}; check RAY_ADDRESS; if it asks for a token, {SET_TOKEN}"
        )
    ray, python, our_ray, our_python = found.groups()
    wrong = [
        name
        for name, theirs, ours in (("Ray", ray, our_ray), ("Python", python, our_python))
        if theirs != ours
    ]
    return (
        f"the cluster at {address} cannot be joined from here: it runs Ray {ray} on Python {python}, this machine Ray"
        f" {our_ray} on Python {our_python}; {' and '.join(wrong)} must be the same to the last digit. Install the"
        " cluster's versions here, start the cluster with these, or run the command on the cluster with `reelsift"
        " submit`, for which Ray alone must be the same"
    )


def _num_cpus() -> int:
    """Return this machine's CPUs, two at least: one for the actors, one for the tasks that feed them."""
    return max(2, len(os.sched_getaffinity(0)))


def _check_listening(address: str) -> None:
    """Refuse an address where nobody listens, at once: Ray itself keeps trying for minutes.

    Raises:
        ClusterError: the address, and what to check.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
    except OSError as error:
        msg = f"no Ray cluster listens at RAY_ADDRESS={address} ({error}); start it, correct or unset the variable"
        raise ClusterError(msg) from error


def check_token(address: str) -> None:
    """Refuse a cluster that refuses the token, at once: Ray itself keeps trying, and then does not say why.

    Any other answer, and none, is left for Ray to tell.

    Raises:
        ClusterError: the address, what was sent, and what to set.
    """
    import grpc
    from ray._raylet import AuthenticationTokenLoader  # pyright: ignore[reportAttributeAccessIssue]
    from ray.exceptions import AuthenticationError

    if not re.fullmatch(r"[^/]+:\d+", address):
        return
    try:
        token = AuthenticationTokenLoader.instance().get_token_for_http_header()
    except AuthenticationError as error:
        msg = f"RAY_AUTH_MODE=token, and Ray finds no token to send to {address}; {SET_TOKEN}"
        raise ClusterError(msg) from error
    headers = [(name.lower(), value) for name, value in token.items()]
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            ask: Any = channel.unary_unary(ASKS_FOR_TOKEN)
            ask(b"", timeout=CONNECT_S, metadata=headers)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.UNAUTHENTICATED:  # pyright: ignore[reportAttributeAccessIssue]
                sent = "the token that was sent" if headers else "a driver that sends no token"
                raise ClusterError(f"the cluster at {address} refuses {sent}; {SET_TOKEN}") from error


def _settle() -> "DataContext":
    """Set what every dataset of this process runs with, and return it."""
    from ray.data import DataContext

    from jobs import ray_stages

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    # stages are bounded for the sake of others; Ray thinks that somebody wanted more tasks
    warnings.filterwarnings("ignore", message="The maximum number of concurrent tasks for")
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.target_max_block_size = 32 << 20
    context.execution_no_progress_timeout_s = NO_PROGRESS_S
    context.max_errored_blocks = 0  # errors travel as rows; what still raises is a bug and must stop the run
    ray_stages.watch(context)
    return context
