"""Memories of a stream against slow references, one frame and one token at a time."""

import math

import numpy as np
import pytest
import torch

from pipeline.errors import ConfigError
from tests.memories import COUNT, HIDDEN, Token, check, cosine, fill, make, stream


@pytest.mark.parametrize("frames", [1, 2, 7, 20])
def test_recent_holds_the_latest_whole_frames(frames):
    values = stream(frames)
    held = fill(make("recent", capacity_tokens=5 * COUNT - 1), values).read()
    check(
        held,
        [
            (0.5 * frame, place, values[frame, place].numpy())
            for frame in range(max(0, frames - 4), frames)
            for place in range(COUNT)
        ],
    )


def reference_fifo(
    values: np.ndarray, capacity: int, threshold: float | None, prune_ratio: float
) -> list[Token]:
    queue: list[Token] = []
    for frame in range(len(values)):
        likeness = [
            cosine(values[frame, place], values[frame - 1, place]) for place in range(values.shape[1])
        ]
        if frame == 0:
            kept = list(range(values.shape[1]))
        elif threshold is not None:
            kept = [place for place, like in enumerate(likeness) if not like > threshold]
        else:
            most = math.floor(round((1 - prune_ratio) * values.shape[1], 6))
            kept = sorted(sorted(range(values.shape[1]), key=lambda place: likeness[place])[:most])
        for place in kept:
            queue.append((0.5 * frame, place, values[frame, place]))
            if len(queue) > capacity:
                queue.pop(0)
    return queue


@pytest.mark.parametrize("capacity_tokens", [5, COUNT, 40, 1000])
@pytest.mark.parametrize(
    ("threshold", "prune_ratio"), [(None, 0.0), (None, 0.5), (None, 0.85), (None, 1.0), (0.8, 0), (-1, 0)]
)
def test_fifo_equals_the_slow_reference(threshold, prune_ratio, capacity_tokens):
    values = stream(23)
    memory = make("fifo", capacity_tokens=capacity_tokens, threshold=threshold, prune_ratio=prune_ratio)
    check(
        fill(memory, values).read(), reference_fifo(values.numpy(), capacity_tokens, threshold, prune_ratio)
    )


@pytest.mark.parametrize("name", ["fifo", "recent"])
def test_full_retention_is_the_identity(name):
    values = stream(9).bfloat16()
    held = fill(make(name, capacity_tokens=9 * COUNT, prune_ratio=0.0), values).read()
    assert torch.equal(held.values_MD, values.flatten(0, 1))


def test_fifo_of_a_still_stream_keeps_the_first_frame_and_of_noise_everything():
    still = stream(1).repeat(30, 1, 1)
    noise = torch.randn(30, COUNT, HIDDEN, generator=torch.Generator().manual_seed(1))
    settings = {"capacity_tokens": 1000, "threshold": 0.999}
    assert fill(make("fifo", **settings), still).num_tokens == COUNT
    assert fill(make("fifo", **settings), noise).num_tokens == 30 * COUNT


def test_recent_refuses_a_capacity_below_a_frame():
    with pytest.raises(ConfigError, match=r"one frame, 12 tokens, and capacity-tokens is 11; raise it"):
        make("recent", capacity_tokens=11)


def test_fifo_does_not_lose_a_token_to_floating_point():
    values = stream(2, count=10)
    held = fill(make("fifo", grid=(2, 5), prune_ratio=0.9), values).read()
    assert len(held) == 11
