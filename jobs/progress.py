"""Progress on stderr: one line per stream while it runs, saying how far each stage is."""

import sys
import time
from typing import Any

from ray.data._internal.execution.execution_callback import ExecutionCallback

EVERY_S = 5.0


class Progress(ExecutionCallback):
    """Prints the rows each stage has put out; Ray calls it from its scheduling loop."""

    def __init__(self) -> None:
        self.started = self.printed = time.monotonic()

    def on_execution_step(self, executor: Any) -> None:
        """Print a line when the last one is old enough."""
        now = time.monotonic()
        if now - self.printed < EVERY_S:
            return
        self.printed = now
        stages = [
            f"{_short(operator.name)} {operator.metrics.rows_task_outputs_generated}"
            for operator in executor._topology
            if not operator.name.startswith("Input")
        ]
        print(f"  {now - self.started:4.0f}s  {' · '.join(stages)}", file=sys.stderr, flush=True)


def _short(name: str) -> str:
    """Return a stage's name without Ray's wrapping: MapBatches(Scorer) -> Scorer."""
    return name.replace("MapBatches(", "").replace(")", "").removeprefix("read_slices->")
