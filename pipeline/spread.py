"""Numbers that are not known exactly: what is expected, and from where to where it may lie."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

ERRORS = 2.0
"""Standard errors from the expected value to either end: about 19 of 20 times the truth lies between."""
FACTOR_OF_ONE = 2.0
"""Where one sample stands for all, the truth may be so many times as large, or as small."""


@dataclass(frozen=True, slots=True)
class Spread:
    """An expected value of at least 0 between a low and a high one."""

    low: float
    mid: float
    high: float

    @classmethod
    def exactly(cls, value: float) -> "Spread":
        """Return a value that is known."""
        return cls(value, value, value)

    @classmethod
    def within(cls, value: float, factor: float) -> "Spread":
        """Return a value that may be so many times as large, or as small."""
        return cls(value / factor, value, value * factor)

    def __add__(self, other: "Spread") -> "Spread":
        """Return the sum; both may be off in the same direction."""
        return Spread(self.low + other.low, self.mid + other.mid, self.high + other.high)

    def __mul__(self, other: "Spread | float") -> "Spread":
        """Return the product; both may be off in the same direction."""
        by = other if isinstance(other, Spread) else Spread.exactly(other)
        return Spread(self.low * by.low, self.mid * by.mid, self.high * by.high)

    def dump(self) -> dict[str, float]:
        """Return it as plain JSON values, four digits of each."""
        return {
            name: float(f"{value:.4g}")
            for name, value in (("low", self.low), ("mid", self.mid), ("high", self.high))
        }


def total_of(values: Sequence[float], sizes: Sequence[float], num_all: int, size_all: float) -> Spread:
    """Return the sum over a population, of which a random sample is known.

    Either every member counts as much as a sampled one on average, or every byte does: whichever predicts the sample
    with the smaller error.

    Args:
        values: of the sampled members.
        sizes: of the sampled members; known for all, and thought to go with the values.
        num_all: members of the population.
        size_all: sum of all sizes.
    """
    known = float(np.sum(values))
    if len(values) >= num_all:
        return Spread.exactly(known)
    if not values:
        return Spread(0.0, 0.0, math.inf)
    value_N, size_N = np.asarray(values, float), np.asarray(sizes, float)
    mean, per_size = value_N.mean(), known / size_N.sum() if size_N.sum() else 0.0
    guesses = [(num_all * mean, value_N - mean)]
    if per_size:
        guesses.append((max(known, per_size * size_all), value_N - per_size * size_N))
    if len(values) == 1:
        return Spread.within(guesses[-1][0], FACTOR_OF_ONE)
    total, rest_N = min(guesses, key=lambda guess: float(guess[1] @ guess[1]))
    left = math.sqrt(1 - len(values) / num_all)
    off = ERRORS * num_all * math.sqrt(float(rest_N @ rest_N) / (len(values) - 1) / len(values)) * left
    return Spread(max(known, total - off), total, total + off)


def ratio_of(spent: Sequence[float], units: Sequence[float], least: float) -> Spread:
    """Return what one unit takes, from samples of several units each.

    Args:
        spent: per sample.
        units: per sample, more than 0 in all.
        least: share by which the truth may be off even where the samples agree.
    """
    spent_N, unit_N = np.asarray(spent, float), np.asarray(units, float)
    ratio = float(spent_N.sum() / unit_N.sum())
    if len(spent_N) == 1:
        return Spread.within(ratio, FACTOR_OF_ONE)
    rest_N = spent_N - ratio * unit_N
    error = math.sqrt(float(rest_N @ rest_N) * len(spent_N) / (len(spent_N) - 1)) / float(unit_N.sum())
    off = max(ERRORS * error, least * ratio)
    return Spread(max(0.0, ratio - off), ratio, ratio + off)
