"""What compression takes, beside the prefill that it saves, at the size of a published model.

The prefill is that of the language model alone, as time of one of its layers, with random weights, times their number:
all layers are alike, and neither the vision tower nor the logits depend on what is kept. Lengths between those measured
are read off a n + b n^2, which is what a layer's weights and its attention take.
"""

import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from jobs.bench_compress_ways import COMPRESS, DENSE, Asked, Way, draw_clip
from jobs.bench_shapes import Text, find_shape
from pipeline.frames import FrameSize
from pipeline.queries import Query
from pipeline.route import Route

if TYPE_CHECKING:
    from actors.models import Device
    from pipeline.tokens import VisualTokens

SHORTEST = 8
"""The shortest prefill measured is this part of the dense one."""
MOST_SHARE = 0.02
"""Of the prefill time saved, that compression may take."""


@dataclass(slots=True)
class Cost:
    """What one method at one budget takes for one clip."""

    compress_s: float
    peak_mb: float
    """Most memory held beside the clip itself, in 10^6 bytes."""
    kept: int
    """Tokens left; of a selector, those of its plan."""
    share: float | None
    """Of the prefill time saved; None where nothing is saved, or it is a selector."""


@dataclass(slots=True)
class Speed:
    """All that was timed."""

    shape: str
    device: str
    threads: int
    num_frames: int
    num_tokens: int
    prefill_s: list[tuple[int, float]]
    """(Tokens, seconds of all layers) of the lengths measured, longest first."""
    costs: dict[tuple[str, str, float], Cost] = field(default_factory=dict[tuple[str, str, float], Cost])
    """By table, name and budget."""

    @property
    def max_share(self) -> float:
        """The largest share of what it saves that any compressor takes."""
        return max((cost.share for cost in self.costs.values() if cost.share is not None), default=0.0)

    def of(self, way: Way) -> Cost | None:
        """Return what a method at a budget takes."""
        return self.costs.get((way.table, way.name, way.budget_pct))

    def prefill_at_s(self, num_tokens: int) -> float:
        """Return the seconds of a prefill of some length."""
        lengths, times_s = np.asarray(self.prefill_s, np.float64).T
        weights = 1 / times_s  # every length's relative error counts alike
        design = np.stack([lengths, lengths**2], 1) * weights[:, None]
        factors, *_ = np.linalg.lstsq(design, np.ones(len(lengths)), rcond=None)
        return float(factors @ [num_tokens, num_tokens**2])


def measure_speed(
    ways: Sequence[Way],
    repeats: int,
    device: "Device",
    shape_name: str,
    num_frames: int,
) -> Speed:
    """Return what every method takes for one drawn clip, and the prefill at some lengths.

    Args:
        ways: methods at budgets.
        repeats: how often each is timed; the median counts, and the faster of two prefills.
        device: where it all happens.
        shape_name: of the model, a name of bench_shapes.SHAPES.
        num_frames: of the clip.

    Raises:
        ConfigError: no such shape.
    """
    import torch

    shape = find_shape(shape_name)
    side = round(shape.tokens_per_frame**0.5)
    size = FrameSize(shape.vision.frame_px, shape.vision.frame_px)
    clip = draw_clip(num_frames, (side, side), shape.text.width, size, device)
    asked = draw_asked(num_frames)
    num_tokens = len(clip.source_N)
    lengths = [num_tokens // part for part in (1, 2, 4, SHORTEST)]
    times_s = prefill_times_s(shape.text, lengths, device)
    speed = Speed(shape_name, device, torch.get_num_threads(), num_frames, num_tokens, times_s)
    for way in ways:
        if way.name == DENSE:
            continue
        cost = (
            _compress(way, clip, num_frames, repeats, device)
            if way.table == COMPRESS
            else _select(way, asked, clip.num_per_frame, repeats, device)
        )
        if way.table == COMPRESS and cost.kept < num_tokens:
            saved_s = speed.prefill_at_s(num_tokens) - speed.prefill_at_s(cost.kept)
            cost.share = cost.compress_s / saved_s
        speed.costs[way.table, way.name, way.budget_pct] = cost
    return speed


def _compress(way: Way, clip: "VisualTokens", num_frames: int, repeats: int, device: "Device") -> Cost:
    from pipeline.compress import TOKEN_COMPRESSORS

    assert way.plan is not None
    num = clip.num_per_frame
    plan = way.plan(num_frames, num, int(num_frames * num * way.budget_pct / 100)).tokens_N
    compress = TOKEN_COMPRESSORS[way.settings.compressor]
    kept: list[int] = []

    def work() -> None:
        kept.append(len(compress(clip, plan, way.settings).source_N))

    seconds, peak_mb = _measure(work, repeats, device)
    return Cost(seconds, peak_mb, kept[0], None)


def _select(way: Way, asked: Asked, tokens_per_frame: int, repeats: int, device: "Device") -> Cost:
    kept: list[int] = []

    def work() -> None:
        kept.append(sum(way.plans(asked, tokens_per_frame)[0].tokens_N))

    seconds, peak_mb = _measure(work, repeats, device)
    return Cost(seconds, peak_mb, kept[0], None)


def _measure(work: Callable[[], None], repeats: int, device: "Device") -> tuple[float, float]:
    """Return the median seconds of some work, and its peak of memory in 10^6 bytes."""
    work()
    peak_mb = allocated_bytes(work, device) / 1e6
    times_s: list[float] = []
    for _ in range(repeats):
        _synchronize(device)
        started = time.perf_counter()
        work()
        _synchronize(device)
        times_s.append(time.perf_counter() - started)
    return median(times_s), peak_mb


def allocated_bytes(work: Callable[[], None], device: "Device") -> int:
    """Return the most bytes that some work has allocated and not yet freed at any time.

    On a GPU they are torch's own count. On a CPU they are the peak of tensors (torch's profiler) and the peak of
    numpy and Python objects (tracemalloc), added; resident memory says less, as freed memory is used again unseen.
    """
    import torch
    from torch.profiler import ProfilerActivity, profile

    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        work()
    recorded: Any = profiled.profiler
    events = [event for event in recorded.kineto_results.events() if event.name() == "[memory]"]
    held = np.cumsum([event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())])
    tracemalloc.start()
    try:
        work()
        _, objects = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return int(max(0, *held)) + objects if len(held) else objects


def _synchronize(device: "Device") -> None:
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def prefill_times_s(text: Text, lengths: Sequence[int], device: "Device") -> list[tuple[int, float]]:
    """Return (tokens, seconds) of a prefill of each length: one layer's time, times the number of layers."""
    import torch
    from transformers import AutoModel, Qwen2Config

    config = Qwen2Config(
        hidden_size=text.width, num_hidden_layers=1, num_attention_heads=text.heads,
        num_key_value_heads=text.kv_heads, intermediate_size=text.mlp, vocab_size=8,
        max_position_embeddings=max(lengths),
    )  # fmt: skip
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    layer = AutoModel.from_config(config, dtype=dtype).to(device).eval()
    found: list[tuple[int, float]] = []
    with torch.inference_mode():
        layer(inputs_embeds=torch.zeros(1, 16, text.width, dtype=dtype, device=device), use_cache=False)
        for length in lengths:
            embeds_1LD = torch.randn(1, length, text.width, dtype=dtype, device=device)
            times_s: list[float] = []
            for _ in range(2):
                _synchronize(device)
                started = time.perf_counter()
                layer(inputs_embeds=embeds_1LD, use_cache=False)
                _synchronize(device)
                times_s.append(time.perf_counter() - started)
            found.append((length, min(times_s) * text.layers))
    return found


def draw_asked(num_frames: int, embedding: int = 512) -> Asked:
    """Return one question about one drawn window; embeddings walk, and jump now and then."""
    from pipeline import rows

    generator = np.random.default_rng(0)
    jumps_N = generator.random(num_frames) < 0.1
    steps_NE = generator.normal(size=(num_frames, embedding)) * np.where(jumps_N, 5.0, 0.2)[:, None]
    row = {
        "pts_s": [float(frame) for frame in range(num_frames)],
        "end_s": float(num_frames),
        "query_ids": ["q0"],
        "embedding": rows.pack(steps_NE.cumsum(0).astype(np.float32)),
        "relevance": rows.pack(generator.random((num_frames, 1), dtype=np.float32)),
        "novelty": [1.0, *generator.random(num_frames - 1).tolist()],
        "slow": [True, *(generator.random(num_frames - 1) < 0.3).tolist()],
    }
    return Asked(row, [Query("q0", "What is seen?", "ask")], {"q0": Route("fragment", 1.0, "drawn")})
