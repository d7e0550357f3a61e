"""How property tests search: without a clock, because the machine may be busy with other work."""

from hypothesis import HealthCheck, settings

settings.register_profile("reelsift", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("reelsift")
