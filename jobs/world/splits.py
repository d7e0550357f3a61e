"""Which scenes are for what: splits are ranges of seeds, so that nothing tested was ever trained on."""

from typing import Literal

Split = Literal["train", "dev", "test"]

FIRST_SEED: dict[Split, int] = {"train": 1_000_000, "dev": 2_000_000, "test": 3_000_000}


def seeds(split: Split, count: int) -> range:
    """Return the first seeds of a split."""
    return range(FIRST_SEED[split], FIRST_SEED[split] + count)
