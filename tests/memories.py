"""Small streams for the tests of memories, and what they should hold."""

import numpy as np
import torch

from pipeline.memory import MEMORIES
from pipeline.streams import Held, Memory, MemoryConfig

GRID, HIDDEN = (3, 4), 6
COUNT = GRID[0] * GRID[1]
Token = tuple[float, int, np.ndarray]
"""Time, place, value."""


def stream(frames: int, seed: int = 0, speed: float = 0.4, count: int = COUNT) -> torch.Tensor:
    """A walk with a cut in its middle."""
    generator = torch.Generator().manual_seed(seed)
    steps = torch.randn(frames, count, HIDDEN, generator=generator, dtype=torch.float64) * speed
    start = torch.randn(2, 1, count, HIDDEN, generator=generator, dtype=torch.float64)
    half = frames // 2
    return torch.cat([start[0] + steps[:half].cumsum(0), start[1] + steps[half:].cumsum(0)])


def times(frames: int) -> torch.Tensor:
    return 0.5 * torch.arange(frames, dtype=torch.float64)


def fill(memory: Memory, values: torch.Tensor, chunk: int = 5) -> Memory:
    for start in range(0, len(values), chunk):
        memory.add(values[start : start + chunk], times(len(values))[start : start + chunk])
    return memory


def make(name: str, **settings) -> Memory:
    return MEMORIES[name](MemoryConfig(memory=name, **{"grid": GRID, **settings}))


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    length = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / length if length else 0.0


def check(held: Held, expected: list[Token]) -> None:
    expected = sorted(expected, key=lambda token: token[:2])
    assert held.pts_s_M.tolist() == [time_s for time_s, _, _ in expected]
    assert held.place_M.tolist() == [place for _, place, _ in expected]
    for value, (_, _, wanted) in zip(held.values_MD.numpy(), expected, strict=True):
        np.testing.assert_allclose(value, wanted, rtol=0, atol=1e-12)
