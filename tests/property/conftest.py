"""How property tests search: without a clock, because the machine may be busy with other work.

The same cases every time, so that a commit passes or does not; REELSIFT_SEARCH=1 looks for new ones.
"""

import os

from hypothesis import HealthCheck, settings

# more threads of torch only wait for each other over arrays this small
os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile(
    "reelsift",
    deadline=None,
    derandomize=os.environ.get("REELSIFT_SEARCH") != "1",
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("reelsift")
