"""How many CPUs and GPUs an EC2 instance type has, from its name: nothing is asked of AWS.

Sizes mean the same number of virtual CPUs in all families that are of use here; GPUs are per family. Where this is not
enough, a cluster file says it under `resources`, which goes before.
"""

import re

NAME = re.compile(
    r"(?P<family>[a-z]+\d+[a-z]*(?:-[a-z0-9]+)?)\.(?P<size>(?:(?P<times>\d+)x)?large|medium|small)"
)
CPUS = {"small": 2, "medium": 2, "large": 2, "xlarge": 4}
CPUS_PER_XLARGE = 4
GPUS: dict[str, dict[str, int]] = {
    "g4dn": {"12xlarge": 4},
    "g5": {"12xlarge": 4, "24xlarge": 4, "48xlarge": 8},
    "g6": {"12xlarge": 4, "24xlarge": 4, "48xlarge": 8},
    "g6e": {"12xlarge": 4, "24xlarge": 4, "48xlarge": 8},
    "p3": {"8xlarge": 4, "16xlarge": 8},
    "p4d": {"24xlarge": 8},
    "p4de": {"24xlarge": 8},
    "p5": {"48xlarge": 8},
    "p5e": {"48xlarge": 8},
    "p5en": {"48xlarge": 8},
}
"""GPUs of the sizes that have more than one."""
WITH_GPUS = "gp"
"""First letters of the families that have GPUs, also of those that came later than the table above."""


def instance_resources(instance: str) -> dict[str, float]:
    """Return CPU and GPU of an instance type; empty where the name does not say both."""
    found = NAME.fullmatch(instance.replace(".xlarge", ".1xlarge"))
    if found is None:
        return {}
    times, family = int(found["times"] or 0), found["family"]
    if family not in GPUS and family.startswith(tuple(WITH_GPUS)):
        return {}
    gpus = GPUS[family].get(f"{times}xlarge", 1) if family in GPUS else 0
    return {"CPU": float(times * CPUS_PER_XLARGE if times else CPUS[found["size"]]), "GPU": float(gpus)}
