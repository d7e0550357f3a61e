"""Ray on one's own machine, for one command: without what only a cluster needs.

Where a command starts Ray for itself there is no other machine, no dashboard, nobody who reads its logs, and few
tasks, each of seconds. Yet Ray starts an autoscaler, a dashboard's server and a monitor of logs, and Ray Data two
actors: one keeps figures for the dashboard, one asks for machines. Each is a Python process that takes a core for
seconds. And the scheduling loop looks ten times a second whether a task has put out something. Here the five are left
out, and the loop waits for tasks. Ray's own threads wake up some 500 times a second; each time a decoder or a model
would be cut short for them, and its caches with it: here they wait for their turn. What all that saves is in
docs/log.md.

`ray.init` has no settings for it: these are inner parts. Where a release calls them otherwise, Ray runs with its own.
"""

import logging
import os
import uuid
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

WAIT_S = 1.0
"""Longest wait between two steps of the scheduling loop. Pools grow, progress is noted, and what a task puts out while
it runs on is handed on, at steps."""
NOBODY = b"127.0.0.1:1"
"""Where the dashboard's server is said to listen: without an address, Ray's agent looks for one for ever."""

DEVICES = Path("/dev")

Part = tuple[Any, str, Any]
"""An owner, the name of one of its parts, and what stands there instead."""


@contextmanager
def in_turn() -> Generator[None]:
    """Run this thread, and all that it starts within the block, under SCHED_BATCH: who wakes up cuts nobody short.

    Threads that were there before keep their policy, those begun within the block keep this one. Nothing is changed
    where the user has chosen another policy, where a container forbids it, and where there is a GPU: it would stand
    still while the thread that feeds it waits for a decoder.
    """
    is_set = False
    with suppress(OSError):
        if os.sched_getscheduler(0) == os.SCHED_OTHER and not any(DEVICES.glob("nvidia[0-9]*")):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
            is_set = True
    try:
        yield
    finally:
        if is_set:
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


@contextmanager
def started() -> Generator[None]:
    """Start a head within the block as the raylet, its agents and the GCS alone."""
    with _replaced(_of_node):
        yield


@contextmanager
def used(context: Any) -> Generator[None]:
    """Run datasets of this process within the block without Ray Data's actors, and with a loop that waits.

    The cluster must be connected, be this machine alone, and stay so.

    Args:
        context: the DataContext that these datasets are made with.
    """
    with _replaced(partial(_of_ray_data, context)):
        yield


@contextmanager
def _replaced(find: Callable[[], list[Part]]) -> Generator[None]:
    """Have other parts in Ray within the block; its own where they cannot be found or made."""
    parts: list[Part] = []
    kept: list[Part] = []
    try:
        parts = find()
        kept = [(owner, name, vars(owner)[name]) for owner, name, _ in parts]
    except (ImportError, AttributeError, KeyError, TypeError) as error:
        logger.warning("Ray runs with all that a cluster needs: this release has other parts (%r)", error)
        parts = []
    try:
        for owner, name, part in parts:
            setattr(owner, name, part)
        yield
    finally:
        for owner, name, part in kept:
            setattr(owner, name, part)


def _of_node() -> list[Part]:
    """Return the parts that start processes of a head."""
    from ray._private import ray_constants
    from ray._private.node import Node

    def no_api_server(node: Any, **_: Any) -> None:
        key, namespace = ray_constants.DASHBOARD_ADDRESS.encode(), ray_constants.KV_NAMESPACE_DASHBOARD
        node.get_gcs_client().internal_kv_put(key, NOBODY, True, namespace)

    return [
        (Node, "start_api_server", no_api_server),
        (Node, "start_monitor", _nothing),
        (Node, "start_log_monitor", _nothing),
    ]


def _of_ray_data(context: Any) -> list[Part]:
    """Return the parts that start actors, and the callbacks of a DataContext."""
    import ray
    from ray.data._internal import stats
    from ray.data._internal.cluster_autoscaler import ClusterAutoscaler
    from ray.data._internal.execution import streaming_executor
    from ray.data._internal.execution.interfaces import ExecutionResources

    resources: Callable[[Any], ExecutionResources] = ExecutionResources.from_resource_dict

    class OneMachine(ClusterAutoscaler):
        """What a dataset may use: all of this machine."""

        def try_trigger_scaling(self) -> None:
            """There is no machine to ask for."""

        def on_executor_shutdown(self) -> None:
            """Nothing was asked for."""

        def get_total_resources(self) -> ExecutionResources:
            """Return what this machine has; asked for at most once a second."""
            return resources(ray.cluster_resources())

    machine = OneMachine()
    manager: Any = vars(stats)["_StatsManager"]
    told = ("register_dataset_to_stats_actor", "update_execution_metrics", "update_iteration_metrics")
    return [
        (streaming_executor, "create_cluster_autoscaler", lambda *_, **__: machine),
        (manager, "gen_dataset_id_from_stats_actor", staticmethod(lambda: uuid.uuid4().hex)),
        *((manager, name, staticmethod(_nothing)) for name in told),
        (
            context,
            "custom_execution_callback_classes",
            [*context.custom_execution_callback_classes, _waits()],
        ),
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
                is_ending = executor._shutdown
                tasks = [task for operator in executor._topology for task in operator.get_active_tasks()]
                waitables = list(dict.fromkeys(task.get_waitable() for task in tasks))
            except AttributeError:  # another release: it waits as it does without this
                return
            if waitables and not is_ending:
                ray.wait(waitables, num_returns=1, timeout=WAIT_S, fetch_local=False)

    return Waits
