"""How long one unit of a stage's work takes, and who says so: an earlier run, a measurement, or a rough table."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.spread import Spread

UNITS = {
    "probe": "file",
    "decode": "video second",
    "recall": "indexed window",
    "score": "frame",
    "evidence": "video second",
    "answer": "answer",
    "write": "window",
}
TOKEN = "token"
"""What answers of a language model are counted by: a token that goes through it before it speaks."""
ENOUGH_S = 1.0
"""An earlier run that spent less on a stage says nothing about it."""
FACTOR_OF_A_RUN = 1.25
"""How far another run's seconds may lie from this one's, on the same machines."""
FACTOR_OF_A_GUESS = 3.0
FROM_RUN = "from run"
"""How the source of a rate begins that an earlier run told."""
MEGAPIXEL_S = 0.005
"""CPU seconds to decode a million pixels."""

CPU_S = {"probe": 0.05, "recall": 0.01, "score": 0.1, "answer": 0.0005, TOKEN: 0.03, "write": 0.02}
"""CPU seconds of a unit, where nothing else is known: small models, a language model of about two billion weights."""
GPU_S = {"score": 0.004, "answer": 0.0005, TOKEN: 0.0002}
"""GPU seconds of a unit, likewise."""


@dataclass(frozen=True, slots=True)
class Rate:
    """Seconds of one unit: CPU seconds, of a stage on a GPU busy seconds, whatever share of the GPU it holds."""

    per_unit: Spread
    source: str
    unit: str

    def dump(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return {"per_unit_s": self.per_unit.dump(), "unit": self.unit, "source": self.source}


def guess(stage: str, unit: str, *, on_gpu: bool) -> Rate:
    """Return the rough rate of a stage."""
    table = GPU_S if on_gpu and stage in ("score", "answer") else CPU_S
    value = table[unit if unit == TOKEN else stage]
    return Rate(Spread.within(value, FACTOR_OF_A_GUESS), "default, rough", unit)


def guess_decoding(width_px: float, height_px: float, fps: float) -> Rate:
    """Return the rough rate of decoding a video second of a size."""
    value = MEGAPIXEL_S * width_px * height_px * fps / 1e6
    return Rate(Spread.within(value, FACTOR_OF_A_GUESS), "default, rough", "video second")


def of_run(bill: Mapping[str, Any], stage: str, unit: str, *, on_gpu: bool) -> Rate | None:
    """Return the rate that an earlier run's bill tells; None where it says too little, or ran on something else.

    On a GPU busy seconds count: those of a GPU depend on how many actors shared one, and runs that were cut short
    have none.
    """
    counts, spent = bill["counts"], bill["stages"][stage]
    units = {
        "file": counts["videos"],
        "video second": counts["video_h"] * 3600 if stage == "evidence" else counts["video_decoded_s"],
        "indexed window": counts["windows_from_index"],
        "frame": counts["frames_scored"],
        "answer": counts["answers"],
        TOKEN: counts["prefill_tokens"],
        "window": counts["windows"],
    }[unit]
    seconds = spent["busy_s"] if on_gpu else spent["cpu_s"]
    if not units or seconds < ENOUGH_S or ran_on_gpu(bill, stage) != on_gpu:
        return None
    name = bill.get("run_id") or f"{bill.get('runs', 1)} earlier runs"
    return Rate(Spread.within(seconds / units, FACTOR_OF_A_RUN), f"{FROM_RUN} {name}", unit)


def ran_on_gpu(bill: Mapping[str, Any], stage: str) -> bool:
    """Return whether a stage of an earlier run held GPUs."""
    return bool(bill["stages"][stage]["gpu_s"])
