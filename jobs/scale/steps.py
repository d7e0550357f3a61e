"""A flow shaped as the answer stream, whose stages do nothing: what is left is the driver's time per block and stage.

`python -m jobs.scale.steps BLOCKS` prints the CPU seconds that the driver took to send so many blocks through four
stages: tasks, actors, tasks, actors.
"""

import json
import sys
import time
from typing import Any

import pyarrow as pa


def _same(table: pa.Table) -> pa.Table:
    return table


class Same:
    """Hands a table on."""

    def __call__(self, table: pa.Table) -> pa.Table:
        """Return what came."""
        return table


def main(blocks: int) -> None:
    """Send blocks through."""
    from jobs import cluster

    with cluster.connected(whole=True):
        import ray.data
        from ray.data import ActorPoolStrategy

        tasks: dict[str, Any] = {"batch_format": "pyarrow", "num_cpus": 0.5}
        actors: dict[str, Any] = {
            "batch_format": "pyarrow", "num_cpus": 0.2, "compute": ActorPoolStrategy(min_size=1, max_size=1),
        }  # fmt: skip
        items = [{"number": number} for number in range(blocks)]
        started = time.process_time()
        source: Any = ray.data.from_items(items, override_num_blocks=blocks)
        flow: Any = source.map_batches(_same, **tasks).map_batches(Same, **actors)
        # another number of CPUs, or Ray would make one stage of two
        flow = flow.map_batches(_same, **{**tasks, "num_cpus": 0.25}).map_batches(Same, **actors)
        count = sum(1 for _ in flow.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0))
        print(json.dumps({"blocks": count, "driver_cpu_s": time.process_time() - started}))


if __name__ == "__main__":
    main(int(sys.argv[1]))
