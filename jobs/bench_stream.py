"""Do memories of endless streams stay as small as they say, and keep up? Ten hours through each, on one core.

The stream is made up: visual tokens of scenes that walk, stand still and are cut, drawn from a seeded generator chunk
by chunk, in the size that InternVL3-1B's frames have behind the projector (256 tokens of 896). Nothing is encoded for
it, so its rate is the memories' own; what goes before, decoding and encoding, is measured apart, on generated videos
through the model that comes with the package. Each memory has a process of its own with one thread. Rates are per
second of CPU time, so that a busy machine does not change them; on an idle one that is time.

Resident memory is sampled four times per hour of the stream; its slope is that of a least-squares line through what
follows the warm-up, the first tenth. Freed tensors go back to the system at once, as they do where a model answers on
a CPU: otherwise the C library's heap takes a step of a few megabytes now and then, for hours, and the slope is those
steps. The last stdout line is one JSON document.

Shape letters: T frames of a chunk, N tokens of a frame, D hidden size.
"""

import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from actors.device import return_freed_memory
from jobs.bench_report import circumstances, table, write_report
from jobs.command_line import parse, require
from pipeline.memory import MEMORIES
from pipeline.streams import MemoryConfig

PROG = "reelsift bench stream"
GRID, HIDDEN = (16, 16), 896
PROBES = QUESTION_TOKENS = 5
WARM_UP = 0.1
"""Share of the stream after which memories are full and libraries set up."""
SAMPLES_PER_HOUR = 4
LEAST_SAMPLES = 20
SLOPE_BOUND = 1.0
"""Megabytes of resident memory per hour of the stream."""
RATE_BOUND = 30.0
"""Frames per second of CPU time."""
VARIANTS: dict[str, dict[str, Any]] = {
    **{name: {} for name in MEMORIES},
    "fifo, threshold": {"memory": "fifo", "threshold": 0.9},
    "stream-dycoke, lrr": {"memory": "stream-dycoke", "eviction": "lrr"},
    "stream-dycoke, decay": {"memory": "stream-dycoke", "eviction": "decay"},
}
"""What is measured: every memory as it comes, and the ways some may be set."""


@dataclass(frozen=True)
class Arguments:
    """Measure memories of streams: resident memory over hours, and frames per second on one core."""

    hours: float = 10.0
    """Length of the stream."""
    fps: float = 1.0
    """Frames per second of the stream."""
    chunk: int = 4
    """Frames handed over at a time; a live stream hands over one."""
    only: str = ""
    """One variant, as the report names it; empty = all."""
    videos: int = 6
    """Generated videos that are read for the rate from pixels."""
    processes: int = 1
    """Memories measured side by side; more are done sooner and slow each other down a little."""
    report: Path | None = None
    """Markdown file to write; the default, for the usual settings, is named after the machine and the day, in
    docs/benchmarks/."""


@dataclass(frozen=True)
class Row:
    """What one memory took."""

    memory: str
    frames: int
    frames_per_s: float
    """Per second of CPU time in `add`."""
    wall_frames_per_s: float
    read_ms: float
    """CPU time of one question, the mean over samples."""
    tokens: int
    """Held in the end."""
    state_mb: float
    """What the memory says of its own size, the most."""
    rss_mb: float
    """Of the whole process in the end, libraries included."""
    rss_slope_mb_per_hour: float


def main(argv: list[str]) -> int:
    """Run all memories; exit code 1 if one grows or is too slow.

    Raises:
        ConfigError: a setting is out of its range.
    """
    args = parse(Arguments, argv, PROG, Arguments.__doc__)
    require("--hours", args.hours, above=0)
    require("--fps", args.fps, above=0)
    require("--chunk", args.chunk, at_least=1)
    require("--videos", args.videos, at_least=1)
    require("--processes", args.processes, at_least=1)
    names = [name for name in VARIANTS if args.only in ("", name)]
    require(f"--only {args.only!r}: variants of that name,", len(names), at_least=1)
    # one call per process, so that each memory has one that nobody else has used
    with multiprocessing.get_context("spawn").Pool(args.processes, maxtasksperchild=1) as pool:
        pixels = pool.apply(measure_pixels, ("recent", args.videos))
        pending = [pool.apply_async(measure, (name, args)) for name in names]
        rows = [_announce(one.get()) for one in pending]
    slope = max(row.rss_slope_mb_per_hour for row in rows)
    rate = min(row.frames_per_s for row in rows)
    passed = slope < SLOPE_BOUND and rate >= RATE_BOUND
    _write(args, rows, pixels)
    figures = {"rss_slope_mb_per_hour": slope, "frames_per_s": rate, "from_pixels": pixels}
    found = {"bench": "stream", "pass": passed, "figures": figures, "rows": [asdict(row) for row in rows]}
    print(json.dumps(found))
    return 0 if passed else 1


def _announce(row: Row) -> Row:
    print(json.dumps(asdict(row)), file=sys.stderr)
    return row


def measure(name: str, args: Arguments) -> Row:
    """Return what one variant takes for the stream."""
    import psutil

    torch.set_num_threads(1)
    return_freed_memory()
    settings: dict[str, Any] = {"memory": name, "grid": GRID, **VARIANTS[name]}
    config = MemoryConfig(**settings)
    question_QD = torch.randn(PROBES + QUESTION_TOKENS, HIDDEN, generator=torch.Generator().manual_seed(1))
    memory = MEMORIES[config.memory](config, question_QD[:PROBES])
    num_frames = max(2 * LEAST_SAMPLES, round(args.hours * 3600 * args.fps))
    every = min(round(3600 * args.fps / SAMPLES_PER_HOUR), num_frames // LEAST_SAMPLES)
    process = psutil.Process()
    cpu_s = wall_s = read_s = 0.0
    state_bytes, seen, samples = 0, 0, list[tuple[float, float]]()
    for values_TND, pts_s_T in stream(num_frames, args.fps, args.chunk):
        before_cpu_s, before_s = time.process_time(), time.perf_counter()
        memory.add(values_TND, pts_s_T)
        cpu_s += time.process_time() - before_cpu_s
        wall_s += time.perf_counter() - before_s
        seen += len(values_TND)
        if seen // every > len(samples):
            before_cpu_s = time.process_time()
            memory.read(question_QD[PROBES:])
            read_s += time.process_time() - before_cpu_s
            samples.append((seen / args.fps / 3600, process.memory_info().rss / 1e6))
            state_bytes = max(state_bytes, memory.num_bytes)
    return Row(
        memory=name,
        frames=num_frames,
        frames_per_s=round(num_frames / cpu_s, 1),
        wall_frames_per_s=round(num_frames / wall_s, 1),
        read_ms=round(1000 * read_s / len(samples), 1),
        tokens=memory.num_tokens,
        state_mb=round(state_bytes / 1e6, 1),
        rss_mb=round(samples[-1][1]),
        rss_slope_mb_per_hour=round(slope_of(samples[int(WARM_UP * len(samples)) :]), 4),
    )


def slope_of(samples: list[tuple[float, float]]) -> float:
    """Return the slope of the least-squares line through points (x, y), at least two."""
    x, y = np.asarray(samples, dtype=np.float64).T
    return float(np.sum((x - x.mean()) * (y - y.mean())) / np.sum((x - x.mean()) ** 2))


def stream(
    num_frames: int, fps: float, chunk: int, seed: int = 0
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield chunks of a made-up stream and their times, the same for the same seed, whatever the chunks.

    Scenes last 60 frames on average and begin with a cut. In half of them a quarter of the tokens walks at random, the
    other half stands still; every token of every frame has a little noise (about .02 of its length), as cameras do.
    """
    generator = np.random.default_rng(seed)
    count = GRID[0] * GRID[1]
    # noise is cut out of a bank: drawing it anew would cost more than most memories
    bank_ND = torch.randn(16 * count, HIDDEN, generator=torch.Generator().manual_seed(seed))
    scene_ND = torch.empty(count, HIDDEN)
    left, walks = 0, False
    values_TND = torch.empty(chunk, count, HIDDEN)
    for start in range(0, num_frames, chunk):
        num = min(chunk, num_frames - start)
        for frame in range(num):
            if not left:
                left, walks = int(generator.geometric(1 / 60)), bool(generator.integers(2))
                scene_ND.copy_(bank_ND[torch.from_numpy(generator.permutation(len(bank_ND))[:count])])
            if walks:
                moving = torch.from_numpy(generator.permutation(count)[: count // 4])
                at = int(generator.integers(0, len(bank_ND) - len(moving)))
                scene_ND[moving] = 0.9 * scene_ND[moving] + 0.436 * bank_ND[at : at + len(moving)]
            at = int(generator.integers(0, len(bank_ND) - count))
            torch.add(scene_ND, bank_ND[at : at + count], alpha=0.02, out=values_TND[frame])
            left -= 1
        yield values_TND[:num], torch.arange(start, start + num, dtype=torch.float64) / fps


def measure_pixels(name: str, num_videos: int) -> dict[str, float]:
    """Return how many frames a second go from a video file into a memory, and where their time goes."""
    from actors.models import video_llm
    from jobs.world.scenes import SECONDS
    from jobs.world.splits import seeds
    from jobs.world.videos import FPS, write_video
    from pipeline.config import AnswerConfig, CompressConfig, DecodeConfig, WindowConfig
    from pipeline.isolation import Reader
    from pipeline.listing import list_videos

    torch.set_num_threads(1)
    answerer = video_llm.make(
        AnswerConfig(model="package:world/model", frame_px=64, dtype="float32"), CompressConfig(), "cpu"
    )
    assert isinstance(answerer, video_llm.VideoLlm)
    answerer.warm_up()
    reader = Reader(DecodeConfig(), WindowConfig())
    memory = MEMORIES[name](MemoryConfig(memory=name, grid=answerer.parts.grid))
    decode_s = encode_s = add_s = 0.0
    frames = 0
    with tempfile.TemporaryDirectory() as folder:
        for seed in seeds("test", num_videos):
            write_video(Path(folder) / f"{seed}.mp4", seed)
        for number, video in enumerate(list_videos(folder)):
            reader.probe(video)  # starts the decoding process before the first video is timed
            started_s = time.perf_counter()
            pictures, _ = reader.look(
                video, [k / FPS for k in range(SECONDS * FPS)], answerer.parts.frame_size
            )
            decoded_s = time.perf_counter()
            values_NKD = answerer.encode(pictures.data_NHWC).values_NKD
            encoded_s = time.perf_counter()
            memory.add(values_NKD, torch.from_numpy(pictures.pts_s_N) + number * SECONDS)
            add_s += time.perf_counter() - encoded_s
            encode_s, decode_s = encode_s + encoded_s - decoded_s, decode_s + decoded_s - started_s
            frames += len(pictures)
    whole_s = decode_s + encode_s + add_s
    return {
        "frames": frames,
        "frame_px": answerer.parts.frame_size.width_px,
        "tokens_per_frame": answerer.parts.tokens_per_frame,
        "frames_per_s": round(frames / whole_s, 1),
        "decode_share": round(decode_s / whole_s, 3),
        "encode_share": round(encode_s / whole_s, 3),
        "memory_share": round(add_s / whole_s, 3),
    }


def _write(args: Arguments, rows: list[Row], pixels: dict[str, float]) -> None:
    """Write the report."""
    command = (
        f"{PROG} --hours {args.hours:g} --fps {args.fps:g} --chunk {args.chunk} --processes {args.processes}"
    )
    lines = [
        "# Streams: hours through each memory, on one core",
        "",
        *circumstances(command),
        "",
        f"A made-up stream of {args.hours:g} hours at {args.fps:g} frames per second, float32 frames of"
        f" {GRID[0] * GRID[1]} tokens of {HIDDEN}, in chunks of {args.chunk}: encoding is not part of it. Rates are per"
        f" second of CPU time. A question has {QUESTION_TOKENS} tokens. Bounds: slope below {SLOPE_BOUND:g} MB per hour"
        f" after the warm-up, {RATE_BOUND:g} frames per second.",
        "",
    ]
    head = [
        "memory",
        "frames/s",
        "frames/s, wall",
        "question ms",
        "tokens",
        "state MB",
        "RSS MB",
        "RSS MB per hour",
    ]
    lines += table(
        head,
        [
            [
                *(
                    row.memory,
                    f"{row.frames_per_s:.0f}",
                    f"{row.wall_frames_per_s:.0f}",
                    f"{row.read_ms:.1f}",
                ),
                *(
                    f"{row.tokens}",
                    f"{row.state_mb:.1f}",
                    f"{row.rss_mb:.0f}",
                    f"{row.rss_slope_mb_per_hour:+.3f}",
                ),
            ]
            for row in rows
        ],
    )
    lines += [
        "",
        f"From pixels, with the small model of the package: {pixels['frames_per_s']:g} frames per second of wall time,"
        f" {pixels['frames']} frames of {pixels['frame_px']} px, {pixels['tokens_per_frame']} tokens each:"
        f" {pixels['decode_share']:.0%} decoding, {pixels['encode_share']:.0%} encoding,"
        f" {pixels['memory_share']:.0%} the memory (`recent`). That model is far smaller than those that answer real"
        " questions: there encoding, not the memory, decides what rate a stream may have.",
    ]
    is_usual = replace(args, report=None, processes=1) == Arguments()
    write_report("stream", lines, args.report, [] if is_usual else ["the stream is not the usual one"])
