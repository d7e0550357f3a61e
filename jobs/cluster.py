"""Ray: connecting to it, keeping it quiet, and refusing graphs that could never run on it."""

import logging
import os
import socket
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from actors.models import Device
from pipeline.config import JobConfig, PoolConfig
from pipeline.errors import ClusterError

logger = logging.getLogger(__name__)

DECODE_CPUS = 1.0
"""CPUs of one decoding task."""
LIGHT_CPUS = 0.2
"""CPUs of one planning, fetching or writing task; one of these and one decoding task must fit beside the actors."""
NO_PROGRESS_S = 1800
"""Seconds without one finished task after which a run is given up; covers the start of a GPU machine."""
WAIT_S = 60.0
"""Seconds after which it is said, again and again, that something is not there yet."""

CONNECT_S = 10
"""Seconds to wait for a cluster's port to answer."""

QUIET = {
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SCHEDULER_EVENTS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
"""Read by Ray at import; set before it."""


@dataclass(frozen=True, slots=True)
class Seat:
    """Where the actors of one pool sit."""

    device: Device
    num_cpus: float
    num_gpus: float
    pool: PoolConfig


@dataclass(frozen=True, slots=True)
class Placement:
    """Seats of both pools."""

    scorer: Seat
    answerer: Seat


@contextmanager
def connected() -> Generator[None]:
    """Join the cluster of RAY_ADDRESS (as a submitted job does), else start Ray on this machine; leave it at the end.

    Raises:
        ClusterError: the address does not answer.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    address = os.environ.get("RAY_ADDRESS", "")
    _check_listening(address)
    if not address:
        # on one's own machine Ray's internal warnings help nobody; on a cluster they belong into its logs
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        # few CPUs, several kinds of tasks: Ray would end idle workers and start Python anew every few seconds
        os.environ.setdefault("RAY_num_workers_soft_limit", str(2 * _num_cpus() + 4))
    import ray

    options: dict[str, Any] = {"address": address or "local"}
    if not address:
        options |= {"num_cpus": _num_cpus(), "include_dashboard": False}
    try:
        ray.init(logging_level=logging.ERROR, log_to_driver=False, **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        msg = (
            f"cannot reach Ray at {address or 'this machine'}: {error}; check RAY_ADDRESS and RAY_AUTH_TOKEN"
        )
        raise ClusterError(msg) from error
    try:
        _settle()
        yield
    finally:
        ray.shutdown()


def _num_cpus() -> int:
    """Return this machine's CPUs, two at least: one for the actors, one for the tasks that feed them."""
    return max(2, len(os.sched_getaffinity(0)))


def _check_listening(address: str) -> None:
    """Refuse an address where nobody listens, at once: Ray itself keeps trying for minutes.

    Raises:
        ClusterError: the address, and what to check.
    """
    host, separator, port = address.removeprefix("ray://").rpartition(":")
    if not separator or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
    except OSError as error:
        msg = f"no Ray cluster listens at RAY_ADDRESS={address} ({error}); start it, correct or unset the variable"
        raise ClusterError(msg) from error


def _settle() -> None:
    """Set what every dataset of this process runs with."""
    from ray.data import DataContext

    from jobs.progress import Progress

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.target_max_block_size = 32 << 20
    context.execution_no_progress_timeout_s = NO_PROGRESS_S
    context.max_errored_blocks = 0  # errors travel as rows; what still raises is a bug and must stop the run
    context.custom_execution_callback_classes = [Progress]


def place(config: JobConfig, *, scorer_gpu: bool, answerer_gpu: bool) -> Placement:
    """Return where the actors go on the connected cluster: GPUs where it has them, CPUs otherwise.

    A cluster that has no CPU yet starts from zero: what it can become is not known here, so it is not judged.

    Raises:
        ClusterError: the smallest pools and one task do not fit at the same time.
    """
    import ray

    have = ray.cluster_resources()
    cpus, gpus = have.get("CPU", 0.0), have.get("GPU", 0.0)
    placement = Placement(
        scorer=_seat(config.score.pool, wanted=scorer_gpu, present=gpus > 0),
        answerer=_seat(config.answer.pool, wanted=answerer_gpu, present=gpus > 0),
    )
    if cpus:
        check(placement, num_cpus=cpus, num_gpus=gpus)
    else:
        logger.info("the cluster has no workers yet: waiting for its autoscaler")
    return placement


def _seat(pool: PoolConfig, *, wanted: bool, present: bool) -> Seat:
    """Return a pool's seat: where its setting says, else on GPUs that it can use and that are there."""
    on_gpu = wanted and present if pool.device == "auto" else pool.device == "cuda"
    return Seat("cuda", 0.0, pool.num_gpus, pool) if on_gpu else Seat("cpu", pool.num_cpus, 0.0, pool)


def check(placement: Placement, *, num_cpus: float, num_gpus: float) -> None:
    """Refuse a graph whose smallest form cannot run: it would wait for ever without a word.

    Raises:
        ClusterError: needed and present CPUs or GPUs, and what to lower.
    """
    seats = (placement.scorer, placement.answerer)
    need_cpus = sum(seat.num_cpus * seat.pool.min_size for seat in seats) + DECODE_CPUS + LIGHT_CPUS
    need_gpus = sum(seat.num_gpus * seat.pool.min_size for seat in seats)
    for kind, need, have in (("CPU", need_cpus, num_cpus), ("GPU", need_gpus, num_gpus)):
        if need > have:
            msg = (
                f"the smallest pools need {need:g} {kind}s at the same time, one task to decode and one to write"
                f" included; the cluster has {have:g}. Lower --score.pool.min-size, --answer.pool.min-size or num-"
                f"{kind.lower()}s, or add machines"
            )
            raise ClusterError(msg)


@contextmanager
def reserved(seat: Seat) -> Generator[Any]:
    """Ask the cluster for a seat, outside any pool; yield its placement group, and give it back at the end.

    The seat may not be there yet: see `await_seat`.
    """
    from ray.util.placement_group import placement_group, remove_placement_group

    needed = {"CPU": seat.num_cpus, "GPU": seat.num_gpus}
    group = placement_group([{kind: amount for kind, amount in needed.items() if amount}])
    try:
        yield group
    finally:
        remove_placement_group(group)


def await_seat(group: Any, seat: Seat, who: str) -> None:
    """Wait until a reserved seat is there; returns at once while it is.

    Raises:
        ClusterError: it is not there after NO_PROGRESS_S; who needs what, and what is free.
    """
    import ray

    started = time.monotonic()
    while not group.wait(WAIT_S):
        if time.monotonic() - started >= NO_PROGRESS_S:
            have, free = ray.cluster_resources(), ray.available_resources()
            found = " and ".join(
                f"{free.get(kind, 0.0):g} of {have.get(kind, 0.0):g} {kind}s" for kind in ("CPU", "GPU")
            )
            msg = (
                f"{who} found no seat within {NO_PROGRESS_S:g} s: it needs {seat.num_cpus:g} CPUs and"
                f" {seat.num_gpus:g} GPUs on one machine, and {found} of the cluster are free. End what else runs"
                " there, lower --answer.pool.num-cpus or num-gpus, or add machines"
            )
            raise ClusterError(msg)
        logger.info("%s still waits for a seat of %g CPUs and %g GPUs", who, seat.num_cpus, seat.num_gpus)
