"""From amounts to a bill: the sample stands for the archive, rates turn amounts into seconds, prices into dollars."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jobs.calibrate import Calibration
from jobs.resolve import Resolved
from jobs.workload import Amounts
from pipeline import rates
from pipeline.config import JobConfig, PoolConfig
from pipeline.cost import REQUESTS_PER_FILE, STAGES, of_requests, of_work, told
from pipeline.prices import Prices
from pipeline.rates import MEGAPIXEL_S, TOKEN, UNITS, Rate
from pipeline.spread import Spread, ratio_of, total_of

logger = logging.getLogger(__name__)

AGREEING = 0.1
"""Share by which measured seconds may be off even where samples agree."""
MEASURED = "measured here"
PER = {"video second": "video_s", "frame": "frames", "answer": "num_answers", TOKEN: "prefill_tokens"}
"""Columns of tried pieces that hold a unit."""
AMOUNT_OF = {
    "file": "files",
    "video second": "decoded_s",
    "indexed window": "recalled",
    "frame": "frames_scored",
    "answer": "answers",
    TOKEN: "prefill_tokens",
    "window": "windows",
}
COUNTED = (
    "files", "windows", "answers", "model_answers", "frames_planned", "frames_seen", "tokens_dense", "prefill_tokens",
    "read_bytes", "read_requests",
)  # fmt: skip
TABLE_ROWS = {"answers": "answers", "frames": "frame_rows"}
FOOTER_BYTES = 4000
"""A Parquet file of videos/, without its rows."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """What is needed: exactly for known videos, per sampled file for new ones."""

    known: Amounts
    per_file: Sequence[Amounts]
    sizes: Sequence[int]
    num_new: int
    new_bytes: int

    def total(self, name: str) -> Spread:
        """Return an amount of known and all new videos."""
        found = [float(amounts[name]) for amounts in self.per_file]
        return Spread.exactly(float(self.known[name])) + total_of(
            found, self.sizes, self.num_new, self.new_bytes
        )


def as_bill(
    sampled: Sampled,
    found: Calibration,
    earlier: Any,
    config: JobConfig,
    plan: Resolved,
    prices: Prices,
    *,
    num_queries: int,
    out: str,
) -> dict[str, Any]:
    """Return counts, seconds per stage, and dollars: low at spot prices, high on demand."""
    on_gpu = {
        "score": _on_gpu(config.score.pool, earlier, "score", wanted=plan.scorer_facts.uses_gpu),
        "answer": bool(plan.answerer_facts.name)
        and _on_gpu(config.answer.pool, earlier, "answer", wanted=bool(plan.answerer_facts.frame_size)),
    }
    share = {"score": config.score.pool.num_gpus, "answer": config.answer.pool.num_gpus}
    low, high, expected = 0.0, 0.0, {"spot": 0.0, "on_demand": 0.0}
    staged: dict[str, Any] = {}
    for name in STAGES:
        gpu = on_gpu.get(name, False)
        seconds, rate = _seconds(name, sampled, found, earlier, plan, on_gpu=gpu)
        seconds = seconds * (share[name] if gpu else 1.0)
        ends = [
            of_work(prices, *((0.0, s) if gpu else (s, 0.0)))
            for s in (seconds.low, seconds.mid, seconds.high)
        ]
        low, high = low + ends[0].low, high + ends[2].high
        expected = {
            "spot": expected["spot"] + ends[1].low,
            "on_demand": expected["on_demand"] + ends[1].high,
        }
        staged[name] = {
            "gpu_s" if gpu else "cpu_s": seconds.dump(),
            **rate.dump(),
            "dollars": {"low": ends[0].low, "high": ends[2].high},
        }
    counts, writes = _counts(sampled, found, config, num_queries, in_bucket=out.startswith("s3://"))
    requests = [
        of_requests(prices, getattr(counts["read_requests"], end), getattr(writes, end)).low
        for end in ("low", "mid", "high")
    ]
    total = {
        "low": low + requests[0],
        "high": high + requests[2],
        "expected_spot": expected["spot"] + requests[1],
        "expected_on_demand": expected["on_demand"] + requests[1],
    }
    hours = counts["video_h"].mid
    stored_gb = counts["written_bytes"].mid / 1e9
    return {
        "counts": {name: value.dump() for name, value in counts.items()},
        "stages": staged,
        "requests": {"writes": writes.dump(), "dollars": {"low": requests[0], "high": requests[2]}},
        "total": total,
        "per_video_hour": _shared(total, hours),
        "per_query": _shared(total, num_queries),
        "storage_per_month": stored_gb * prices.bucket.storage_per_gb_month,
        "prices": prices.dump(),
    }


def _shared(total: Mapping[str, float], amount: float) -> dict[str, float] | None:
    return {name: value / amount for name, value in total.items()} if amount else None


def _on_gpu(pool: PoolConfig, earlier: Any, stage: str, *, wanted: bool) -> bool:
    """Return whether a pool will sit on GPUs; of `auto`, where an earlier run sat, or what this machine has, tells."""
    if pool.device != "auto":
        return pool.device == "cuda"
    if not wanted:
        return False
    if earlier and rates.ran_on_gpu(earlier, stage):
        return True
    import torch

    if not torch.cuda.is_available():
        logger.warning(
            "%s: priced on CPUs, as this machine has no GPU; for a cluster that has them give --%s.pool.device cuda,"
            " or --rates-from a run there", stage, stage,
        )  # fmt: skip
        return False
    return True


def _seconds(
    stage: str, sampled: Sampled, found: Calibration, earlier: Any, plan: Resolved, *, on_gpu: bool
) -> tuple[Spread, Rate]:
    """Return the seconds of a stage, and the rate they follow from: an earlier run's, a measured or a rough one."""
    unit = UNITS[stage]
    if stage == "answer" and plan.answerer_facts.tokens_per_frame:
        unit = TOKEN
    if stage == "evidence" and plan.answerer_facts.frame_size is None:
        return Spread.exactly(0.0), Rate(Spread.exactly(0.0), "not needed", unit)
    units = sampled.total("video_s" if stage == "evidence" else AMOUNT_OF[unit])
    if earlier and (rate := rates.of_run(earlier, stage, unit, on_gpu=on_gpu)):
        return units * rate.per_unit, rate
    if rate := _measured(stage, unit, sampled, found, on_gpu=on_gpu):
        if stage == "probe":
            return sampled.total("probe_cpu_s"), rate
        weighted = {"decode": "weighted_s", "evidence": "evidence_s"}.get(stage, "")
        return (sampled.total(weighted) if weighted else units) * rate.per_unit, rate
    if stage in ("decode", "evidence"):
        megapixels = sampled.total("megapixels")
        seconds = megapixels * Spread.within(MEGAPIXEL_S, rates.FACTOR_OF_A_GUESS)
        per_s = Spread.within(seconds.mid / units.mid if units.mid else 0.0, rates.FACTOR_OF_A_GUESS)
        return seconds, Rate(per_s, "default, rough", unit)
    rate = rates.guess(stage, unit, on_gpu=on_gpu)
    return units * rate.per_unit, rate


def _measured(stage: str, unit: str, sampled: Sampled, found: Calibration, *, on_gpu: bool) -> Rate | None:
    """Return the rate of a stage that was tried here; None where it was not, or not on such a device."""
    if stage == "probe":
        spent = [float(amounts["probe_cpu_s"]) for amounts in sampled.per_file]
        return Rate(ratio_of(spent, [1.0] * len(spent), AGREEING), MEASURED, unit) if spent else None
    if not found.windows or stage == "recall" or (stage == "score" and (on_gpu or not found.scored)):
        return None
    if stage == "answer" and (
        (found.answered_on == "cuda") != on_gpu or (unit == TOKEN and not found.answered_by_model)
    ):
        return None
    if stage == "write":
        per_window = found.write_cpu_s / len(found.windows)
        return Rate(Spread.within(per_window, rates.FACTOR_OF_A_GUESS), MEASURED, unit)
    spent, units = found.pairs("answer_s" if stage == "answer" and on_gpu else f"{stage}_cpu_s", PER[unit])
    return Rate(ratio_of(spent, units, AGREEING), MEASURED, unit) if sum(units) else None


def unused_rates(stages: Mapping[str, Any], earlier: Mapping[str, Any]) -> list[str]:
    """Return the stages of an estimate that do not go by an earlier run, each with the reason and what it goes by."""
    told: list[str] = []
    for name, stage in stages.items():
        kind = "gpu_s" if "gpu_s" in stage else "cpu_s"
        if not stage[kind]["high"] or stage["source"].startswith(rates.FROM_RUN):
            continue
        on_gpu = rates.ran_on_gpu(earlier, name)
        why = (
            "too little of it was done"
            if on_gpu == (kind == "gpu_s")
            else f"it ran on {'GPUs' if on_gpu else 'CPUs'}"
        )
        told.append(f"{name} ({why}; the estimate goes by: {stage['source']})")
    return told


def _counts(
    sampled: Sampled, found: Calibration, config: JobConfig, num_queries: int, *, in_bucket: bool
) -> tuple[dict[str, Spread], Spread]:
    """Return what there will be, and how often a bucket is written to."""
    counts = {name: sampled.total(name) for name in COUNTED}
    counts["video_h"] = sampled.total("video_s") * (1 / 3600)
    ends = [sampled.total(name) for name in ("tokens_used_low", "tokens_used", "tokens_used_high")]
    counts["tokens_used"] = Spread(ends[0].low, ends[1].mid, ends[2].high)
    if ends[1].mid:  # what is not known of the plans is not known of the prompts
        prompts = counts["prefill_tokens"]
        counts["prefill_tokens"] = Spread(
            prompts.low * ends[0].low / ends[1].mid if ends[1].mid else 0.0,
            prompts.mid,
            prompts.high * ends[2].high / ends[1].mid,
        )
    parts = counts["windows"] * (1 / config.sink.windows_per_part)
    parts = Spread(*(math.ceil(value) for value in (parts.low, parts.mid, parts.high)))
    counts["verdicts"] = counts["files"] * num_queries
    counts["written_bytes"] = _written(sampled, found, counts, parts)
    writes = (parts + parts + Spread.exactly(2.0)) * REQUESTS_PER_FILE if in_bucket else Spread.exactly(0.0)
    return counts, writes


def _written(sampled: Sampled, found: Calibration, counts: Mapping[str, Spread], parts: Spread) -> Spread:
    """Return the bytes of all tables: rows as large as those of the tried windows, and footers."""
    total = sampled.total("video_rows_bytes") + Spread.exactly(FOOTER_BYTES if counts["files"].mid else 0.0)
    for table, num_rows, num_bytes, of_one in found.parts:
        per_row = (num_bytes - of_one) / (num_rows - 1) if num_rows > 1 else of_one / 2
        rows = counts["verdicts"] if table == "verdicts" else sampled.total(TABLE_ROWS[table])
        files = Spread.exactly(1.0) if table == "verdicts" else parts
        total = total + rows * per_row + files * max(0.0, of_one - per_row)
    return total


def lines(made: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return an estimate for people: pairs of a name and a text."""
    files, counts = made["files"], made["counts"]
    found = [
        ("files", f"{files['new']:,} new of {files['found']:,} found; {files['probed']:,} of the new ones probed,"
                  f" {files['unusable']:,} of these unusable; {made['windows_tried']} windows tried out"),
        ("video", f"{_range(counts['video_h'])} h in {_range(counts['windows'])} windows"),
        ("frames", f"{_range(counts['frames_seen'])} scored"),
        ("answers", f"{_range(counts['answers'])} to {made['queries']} queries"),
    ]  # fmt: skip
    if counts["tokens_dense"]["mid"]:
        found.append(
            ("tokens", f"{_range(counts['tokens_dense'])} dense -> {_range(counts['tokens_used'])} used")
        )
    read, written = (_range(counts[name], 1e-6) for name in ("read_bytes", "written_bytes"))
    found.append(("bytes", f"{read} MB read from a bucket, {written} MB written"))
    for name, stage in made["stages"].items():
        kind = "gpu_s" if "gpu_s" in stage else "cpu_s"
        if stage[kind]["high"]:
            seconds = f"{_range(stage[kind])} {kind[:3].upper()} s"
            found.append((name, f"{seconds}, {told(stage['dollars'])} ({stage['source']})"))
    total, hourly = made["total"], made["per_video_hour"]
    each = f", {told(hourly)} per video hour, {told(made['per_query'])} per query" if hourly else ""
    found.append(
        (
            "cost",
            f"{told(total)}{each}: spot to on demand, for work; start-up and idle machines come on top;"
            f" results kept: ${made['storage_per_month']:.2g} a month; prices as of {made['prices']['as_of']}",
        )
    )
    return found


def _range(spread: Mapping[str, float], factor: float = 1.0) -> str:
    """Return a spread for people: `120 (90-150)`, or one number where it is known."""
    low, mid, high = (f"{float(f'{spread[end] * factor:.3g}'):,.6g}" for end in ("low", "mid", "high"))
    return mid if low == high else f"{mid} ({low}-{high})"
