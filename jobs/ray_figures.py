"""What Ray itself says of a run: object store, spilling, tasks and blocks per stage, the driver's CPU time.

Ray loads the class in the job's own process when RAY_DATA_EXECUTION_CALLBACKS names it; it appends one JSON line per
finished stream to the file that REELSIFT_RAY_FIGURES names. The job knows nothing of it.
"""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray.data._internal.execution.execution_callback import ExecutionCallback

FILE = "REELSIFT_RAY_FIGURES"
EVERY_S = 5.0
"""Asking costs the job's process some 10 ms."""


class RayFigures(ExecutionCallback):
    """Looks at the object store while a stream runs, and at its stages when it is done."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.cpu_s = time.process_time()
        self.looked = 0.0
        self.most_bytes = 0

    def on_execution_step(self, executor: Any) -> None:
        """Note the object store's size when the last look is old enough."""
        del executor
        if time.monotonic() - self.looked >= EVERY_S:
            self.looked = time.monotonic()
            self.most_bytes = max(self.most_bytes, _store().object_store_bytes_used)

    def after_execution_succeeds(self, executor: Any) -> None:
        """Write down what the stream took."""
        store = _store()
        found = {
            "wall_s": time.monotonic() - self.started,
            "driver_cpu_s": time.process_time() - self.cpu_s,
            "store_mb": max(self.most_bytes, store.object_store_bytes_used) / 1e6,
            "spilled_mb": store.spilled_bytes_total / 1e6,
            "stages": [
                {
                    "name": operator.name,
                    "tasks": operator.metrics.num_tasks_finished,
                    "blocks": operator.metrics.num_task_outputs_generated,
                    "rows": operator.metrics.rows_task_outputs_generated,
                    "bytes": operator.metrics.bytes_task_outputs_generated,
                    "spilled_bytes": operator.metrics.obj_store_mem_spilled,
                }
                for operator in executor._topology
            ],
        }
        with Path(os.environ[FILE]).open("a", encoding="utf-8") as file:
            file.write(json.dumps(found) + "\n")


def _store() -> Any:
    """Return what the raylet of this machine says of its object store."""
    import ray
    from ray._private.internal_api import get_memory_info_reply, get_state_from_address

    address = ray.get_runtime_context().gcs_address
    return get_memory_info_reply(get_state_from_address(address)).store_stats


def environment(file: Path) -> Mapping[str, str]:
    """Return the environment of a job that is to write its figures to a file, on a Ray of its own."""
    ours = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return {
        **ours,
        "RAY_DATA_EXECUTION_CALLBACKS": f"{RayFigures.__module__}.{RayFigures.__name__}",
        FILE: str(file),
    }


def read(file: Path) -> list[dict[str, Any]]:
    """Return what a job wrote down, one entry per stream in their order."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
