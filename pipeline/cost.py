"""The bill of a run: what its counters cost at given prices, and the sum of several bills. Pure arithmetic.

Seconds are those of work, not of waiting. A stage without a GPU is counted by CPU seconds, on one vCPU of the CPU
machine each; one on a GPU by busy seconds, on its share of the GPU machine. What the whole cluster was held for stands
beside it (`held`): the difference is start-up, idle machines and Ray itself.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.prices import Prices

Bill = dict[str, Any]
"""A cost.json: plain JSON values."""
NAME = "cost.json"
STAGES = ("probe", "decode", "recall", "score", "evidence", "answer", "write")
COUNTS = (
    *("videos", "windows", "windows_from_index", "video_h", "answers", "model_answers"),
    *("frames_planned", "frames_seen", "frames_scored", "video_decoded_s"),
    *("tokens_dense", "tokens_used", "vision_frames", "prefills", "prefill_tokens"),
    *("read_bytes", "read_requests", "written_bytes", "written_files", "write_requests"),
)
REQUESTS_PER_FILE = 3
"""Writes of a bucket per committed file: it is put, copied into its table, and its commit is put."""


@dataclass(frozen=True, slots=True)
class Dollars:
    """What something costs: low on spot machines, high on demand."""

    low: float = 0.0
    high: float = 0.0

    def __add__(self, other: "Dollars") -> "Dollars":
        """Return the sum."""
        return Dollars(self.low + other.low, self.high + other.high)

    def per(self, amount: float) -> "Dollars | None":
        """Return it divided by an amount; None of nothing."""
        return Dollars(self.low / amount, self.high / amount) if amount else None


@dataclass(frozen=True, slots=True)
class Held:
    """What a run kept to itself: the cluster, from joining it to leaving it."""

    wall_s: float
    """Up to the last look at the machines."""
    cpu_s: float
    """Of all CPUs that were there, working or not, as machines came and went."""
    gpu_s: float
    unseen_s: float = 0.0
    """Of the run's end that no look covers; what was held then is not known."""


def of_work(prices: Prices, cpu_s: float, gpu_s: float) -> Dollars:
    """Return what CPU seconds and GPU seconds cost."""
    cpu, gpu = prices.machines[prices.cpu_machine], prices.machines[prices.gpu_machine]
    cpu_h, gpu_h = cpu_s / 3600 / cpu.vcpus, gpu_s / 3600 / gpu.gpus
    return Dollars(
        cpu_h * cpu.spot_per_h + gpu_h * gpu.spot_per_h,
        cpu_h * cpu.on_demand_per_h + gpu_h * gpu.on_demand_per_h,
    )


def of_requests(prices: Prices, reads: float, writes: float) -> Dollars:
    """Return what requests to a bucket cost, however machines are paid."""
    spent = reads / 1000 * prices.bucket.read_per_1000 + writes / 1000 * prices.bucket.write_per_1000
    return Dollars(spent, spent)


def bill(
    counters: Mapping[str, float],
    prices: Prices,
    *,
    gpus: Mapping[str, float],
    held: Held | None,
    num_queries: int,
    in_bucket: bool,
) -> Bill:
    """Return the bill of a run.

    Args:
        counters: summed over its parts; see sink.py.
        prices: the table.
        gpus: GPUs of one actor, per stage that has any.
        held: what the run kept to itself; None = not known.
        num_queries: questions of the run.
        in_bucket: whether results go to a bucket, so that writing them is paid.
    """
    stages: dict[str, Any] = {}
    total = Dollars()
    for name in STAGES:
        busy_s, cpu_s = counters.get(f"{name}_s", 0.0), counters.get(f"{name}_cpu_s", 0.0)
        gpu_s = busy_s * gpus.get(name, 0.0)
        spent = of_work(prices, 0.0 if gpu_s else cpu_s, gpu_s)
        stages[name] = {"busy_s": busy_s, "cpu_s": cpu_s, "gpu_s": gpu_s, "dollars": asdict(spent)}
        total += spent
    counts = {name: counters.get(name, 0) for name in COUNTS}
    counts["video_h"] = counters.get("video_s", 0.0) / 3600
    counts["read_bytes"] += counters.get("probe_bytes", 0)
    counts["read_requests"] += counters.get("probe_requests", 0)
    counts["write_requests"] = REQUESTS_PER_FILE * counts["written_files"] if in_bucket else 0
    requests = of_requests(prices, counts["read_requests"], counts["write_requests"])
    return {
        "counts": counts,
        "stages": stages,
        "requests": {"dollars": asdict(requests)},
        "held": _held(prices, held),
        "prices": prices.dump(),
        **_closing(total + requests, counts["video_h"], num_queries),
    }


def add_up(bills: Sequence[Bill], num_queries: int) -> Bill:
    """Return one bill over several: counts, seconds and dollars summed, each at the prices it was written with."""
    total = Dollars(*(math.fsum(one["total"][end] for one in bills) for end in ("low", "high")))
    counts = {name: math.fsum(one["counts"].get(name, 0) for one in bills) for name in COUNTS}
    counts = {name: value if name == "video_h" else round(value) for name, value in counts.items()}
    held = [one["held"] for one in bills if one["held"]]
    return {
        "counts": counts,
        "stages": {name: _summed([one["stages"][name] for one in bills]) for name in STAGES},
        "requests": _summed([one["requests"] for one in bills]),
        "held": _summed(held) if held else None,
        **_closing(total, counts["video_h"], num_queries),
    }


def _held(prices: Prices, held: Held | None) -> dict[str, Any] | None:
    if held is None:
        return None
    gpu = prices.machines[prices.gpu_machine]
    # the CPUs that come with a GPU machine are paid with it
    own_cpu_s = max(0.0, held.cpu_s - held.gpu_s / gpu.gpus * gpu.vcpus)
    return {**asdict(held), "dollars": asdict(of_work(prices, own_cpu_s, held.gpu_s))}


def _closing(total: Dollars, video_h: float, num_queries: int) -> dict[str, Any]:
    """Return the total, and what it is per video hour and per query; None of nothing."""
    per = {"per_video_hour": total.per(video_h), "per_query": total.per(num_queries)}
    shares = {name: asdict(share) if share else None for name, share in per.items()}
    return {"queries": num_queries, "total": asdict(total), **shares}


def _summed(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the sums of numbers of the same name, of nested ones too."""
    found: dict[str, Any] = {}
    for name in dict.fromkeys(name for item in items for name in item):
        values = [item[name] for item in items if name in item]
        found[name] = _summed(values) if isinstance(values[0], Mapping) else math.fsum(values)
    return found


def told(dollars: Mapping[str, float] | None) -> str:
    """Return an amount for people: `$0.0012-0.0030`, two significant digits."""
    if dollars is None:
        return "-"
    low, high = (f"{float(f'{dollars[end]:.2g}'):.10f}".rstrip("0").rstrip(".") for end in ("low", "high"))
    return f"${low}" if low == high else f"${low}-{high}"
