"""What machines and a bucket cost: a small table to be edited (`--prices FILE`), prices.yaml beside this file."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from pipeline import store
from pipeline.errors import ConfigError

STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
Price = Annotated[float, Field(ge=0)]
SHIPPED = Path(__file__).parent / "prices.yaml"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Machine:
    """One type of machine; prices in dollars per hour."""

    type: str
    vcpus: Annotated[int, Field(ge=1)]
    gpus: Annotated[int, Field(ge=0)] = 0
    on_demand_per_h: Price
    spot_per_h: Price


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Bucket:
    """A bucket; dollars per thousand requests, and per 10^9 bytes and month."""

    read_per_1000: Price
    write_per_1000: Price
    storage_per_gb_month: Price


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Prices:
    """The whole table."""

    as_of: str
    """When these prices held."""
    cpu_machine: str
    """Which of the machines stages without a GPU are counted on."""
    gpu_machine: str
    """Which of them stages with a GPU are."""
    machines: dict[str, Machine]
    bucket: Bucket

    def __post_init__(self) -> None:
        """Check that the machines that stages are counted on are there, and have what the stages need."""
        for role, name in (("cpu_machine", self.cpu_machine), ("gpu_machine", self.gpu_machine)):
            if name not in self.machines:
                msg = f"{role} is {name!r}, which is none of the machines: {', '.join(self.machines) or '(none)'}"
                raise ValueError(msg)
        if not self.machines[self.gpu_machine].gpus:
            msg = f"gpu_machine is {self.gpu_machine!r}, which has no GPU; set its `gpus`, or name another"
            raise ValueError(msg)

    def dump(self) -> dict[str, Any]:
        """Return the table as plain JSON values."""
        return asdict(self)  # pyright: ignore[reportArgumentType]


def load_prices(place: str = "") -> Prices:
    """Return the price table of a YAML file, local or `s3://`; of the package when no place is given.

    Raises:
        ConfigError: there is no such file, it is no YAML, a key is unknown or missing, or a price is negative.
        StoreError: the bucket cannot be read.
    """
    place = place or str(SHIPPED)
    if not store.exists(place):
        msg = f"--prices {place}: no such file; copy {SHIPPED} and edit it"
        raise ConfigError(msg)
    try:
        return TypeAdapter(Prices).validate_python(yaml.safe_load(store.read_bytes(place)))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        msg = f"--prices {place}: not a YAML file: {' '.join(str(error).split())}"
        raise ConfigError(msg) from error
    except ValidationError as error:
        told = "; ".join(_told(dict(mistake)) for mistake in error.errors(include_url=False))
        msg = f"--prices {place}: {told}; {SHIPPED} shows every key"
        raise ConfigError(msg) from error


def _told(mistake: dict[str, Any]) -> str:
    """Return one mistake: where, what is expected, what was found."""
    where = ".".join(str(part) for part in mistake["loc"]) or "the table"
    if mistake["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"{where}: unknown key"
    if mistake["type"] in ("missing", "missing_argument"):
        return f"{where}: missing"
    return f"{where}: {mistake['msg']}, found {mistake['input']!r}"
