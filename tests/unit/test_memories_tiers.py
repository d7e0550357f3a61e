"""The three tiers, and what they are built of, against slow references."""

import numpy as np
import pytest
import torch

from pipeline.errors import ConfigError
from pipeline.memory import MEMORIES
from pipeline.memory.slots import Rows, frame_rows
from pipeline.memory.thinning import disperse
from pipeline.streams import Memory, MemoryConfig
from tests.memories import COUNT, GRID, HIDDEN, Token, check, cosine, fill, stream

PROBES = torch.randn(3, HIDDEN, generator=torch.Generator().manual_seed(7), dtype=torch.float64)


def make(grid: tuple[int, int] = GRID, **settings) -> Memory:
    return MEMORIES["savemem"](MemoryConfig(memory="savemem", grid=grid, **settings), PROBES)


def reference_otsu(values: np.ndarray) -> float:
    """Try every edge, without a formula for the variance between."""
    bins = np.clip((values * 64).astype(int), 0, 127)
    best, found = 0.0, None
    for last in range(127):
        low, high = bins[bins <= last], bins[bins > last]
        if len(low) and len(high):
            between = len(low) * len(high) * (low.mean() - high.mean()) ** 2
            if between > best * (1 + 1e-12):
                best, found = between, last
    return float(np.sort(values)[(len(values) - 1) // 2]) if found is None else (found + 0.5) / 64


def reference_neighbours(one: np.ndarray, other: np.ndarray, grid: tuple[int, int]) -> list[float]:
    found = []
    for place in range(len(one)):
        row, column = divmod(place, grid[1])
        found.append(
            max(
                cosine(one[place], other[near // grid[1] * grid[1] + near % grid[1]])
                for near in range(len(other))
                if abs(near // grid[1] - row) <= 1 and abs(near % grid[1] - column) <= 1
            )
        )
    return found


def test_dispersed_tokens_are_the_best_of_their_cells():
    values = torch.randn(2, 64, 3, generator=torch.Generator().manual_seed(0))
    kept = torch.rand(2, 64, generator=torch.Generator().manual_seed(1)) < 0.6
    rows = frame_rows(values, torch.arange(2.0), torch.tensor([10, 11]), kept)
    rows = rows.ranked(torch.randint(0, 4, (len(rows),), generator=torch.Generator().manual_seed(2)))
    assert chosen(disperse(rows, (8, 8))) == reference_disperse(rows)


def chosen(rows: Rows) -> list[tuple[float, int]]:
    return list(zip(rows.pts_s_M.tolist(), rows.place_M.tolist(), strict=True))


def reference_disperse(rows: Rows) -> list[tuple[float, int]]:
    """An 8 x 8 grid in four cells."""
    best: dict[tuple[float, int, int], tuple[float, int]] = {}
    for time_s, place, rank in zip(
        rows.pts_s_M.tolist(), rows.place_M.tolist(), rows.rank_M.tolist(), strict=True
    ):
        cell = (time_s, place // 8 // 4, place % 8 // 4)
        if cell not in best or rank > best[cell][0]:
            best[cell] = (rank, place)
    return sorted((cell[0], place) for cell, (_, place) in best.items())


def reference_thinned(
    values: np.ndarray, drop: float, grid: tuple[int, int]
) -> list[list[tuple[int, float]]]:
    """Per frame: the places kept, and how much each matters."""
    found: list[list[tuple[int, float]]] = []
    mean_change = mean_threshold = None
    for frame, value in enumerate(values):
        matters = [max(cosine(token, probe) for probe in PROBES.numpy()) for token in value]
        places = list(range(len(value)))
        if frame:
            likeness = reference_neighbours(value, values[frame - 1], grid)
            distance = 1 - np.array(likeness)
            spared = np.array(likeness) - 0.15 * np.clip(matters, 0, None)
            change, threshold = distance.mean(), reference_otsu(distance)
            is_cut = mean_change is not None and change > max(0.2, 1.5 * mean_change)
            if mean_change is None:
                mean_change, mean_threshold = change, threshold
            else:
                mean_change = 0.8 * mean_change + 0.2 * change
                mean_threshold = 0.8 * mean_threshold + 0.2 * threshold
            if not is_cut:
                places = [
                    place
                    for place in places
                    if not (1 - spared[place] < mean_threshold or spared[place] > drop)
                ]
        found.append([(place, matters[place]) for place in places])
    return found


def reference_savemem(values: np.ndarray, capacity: int, short: int, drop: float) -> list[Token]:
    count = values.shape[1]
    long_tokens = (capacity - short * count) * 2 // 5
    mid_tokens = capacity - short * count - long_tokens
    leaving = max(0, len(values) - short)
    mid: list[tuple[int, list[tuple[int, float]]]] = []
    long: list[tuple[float, int, int]] = []
    for frame, kept in enumerate(reference_thinned(values, drop, GRID)[:leaving]):
        mid.append((frame, kept))
        while sum(len(tokens) for _, tokens in mid) > mid_tokens:
            old, tokens = mid.pop(0)
            if tokens:  # a grid of 3 x 4 is one cell
                place, matters = max(tokens, key=lambda token: token[1])
                long.append((matters, old, place))
            while len(long) > long_tokens:
                long.remove(min(long))
    held = [(frame, place) for frame, tokens in mid for place, _ in tokens]
    held += [(frame, place) for _, frame, place in long]
    held += [(frame, place) for frame in range(leaving, len(values)) for place in range(count)]
    return [(0.5 * frame, place, values[frame, place]) for frame, place in held]


@pytest.mark.parametrize("speed", [0.1, 0.6, 3.0])
@pytest.mark.parametrize("capacity", [5 * COUNT, 8 * COUNT])
@pytest.mark.parametrize("frames", [1, 3, 4, 31])
def test_the_tiers_equal_the_slow_reference(frames, capacity, speed):
    values = stream(frames, speed=speed)
    held = fill(make(capacity_tokens=capacity, short_frames=3), values).read()
    check(held, reference_savemem(values.numpy(), capacity, 3, 0.8))


def test_the_published_sizes():
    """6,144 tokens with frames of 256: four whole frames, 2,048 in the long tier."""
    memory = make(grid=(16, 16))
    assert (memory.long.capacity, memory.mid_tokens) == (2048, 3072)


def test_a_still_stream_leaves_one_frame_and_the_latest_and_noise_fills_the_middle_tier():
    still = stream(1).repeat(30, 1, 1)
    noise = torch.randn(30, COUNT, 64, generator=torch.Generator().manual_seed(1))
    settings = {"capacity_tokens": 20 * COUNT, "short_frames": 2}
    assert fill(make(**settings), still).num_tokens == 3 * COUNT
    probes = torch.randn(3, 64, generator=torch.Generator().manual_seed(2))
    busy = fill(MEMORIES["savemem"](MemoryConfig(memory="savemem", grid=GRID, **settings), probes), noise)
    assert busy.num_tokens > 6 * COUNT


def test_a_cut_is_kept_whole():
    generator = torch.Generator().manual_seed(3)
    scenes = torch.randn(2, 1, COUNT, HIDDEN, generator=generator).expand(2, 10, COUNT, HIDDEN).flatten(0, 1)
    values = scenes + 0.05 * torch.randn(20, COUNT, HIDDEN, generator=generator)
    held = fill(make(capacity_tokens=100 * COUNT, short_frames=2), values).read()
    assert int((held.pts_s_M == 5.0).sum()) == COUNT
    assert int((held.pts_s_M == 4.5).sum()) < COUNT


def test_a_question_gets_the_latest_frames_and_those_that_stand_out():
    values = stream(20, speed=3.0)
    wanted = torch.zeros(HIDDEN, dtype=torch.float64)
    wanted[2] = 30.0
    values[7] = wanted
    memory = fill(make(capacity_tokens=100 * COUNT, short_frames=2), values)
    found, everything = memory.read(wanted[None]), memory.read()
    assert {3.5, 9.0, 9.5} <= set(found.pts_s_M.tolist())
    assert 3 <= len(found.pts_s_M.unique()) < len(everything.pts_s_M.unique()) / 2


def test_the_gate_answers_from_the_latest_frames_where_they_match_as_well_as_usual():
    values = stream(20, speed=3.0)
    question = torch.ones(1, HIDDEN, dtype=torch.float64)
    open_ = fill(make(capacity_tokens=100 * COUNT, short_frames=2), values)
    gated = fill(make(capacity_tokens=100 * COUNT, short_frames=2, gate_ratio=1.0), values)
    assert len(gated.read(question)) == len(open_.read(question)) > 2 * COUNT  # nothing is usual yet
    assert len(gated.read(question)) == 2 * COUNT
    assert len(open_.read(question)) > 2 * COUNT
    assert len(gated.read(-question)) > 2 * COUNT  # matches worse than usual


@pytest.mark.parametrize("probes", [None, torch.zeros(0, HIDDEN), torch.full((1, HIDDEN), torch.nan)])
def test_probes_are_needed(probes):
    with pytest.raises(
        ConfigError, match=r"probes, token embeddings of made-up questions, and got (none|some)"
    ):
        MEMORIES["savemem"](MemoryConfig(memory="savemem", grid=GRID), probes)
