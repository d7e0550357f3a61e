"""Losses of the heads, and what says how good they are."""

import math

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

MAX_POSITIVE_WEIGHT = 10.0
"""Most that a relevant frame counts more than another, however rare it is."""
TEMPERATURES = (0.05, 20.0)
"""Bounds of what logits are divided by."""


def positive_weight(labels: torch.Tensor) -> float:
    """Return how much more a positive counts: negatives / positives, at most MAX_POSITIVE_WEIGHT; 1 with one class."""
    positives = float(labels.sum())
    negatives = labels.numel() - positives
    return min(MAX_POSITIVE_WEIGHT, negatives / positives) if positives and negatives else 1.0


def head_loss(head: str, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the mean loss: weighted binary cross entropy of [M] (image), cross entropy of [M, 2] (semantic)."""
    if head == "semantic":
        return functional.cross_entropy(logits, labels.long())
    weight = torch.tensor(positive_weight(labels), device=logits.device)
    return functional.binary_cross_entropy_with_logits(logits, labels.float(), pos_weight=weight)


def average_precision(scores: npt.ArrayLike, labels: npt.ArrayLike) -> float | None:
    """Return the area under the precision-recall steps; equal scores are one step; None without a positive."""
    scores_M, labels_M = np.asarray(scores, np.float64), np.asarray(labels, bool)
    positives = int(labels_M.sum())
    if not positives:
        return None
    order = np.argsort(-scores_M, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores_M[order])), len(order) - 1)
    hits = np.cumsum(labels_M[order])[ends]
    gained = np.diff(hits, prepend=0) / positives
    return float((gained * hits / (ends + 1)).sum())


def best_temperature(head: str, logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Return what logits should be divided by so that probabilities are as likely as they say (least log loss).

    1 where the labels are all the same: then any wish for certainty would be granted. Found by golden section, as
    the loss has one valley in the temperature's logarithm.
    """
    if len(labels.unique()) < 2:
        return 1.0
    given, wanted = logits.double(), labels

    def loss(log_temperature: float) -> float:
        scaled = given / math.exp(log_temperature)
        if head == "semantic":
            return float(functional.cross_entropy(scaled, wanted.long()))
        return float(functional.binary_cross_entropy_with_logits(scaled, wanted.double()))

    low, high = (math.log(bound) for bound in TEMPERATURES)
    ratio = (math.sqrt(5) - 1) / 2
    for _ in range(60):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        if loss(left) < loss(right):
            high = right
        else:
            low = left
    return math.exp((low + high) / 2)


def measure(head: str, logits: torch.Tensor, labels: torch.Tensor) -> dict[str, float | int | None]:
    """Return what a head reaches on rows held back: loss, accuracy at 0.5, calibration, for images precision too."""
    if not len(labels):
        return {"dev_items": 0, "dev_loss": None, "dev_accuracy": None, "temperature": 1.0}
    guessed = logits.argmax(-1) if head == "semantic" else (logits > 0).long()
    found: dict[str, float | int | None] = {
        "dev_items": len(labels),
        "dev_loss": float(head_loss(head, logits, labels)),
        "dev_accuracy": float((guessed == labels).double().mean()),
        "temperature": best_temperature(head, logits, labels),
    }
    if head == "image":
        found["dev_average_precision"] = average_precision(logits.numpy(), labels.numpy())
        found["dev_positives"] = int(labels.sum())
    return found
