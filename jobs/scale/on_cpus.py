"""Run a command on a Ray of N CPUs, whatever the machine has: `python -m jobs.scale.on_cpus N answer ...`."""

import sys

from jobs import cluster
from jobs.__main__ import main

if __name__ == "__main__":
    num_cpus = int(sys.argv[1])
    cluster._num_cpus = lambda: num_cpus  # pyright: ignore[reportPrivateUsage]
    del sys.argv[1]
    sys.exit(main())
