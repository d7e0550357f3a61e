"""What every entry of MEMORIES obeys; a new entry is tested the day it is added."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import AnswerError
from pipeline.memory import MEMORIES, METHODS
from pipeline.streams import Held, Memory, MemoryConfig

pytestmark = pytest.mark.parametrize("name", sorted(MEMORIES))
GRID, HIDDEN = (3, 4), 5
COUNT = GRID[0] * GRID[1]
PROBES = torch.randn(3, HIDDEN, generator=torch.Generator().manual_seed(7))


@st.composite
def streams(draw, most_frames: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    """Scenes that walk, stand still and are cut, at uneven times."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    frames: list[torch.Tensor] = []
    for _ in range(draw(st.integers(0, 4))):
        speed = draw(st.sampled_from([0.0, 0.01, 0.3, 3.0]))
        start = torch.randn(COUNT, HIDDEN, generator=generator)
        steps = torch.randn(draw(st.integers(1, most_frames // 4)), COUNT, HIDDEN, generator=generator)
        frames += [start + speed * steps.cumsum(0)]
    values = torch.cat(frames) if frames else torch.zeros(0, COUNT, HIDDEN)
    if draw(st.booleans()):
        values = values.round()  # many equal tokens, and zeros
    gaps_s = torch.rand(len(values), generator=generator, dtype=torch.float64) + 0.05
    return values.to(draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float64]))), gaps_s.cumsum(0)


@st.composite
def settings_of(draw, name: str) -> MemoryConfig:
    return MemoryConfig(
        memory=name,
        grid=GRID,
        capacity_tokens=draw(st.integers(8 * COUNT, 20 * COUNT)),
        prune_ratio=draw(st.sampled_from([0.0, 0.5, 0.85, 1.0])),
        threshold=draw(st.sampled_from([None, -1.0, 0.3, 0.9, 1.0])),
        eviction=draw(st.sampled_from(["fifo", "lrr", "decay"])),
        anchor_every=draw(st.integers(1, 5)),
        retrieved_tokens=draw(st.integers(1, 3 * COUNT)),
        num_carriers=draw(st.integers(2, 12)),
        short_frames=draw(st.integers(1, 3)),
        gate_ratio=draw(st.sampled_from([0.0, 0.5])),
    )


def make(config: MemoryConfig) -> Memory:
    return MEMORIES[config.memory](config, PROBES)


def same(one: Held, other: Held) -> bool:
    pairs = (
        (one.values_MD, other.values_MD),
        (one.pts_s_M, other.pts_s_M),
        (one.place_M, other.place_M),
        (one.weight_M, other.weight_M),
    )
    return all(torch.equal(a, b) for a, b in pairs)


@given(st.data())
def test_chunks_change_nothing(name, data):
    config, (values, pts_s) = data.draw(settings_of(name)), data.draw(streams())
    cuts = data.draw(st.lists(st.integers(0, len(values)), max_size=6)) if len(values) else []
    asked = data.draw(st.integers(0, len(values)))
    query = torch.randn(2, HIDDEN, generator=torch.Generator().manual_seed(3))
    bounds = sorted({0, asked, len(values), *cuts})
    frame_by_frame, by_chunks = make(config), make(config)
    for frame in range(len(values)):
        if frame == asked:
            first = frame_by_frame.read(query)
        frame_by_frame.add(values[frame : frame + 1], pts_s[frame : frame + 1])
    for start, end in pairwise(bounds):
        if start == asked:
            assert same(by_chunks.read(query), first)
        by_chunks.add(values[start:end], pts_s[start:end])
    assert same(frame_by_frame.read(), by_chunks.read())
    assert same(frame_by_frame.read(query), by_chunks.read(query))
    assert frame_by_frame.num_tokens == by_chunks.num_tokens


@given(st.data())
def test_stays_within_its_capacity_and_hands_out_in_order(name, data):
    config, (values, pts_s) = data.draw(settings_of(name)), data.draw(streams())
    memory = make(config)
    query = torch.randn(2, HIDDEN, generator=torch.Generator().manual_seed(3))
    for start in range(0, len(values), 7):
        memory.add(values[start : start + 7], pts_s[start : start + 7])
        for held in (memory.read(), memory.read(query)):
            assert len(held) <= memory.num_tokens <= config.capacity_tokens
            assert held.values_MD.dtype == values.dtype
            assert (held.pts_s_M.dtype, held.place_M.dtype, held.weight_M.dtype) == (
                torch.float64,
                torch.int64,
                torch.float32,
            )
            later, same_time = held.pts_s_M.diff() > 0, held.pts_s_M.diff() == 0
            assert bool((later | (same_time & (held.place_M.diff() >= 0))).all())
            assert bool(((held.place_M >= 0) & (held.place_M < COUNT)).all())
            assert bool((held.weight_M >= 1).all())
            assert bool((held.pts_s_M <= pts_s[min(start + 7, len(values)) - 1]).all())
            assert bool(held.values_MD.isfinite().all())


@given(st.data())
def test_the_chunk_given_is_neither_changed_nor_kept(name, data):
    config, (values, pts_s) = data.draw(settings_of(name)), data.draw(streams())
    memory, buffer, clock = make(config), values.clone(), pts_s.clone()
    memory.add(buffer, clock)
    assert torch.equal(buffer, values)
    before = memory.read()
    buffer.zero_()
    clock.zero_()
    assert same(memory.read(), before)


@given(st.data())
def test_a_broken_frame_is_refused_whole(name, data):
    config, (values, pts_s) = data.draw(settings_of(name)), data.draw(streams())
    memory = make(config)
    memory.add(values, pts_s)
    before, last_s = memory.read(), float(pts_s[-1]) if len(pts_s) else 0.0
    chunk = torch.zeros(3, COUNT, HIDDEN, dtype=values.dtype)
    chunk[1, 4, 2] = data.draw(st.sampled_from([torch.nan, torch.inf, -torch.inf]))
    with pytest.raises(AnswerError, match=rf"frame at {last_s + 2:g} s are not finite, or too large"):
        memory.add(chunk, last_s + torch.arange(1.0, 4.0, dtype=torch.float64))
    assert same(memory.read(), before)
    chunk[1] = 1.0
    memory.add(chunk, last_s + torch.arange(1.0, 4.0, dtype=torch.float64))


def test_times_that_do_not_rise_are_refused(name):
    memory = make(MemoryConfig(memory=name, grid=GRID, capacity_tokens=20 * COUNT))
    memory.add(torch.ones(1, COUNT, HIDDEN), torch.tensor([5.0]))
    for pts_s in ([5.0, 6.0], [6.0, 6.0], [torch.nan, 7.0], [6.0, torch.inf]):
        with pytest.raises(AnswerError, match="expected later times"):
            memory.add(torch.ones(2, COUNT, HIDDEN), torch.tensor(pts_s))
    assert int(memory.read().weight_M.sum()) == COUNT


@pytest.mark.parametrize(
    "shape", [(2, COUNT + 1, HIDDEN), (2, COUNT, HIDDEN + 1), (3, COUNT, HIDDEN), (2, COUNT)]
)
def test_frames_of_another_shape_are_refused(name, shape):
    memory = make(MemoryConfig(memory=name, grid=GRID, capacity_tokens=20 * COUNT))
    memory.add(torch.ones(1, COUNT, HIDDEN), torch.tensor([1.0]))
    with pytest.raises(ValueError, match="found"):
        memory.add(torch.ones(shape), torch.tensor([2.0, 3.0]))


def test_memory_is_bounded_in_bytes(name):
    """Ten times the stream, not a byte more."""
    config = MemoryConfig(memory=name, grid=GRID, capacity_tokens=8 * COUNT, num_carriers=8, short_frames=2)
    memory, generator = make(config), torch.Generator().manual_seed(0)
    bytes_after: list[int] = []
    for chunk in range(30):
        values = torch.randn(10, COUNT, HIDDEN, generator=generator)
        memory.add(values, torch.arange(10.0) + 10 * chunk)
        bytes_after.append(memory.num_bytes)
    whole_bytes = config.capacity_tokens * (HIDDEN * 4 + 64)
    assert max(bytes_after[3:]) <= 2 * whole_bytes
    assert max(bytes_after[15:]) <= 1.1 * max(bytes_after[3:15])


def test_an_empty_stream_holds_nothing(name):
    memory = make(MemoryConfig(memory=name, grid=GRID, capacity_tokens=20 * COUNT))
    assert len(memory.read()) == len(memory.read(torch.ones(1, HIDDEN))) == memory.num_tokens == 0
    memory.add(torch.zeros(0, COUNT, HIDDEN), torch.zeros(0))
    assert len(memory.read()) == memory.num_tokens == 0


def test_one_frame_is_held_whole_or_as_one(name):
    memory = make(MemoryConfig(memory=name, grid=GRID, capacity_tokens=20 * COUNT))
    values = torch.randn(1, COUNT, HIDDEN, generator=torch.Generator().manual_seed(0))
    memory.add(values, torch.tensor([2.5]))
    held = memory.read()
    if len(held) == COUNT:
        assert torch.equal(held.values_MD, values[0])
    else:
        torch.testing.assert_close(held.values_MD, values.mean(1))
    assert held.pts_s_M.tolist() == [2.5] * len(held)
    assert float(held.weight_M.sum()) == COUNT


def test_says_what_it_is(name):
    assert METHODS.keys() == MEMORIES.keys()
    assert METHODS[name].stage == "memory"
    assert METHODS[name].stateful
