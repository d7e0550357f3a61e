"""Ray on one's own machine, for one command: without what only a cluster needs.

Where a command starts Ray for itself there is no other machine, no dashboard, nobody who reads its logs, and few
tasks, each of seconds. Yet Ray starts an autoscaler, a dashboard's server and a monitor of logs, and Ray Data two
actors: one keeps figures for the dashboard, one asks for machines. Each is a Python process that takes a core for
seconds. And the scheduling loop looks ten times a second whether a task has put out something. Here the five are left
out, and the loop waits for tasks. What that saves is in docs/log.md.

Ray has no settings for it: these are inner parts. Where a release calls them otherwise, Ray runs with all of them.
"""

import logging
import uuid
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

logger = logging.getLogger(__name__)

WAIT_S = 1.0
"""Longest wait for a task between two steps of the scheduling loop; pools grow, and progress is noted, at steps."""

Part = tuple[Any, str, Any]
"""An owner, the name of one of its parts, and what stands there instead."""


@contextmanager
def started() -> Generator[None]:
    """Start a head within the block as the raylet, its agents and the GCS alone."""
    with _replaced(_of_node):
        yield


@contextmanager
def used(context: Any) -> Generator[None]:
    """Run the datasets of a DataContext within the block without Ray Data's actors, and with a loop that waits.

    The cluster must be this machine alone, and stay so.
    """
    callbacks = list(context.custom_execution_callback_classes)
    with _replaced(_of_ray_data) as is_replaced:
        if is_replaced:
            context.custom_execution_callback_classes = [*callbacks, _waits()]
        try:
            yield
        finally:
            context.custom_execution_callback_classes = callbacks


@contextmanager
def _replaced(find: Callable[[], list[Part]]) -> Generator[bool]:
    """Have other parts in Ray within the block; False where this Ray has no such parts, and keeps its own."""
    try:
        parts = find()
        kept = [(owner, name, vars(owner)[name]) for owner, name, _ in parts]
    except (ImportError, KeyError) as error:
        logger.warning(
            "Ray runs with all that a cluster needs: this release calls its parts otherwise (%r)", error
        )
        yield False
        return
    try:
        for owner, name, part in parts:
            setattr(owner, name, part)
        yield True
    finally:
        for owner, name, part in kept:
            setattr(owner, name, part)


def _of_node() -> list[Part]:
    """Return the parts that start processes of a head."""
    from ray._private.node import Node

    return [(Node, name, _nothing) for name in ("start_monitor", "start_api_server", "start_log_monitor")]


def _of_ray_data() -> list[Part]:
    """Return the parts that start actors."""
    import ray
    from ray.data._internal import stats
    from ray.data._internal.cluster_autoscaler import ClusterAutoscaler
    from ray.data._internal.execution import streaming_executor
    from ray.data._internal.execution.interfaces import ExecutionResources

    class OneMachine(ClusterAutoscaler):
        """What a dataset may use: all of this machine."""

        def __init__(self) -> None:
            has: dict[str, Any] = ray.cluster_resources()
            self.resources = ExecutionResources.from_resource_dict(has)

        def try_trigger_scaling(self) -> None:
            """There is no machine to ask for."""

        def on_executor_shutdown(self) -> None:
            """Nothing was asked for."""

        def get_total_resources(self) -> ExecutionResources:
            """Return what this machine has."""
            return self.resources

    manager: Any = vars(stats)["_StatsManager"]
    told = ("register_dataset_to_stats_actor", "update_execution_metrics", "update_iteration_metrics")
    return [
        (streaming_executor, "create_cluster_autoscaler", lambda *_, **__: OneMachine()),
        (manager, "gen_dataset_id_from_stats_actor", staticmethod(lambda: uuid.uuid4().hex)),
        *((manager, name, staticmethod(_nothing)) for name in told),
    ]


def _nothing(*_: Any, **__: Any) -> None:
    """Stand for a part that is left out."""


def _waits() -> type[Any]:
    """Return an execution callback that waits until a task has put out something.

    Ray Data itself waits a tenth of a second for all tasks together.
    """
    import ray
    from ray.data._internal.execution.execution_callback import ExecutionCallback

    class Waits(ExecutionCallback):
        """Waits after every step of the scheduling loop."""

        def on_execution_step(self, executor: Any) -> None:
            """Wait for the first of the running tasks."""
            try:
                tasks = [task for operator in executor._topology for task in operator.get_active_tasks()]
                waitables = [task.get_waitable() for task in tasks]
            except AttributeError:  # another release: it waits as it does without this
                return
            if waitables:
                ray.wait(waitables, num_returns=1, timeout=WAIT_S, fetch_local=False)

    return Waits
