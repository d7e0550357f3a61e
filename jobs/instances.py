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


def instance_resources(instance: str) -> dict[str, float]:
    """Return CPU and, where there is one, GPU of an instance type; empty where the name says nothing."""
    found = NAME.fullmatch(instance.replace(".xlarge", ".1xlarge"))
    if found is None:
        return {}
    times = int(found["times"] or 0)
    resources = {"CPU": float(times * CPUS_PER_XLARGE if times else CPUS[found["size"]])}
    family = GPUS.get(found["family"])
    if family is not None:
        resources["GPU"] = float(family.get(f"{times}xlarge", 1))
    return resources
