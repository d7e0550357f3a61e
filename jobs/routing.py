"""Routes that a model decides: in a task of its own, once per run.

A router that holds the model never runs on the driver, which may be a laptop: one task takes the answerer's seat
before its actors do, and its process ends with it, so that they find the memory free. What it said is written down
with the run: the same command again asks no model, and a question keeps its route in an output folder for good.
"""

import logging
from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors.device import exit_on_poisoned_cuda, limit_gpu_memory, poisoned_is_fatal
from actors.models import Device, RouterEntry, RouterFacts
from jobs.flow import Job
from jobs.placement import WAIT_S, Seat, await_seat, reserved
from pipeline import ledger
from pipeline.config import JobConfig
from pipeline.errors import JobError
from pipeline.ledger import Models
from pipeline.route import Asked, Route
from pipeline.stages import route_queries

logger = logging.getLogger(__name__)


def decide(entry: RouterEntry, facts: RouterFacts, job: Job, models: Models, seat: Seat) -> dict[str, Route]:
    """Return the route of every query of a job, by its id.

    Args:
        entry: a router that needs the model.
        facts: what it says of itself.
        job: its settings, queries and run; what earlier runs of the same job wrote down is not decided again.
        models: as written down with the run.
        seat: where the model sits.

    Raises:
        JobError: the model could not be loaded or broke; names it.
        ClusterError: the cluster has no seat for it; see `await_seat`.
    """

    def decide_open(asked: Sequence[Asked]) -> list[Route]:
        known = ledger.read_routes(job.run.out, job.config, models)
        todo = [one for one in asked if one not in known]
        logger.info(
            "routes of %d questions: %d written down by earlier runs, %d to be decided by router %s with %s",
            len(asked), len(asked) - len(todo), len(todo), facts.name, job.config.answer.model,
        )  # fmt: skip
        if todo:
            known |= zip(todo, _on_seat(entry, facts, job.config, todo, seat), strict=True)
        ledger.write_routes(job.run, {one: known[one] for one in asked})
        return [known[one] for one in asked]

    return route_queries(decide_open, job.queries)


def _on_seat(
    entry: RouterEntry, facts: RouterFacts, config: JobConfig, asked: Sequence[Asked], seat: Seat
) -> list[Route]:
    """Return what the router says, from a process that ends afterwards.

    Raises:
        ClusterError, JobError: see `decide`.
    """
    who = f"router {facts.name} with model {config.answer.model!r}"
    with reserved(seat) as group:
        await_seat(group, seat, who)
        task: Any = ray.remote(
            max_calls=1, max_retries=1, num_cpus=seat.num_cpus, num_gpus=seat.num_gpus,
            scheduling_strategy=PlacementGroupSchedulingStrategy(group),
        )(_route)  # fmt: skip
        promise = task.remote(entry, config, asked, seat.device, seat.num_gpus)
        while not ray.wait([promise], timeout=WAIT_S)[0]:
            await_seat(group, seat, who)  # it is lost with its machine
            logger.info("%s has %d questions to route and is at it", who, len(asked))
        return _said(promise, who, len(asked))


def _said(promise: Any, who: str, num_asked: int) -> list[Route]:
    """Return what came back from a task, or why nothing did.

    Raises:
        JobError: see `decide`.
    """
    try:
        return ray.get(promise)
    except RayTaskError as error:
        cause: BaseException = error.cause or error
        if isinstance(cause, JobError):
            raise cause from None
        logger.exception("%s failed", who)
        what = f"{type(cause).__name__}: {(str(cause).strip().splitlines() or [''])[-1]}"
        msg = f"{who} failed on {num_asked} questions: {what}; take another --plan.router or model"
        raise JobError(msg) from error
    except RayError as error:
        first = str(error).strip().partition("\n")[0]
        msg = (
            f"{who} did not come back: {first or type(error).__name__}; its process ended, most often for want of"
            " memory: take a smaller model or --answer.quantize, or a machine with more memory"
        )
        raise JobError(msg) from error


def _route(
    entry: RouterEntry, config: JobConfig, asked: Sequence[Asked], device: Device, num_gpus: float
) -> list[Route]:
    """Return what the router says; runs on the answerer's seat."""
    limit_gpu_memory(num_gpus, device)
    with exit_on_poisoned_cuda(), poisoned_is_fatal():
        return entry.make(config, device)(asked)
