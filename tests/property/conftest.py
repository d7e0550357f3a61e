"""How property tests search: without a clock, because the machine may be busy with other work."""

import os

from hypothesis import HealthCheck, settings

# more threads of torch only wait for each other over arrays this small
os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile("reelsift", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("reelsift")
