"""Where the stages of a job sit on a cluster, and whether they can sit there at all.

Models go where the GPUs are, decoding to machines without any: a machine says what it is for by its label `role`,
`decode` or `gpu`, as in `cluster.yaml`. Labels are asked for where the cluster has machines that carry them, or can
have some; a single machine, or a cluster without labels, is asked for nothing. There is no falling back to other
machines while the right ones are on their way: tasks would crowd onto the first machine that comes, whatever it is
for.
"""

import logging
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from actors.models import Device
from jobs.machines import Machines, survey_machines
from jobs.preflight import Need, check_needs, too_small
from pipeline.config import JobConfig, PoolConfig
from pipeline.errors import ClusterError

logger = logging.getLogger(__name__)

DECODE_CPUS = 0.9
"""CPUs of one decoding task: so much less than one that each of a few cores gets one beside the tasks below."""
LIGHT_CPUS = 0.2
"""CPUs of one planning, fetching or writing task; one of these and one decoding task must fit beside the actors."""
NO_PROGRESS_S = 1800
"""Seconds without one finished task after which a run is given up; covers the start of a GPU machine."""
ROUNDING_CPUS = 2.0
"""By how much the shares of all stages, each rounded up to whole tasks, may exceed their sum."""
WAIT_S = 60.0
"""Seconds after which it is said, again and again, that something is not there yet."""
ACTOR = {"score": "a scoring actor", "answer": "an answering actor"}
DECODING_MACHINES = {"role": "decode"}
GPU_MACHINES = {"role": "gpu"}


@dataclass(frozen=True, slots=True)
class Seat:
    """Where the actors of one pool sit."""

    device: Device
    num_cpus: float
    num_gpus: float
    pool: PoolConfig
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    """Of the machines it asks for; empty = any."""

    @property
    def needed(self) -> dict[str, float]:
        """What one actor reserves, on one machine."""
        amounts = {"CPU": self.num_cpus, "GPU": self.num_gpus}
        return {kind: amount for kind, amount in amounts.items() if amount}


@dataclass(frozen=True, slots=True)
class Placement:
    """Seats of the pools, and the machines of all that holds no model."""

    scorer: Seat | None
    """None where the tasks that decode score too: no frame travels, no actor is started."""
    answerer: Seat | None
    """None without `--answer.model`: tasks answer, no actor is started."""
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    """Of the machines that decode, plan and write; empty = any."""
    cores: int | None = None
    """CPUs that these machines can have; None = not known."""

    @property
    def pools(self) -> dict[str, Seat]:
        """Seats of the actors that are started, by the stage of their settings."""
        seats = {"score": self.scorer, "answer": self.answerer}
        return {stage: seat for stage, seat in seats.items() if seat}


def place(config: JobConfig, *, scorer_gpu: bool, answerer_gpu: bool) -> Placement:
    """Return where the stages go on the connected cluster: models on GPUs where it has or can have them.

    Raises:
        ClusterError: the smallest pools and one task can never fit at the same time.
    """
    machines = survey_machines()
    placement = find_places(config, machines, scorer_gpu=scorer_gpu, answerer_gpu=answerer_gpu)
    if machines.known:
        check(placement, machines)
        for line in too_small(config.cluster.sized_for, machines):
            logger.warning("%s", line)
        if any(kind.comes for kind in machines.kinds):
            _bound_growth(placement, machines)
    else:
        logger.info("the cluster does not tell what it can get: not judged")
    if placement.scorer is None:
        told = logger.warning if config.score.pool != PoolConfig() else logger.info
        told(
            "score: in the tasks that decode; a pool of actors, of the size asked for, with --score.pool.device cpu"
        )
    for stage, seat in placement.pools.items():
        logger.info(
            "%s: %d to %d actors of %s on %s",
            stage, seat.pool.min_size, seat.pool.max_size, seat.needed, _where(seat.labels),
        )  # fmt: skip
    return placement


def most_resources(placement: Placement, machines: Machines) -> tuple[float, float]:
    """Return the CPUs and GPUs up to which Ray Data may ask an autoscaler for machines.

    The autoscaler grants all of such a request or nothing: one that is a single CPU too large for what it may ever
    start brings no machine at all, no GPU either. So the machines that the pools' GPUs take are off `max_workers`
    before CPUs are counted. Ray Data rounds each stage's share up, without labels; so it is told of the CPUs that its
    tasks can use, where GPU machines have others that take the rounding, else of a little less than there can be.
    """
    gpus = machines.total("GPU")
    taken, left = machines.split("GPU", min(_most_gpus(placement), gpus))
    cpus, all_cpus = (
        taken.total("CPU", labels) + left.total("CPU", labels) for labels in (placement.labels, None)
    )
    roomy = all_cpus - cpus >= ROUNDING_CPUS
    least = DECODE_CPUS + sum(seat.num_cpus * seat.pool.min_size for seat in placement.pools.values()) + 1
    return max(cpus if roomy else min(cpus, all_cpus - ROUNDING_CPUS), min(least, cpus)), gpus


def _most_gpus(placement: Placement) -> float:
    return sum(seat.num_gpus * seat.pool.max_size for seat in placement.pools.values())


def _bound_growth(placement: Placement, machines: Machines) -> None:
    """Keep what Ray Data asks for within what the autoscaler may start."""
    from ray.data import DataContext, ExecutionResources

    cpus, gpus = most_resources(placement, machines)
    options = DataContext.get_current().execution_options
    options.resource_limits = ExecutionResources.for_limits(cpu=cpus, gpu=gpus)
    if (wanted := _most_gpus(placement)) > gpus:
        logger.warning(
            "the pools may grow to %g GPUs, the cluster to %g: lower %s, or the last machines may not be asked for",
            wanted, gpus, " or ".join(f"--{stage}.pool.max-size" for stage in placement.pools),
        )  # fmt: skip


def find_places(config: JobConfig, machines: Machines, *, scorer_gpu: bool, answerer_gpu: bool) -> Placement:
    """Return where the stages go on some machines, whether or not they fit."""
    present = machines.total("GPU") > 0
    decoding = _labels(config, machines, DECODING_MACHINES, {"CPU": DECODE_CPUS})

    def seat_of(pool: PoolConfig, *, wanted: bool) -> Seat:
        seat = _seat(pool, wanted=wanted, present=present)
        labels = _labels(config, machines, GPU_MACHINES, seat.needed) if seat.num_gpus else decoding
        return replace(seat, labels=labels)

    in_tasks = scores_in_tasks(config, uses_gpu=scorer_gpu)
    scorer = None if in_tasks else seat_of(config.score.pool, wanted=scorer_gpu)
    answerer = seat_of(config.answer.pool, wanted=answerer_gpu) if config.answer.model else None
    cores = int(machines.total("CPU", decoding)) if machines.known else None
    return Placement(scorer, answerer, decoding, cores)


def scores_in_tasks(config: JobConfig, *, uses_gpu: bool) -> bool:
    """Return whether frames are scored where they are decoded: by a model that needs no GPU, `auto` being asked for."""
    return not uses_gpu and config.score.pool.device == "auto"


def _labels(
    config: JobConfig, machines: Machines, labels: Mapping[str, str], needed: Mapping[str, float]
) -> Mapping[str, str]:
    """Return the labels, where the setting says so or a machine that carries them has room; else none."""
    wanted = config.cluster.placement
    if wanted == "auto":
        wanted = "labels" if machines.num_seats(needed, labels) else "none"
    return labels if wanted == "labels" else {}


def _seat(pool: PoolConfig, *, wanted: bool, present: bool) -> Seat:
    """Return a pool's seat: where its setting says, else on GPUs that it can use and that are or will be there."""
    on_gpu = wanted and present if pool.device == "auto" else pool.device == "cuda"
    return Seat("cuda", 0.0, pool.num_gpus, pool) if on_gpu else Seat("cpu", pool.num_cpus, 0.0, pool)


def _where(labels: Mapping[str, str]) -> str:
    return (
        f"machines labelled {', '.join(f'{k}={v}' for k, v in labels.items())}" if labels else "any machine"
    )


def check(placement: Placement, machines: Machines) -> None:
    """Refuse a graph whose smallest form cannot run: it would wait for ever without a word.

    Raises:
        ClusterError: who needs what, what there is and can be, and what to lower.
    """
    pools = [
        Need(ACTOR[stage], seat.needed, seat.labels, seat.pool.min_size, f"--{stage}.pool")
        for stage, seat in placement.pools.items()
    ]
    tasks = [
        Need("a decoding task", {"CPU": DECODE_CPUS}, placement.labels),
        Need("a writing task", {"CPU": LIGHT_CPUS}, placement.labels),
    ]
    check_needs([*pools, *tasks], machines)


@contextmanager
def reserved(seat: Seat) -> Generator[Any]:
    """Ask the cluster for a seat, outside any pool; yield its placement group, and give it back at the end.

    The seat may not be there yet: see `await_seat`.
    """
    from ray.util.placement_group import placement_group, remove_placement_group

    # Ray refuses an empty list of labels
    labelled: dict[str, Any] = {"bundle_label_selector": [dict(seat.labels)]} if seat.labels else {}
    group = placement_group([seat.needed], **labelled)
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
