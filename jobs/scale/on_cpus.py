"""Run a command on a Ray of N CPUs, whatever the machine has: `python -m jobs.scale.on_cpus N answer ...`.

With all that Ray runs on a cluster, since it is clusters that are simulated.
"""

import sys
from functools import partial

from jobs import cluster
from jobs.__main__ import main

if __name__ == "__main__":
    num_cpus = int(sys.argv[1])
    cluster._num_cpus = lambda: num_cpus  # pyright: ignore[reportPrivateUsage]
    cluster.connected = partial(cluster.connected, whole=True)
    del sys.argv[1]
    sys.exit(main())
