"""What do cache policies take, in memory and in time, as a video grows? `reelsift bench kv`.

A made-up video goes through the model's vision tower and, group by group, through its language model; then a question
is put. Counted are the bytes that a policy holds at most, keys, values and what it knows of each of them, after each
group and while the question is open; resident memory above that before the video, which the allocator and the vision
tower blur; the time to read the video; and the time from a question to the first token of its answer. `rekv` keeps
what it archives on disk.

A run passes when memory grows as each policy claims: with the frames (none, and dycoke-dp likewise), by the share that
stays (quick-prefill), by no more than the text between frames (livevlm), not at all (streaming-vlm, rekv). Times are
told, not judged. The model's context is taken as endless: noise is read, and no answer is looked at.
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import tyro

from jobs.bench_report import circumstances, table, write_report
from jobs.command_line import parse, require
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from actors.kv.cache import KvCache
    from actors.models.video_llm import VideoLlm
    from pipeline.frames import Frames

PROG = "reelsift bench kv"
Policy = Literal["none", "quick-prefill", "dycoke-dp", "streaming-vlm", "rekv", "livevlm"]
FLAT: tuple[Policy, ...] = ("streaming-vlm", "rekv")
SHARES: tuple[Policy, ...] = ("quick-prefill", "dycoke-dp")
"""Judged by how `none` grows."""
FRAMES = (64, 128, 256, 512, 1024)
POLICIES: tuple[Policy, ...] = ("none", "quick-prefill", "streaming-vlm", "rekv")
MAX_GROWTH = 1.05
"""How much more a flat policy may hold for the longest video than for the shortest."""
QUESTIONS = 5
"""Put one after the other; the median time counts."""
MB = 1e6


@dataclass(frozen=True)
class Arguments:
    """Measure memory and time of cache policies against the number of frames."""

    frames: tyro.conf.UseAppendAction[tuple[int, ...]] = ()
    """Frames of the made-up video; may be given several times. None = 64, 128, 256, 512, 1024."""
    policies: tyro.conf.UseAppendAction[tuple[Policy, ...]] = ()
    """Policies; may be given several times. None = none, quick-prefill, streaming-vlm, rekv."""
    model: str = "package:world/model"
    """Video language model."""
    frame_px: int = 64
    """Side of a frame."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where the model runs."""
    report: Path | None = None
    """Markdown file to write; the default, for the usual settings, is in docs/benchmarks/."""


@dataclass(frozen=True)
class Row:
    """One policy and one length."""

    policy: str
    frames: int
    peak_mb: float
    """What a policy holds on the device, in 10^6 bytes, at most."""
    rss_mb: float
    """Resident memory, at most, above that before the video."""
    disk_mb: float
    read_s: float
    """From the first frame to the last, vision tower included."""
    ttft_s: float
    """From a question to the first token of its answer."""


def main(argv: list[str]) -> int:
    """Measure, print a table to stderr and JSON to stdout, write the report; return the exit code.

    Raises:
        ConfigError: fewer than two lengths, or a policy that is judged by `none` without it.
        ModelError: the model cannot be loaded.
    """
    args = parse(Arguments, argv, PROG, __doc__)
    require("--frame-px", args.frame_px, at_least=1)
    frames, policies = sorted(set(args.frames or FRAMES)), args.policies or POLICIES
    if len(frames) < 2 or frames[0] < 2:
        msg = f"--frames {frames}: growth needs two different lengths, of 2 frames at least"
        raise ConfigError(msg)
    if "none" not in policies and (judged := [policy for policy in policies if policy in SHARES]):
        msg = f"--policies {judged[0]} is judged by how `none` grows; add --policies none"
        raise ConfigError(msg)
    llm = _load(args)
    _measure(llm, policies[0], 2)  # kernels and libraries set themselves up
    rows = [_measure(llm, policy, length) for policy in policies for length in frames]
    found = figures(rows, *_text(llm))
    document = {
        "bench": "kv", "model": args.model, "pass": all(one["holds"] for one in found.values()), "figures": found,
        "rows": [asdict(row) for row in rows],
    }  # fmt: skip
    is_usual = not args.frames and not args.policies and args.model == Arguments.model
    lacking = [] if is_usual else ["the settings are not the usual ones"]
    write_report("kv", report(rows, found, args.model, command(args)), args.report, lacking)
    print(json.dumps(document))
    return 0 if document["pass"] else 1


def figures(
    rows: Sequence[Row], visual_share: float, text_kb: float, room_kb: float = 0.0, retention: float = 0.5
) -> dict[str, dict[str, Any]]:
    """Return, per policy, how memory and time grew from the shortest video to the longest.

    Args:
        rows: of at least two lengths per policy; of `none` too where there are any of SHARES.
        visual_share: share of a prompt's tokens that are visual.
        text_kb: what the text of one frame takes in livevlm's cache while a question is open, in 10^3 bytes.
        room_kb: the most that buffers have free, likewise: they grow in steps, whatever the length.
        retention: share of the visual tokens that quick-prefill keeps.
    """
    found: dict[str, dict[str, Any]] = {}
    for policy in dict.fromkeys(row.policy for row in rows):
        own = sorted((row for row in rows if row.policy == policy), key=lambda row: row.frames)
        short, long = own[0], own[-1]
        grown = (long.peak_mb - short.peak_mb) / (long.frames - short.frames) * 1e3
        ratio = long.peak_mb / short.peak_mb
        found[policy] = {
            "kb_per_frame": round(grown, 3), "growth": round(ratio, 3),
            "ttft_growth": round(long.ttft_s / short.ttft_s, 3), "frames": [short.frames, long.frames],
        }  # fmt: skip
    for policy, one in found.items():
        if policy in FLAT:
            one["holds"] = one["growth"] <= MAX_GROWTH
        elif policy in SHARES:
            # rows that are thrown away leave room for the next group, so it is not exactly the share
            gone = visual_share * (1 - retention) if policy == "quick-prefill" else 0.0
            one["expected_share"] = round(1 - gone, 3)
            one["share"] = round(one["kb_per_frame"] / found["none"]["kb_per_frame"], 3)
            one["holds"] = abs(one["share"] - one["expected_share"]) <= 0.05
        elif policy == "livevlm":
            frames = one["frames"][1] - one["frames"][0]
            one["most_kb_per_frame"] = round(text_kb * MAX_GROWTH + room_kb / frames, 3)
            one["holds"] = one["kb_per_frame"] <= one["most_kb_per_frame"]
        else:
            one["holds"] = one["kb_per_frame"] > 0
    return found


def command(args: Arguments) -> str:
    """Return the command that repeats a run; a model's folder is nobody else's."""
    words = [
        PROG,
        *(f"--frames {one}" for one in args.frames),
        *(f"--policies {one}" for one in args.policies),
    ]
    usual = Arguments()
    words += ["--model DIR"] if args.model != usual.model else []
    words += [f"--frame-px {args.frame_px}"] if args.frame_px != usual.frame_px else []
    words += [f"--device {args.device}"] if args.device != usual.device else []
    return " ".join(words)


def report(
    rows: Sequence[Row], found: dict[str, dict[str, Any]], model: str, repeats: str = PROG
) -> list[str]:
    """Return the report as Markdown lines."""
    head = ("policy", "frames", "held MB", "RSS MB", "disk MB", "read s", "first token s")
    cells = [
        (row.policy, str(row.frames), f"{row.peak_mb:.2f}", f"{row.rss_mb:.0f}", f"{row.disk_mb:.1f}",
         f"{row.read_s:.2f}", f"{row.ttft_s:.4f}") for row in rows
    ]  # fmt: skip
    judged = ("policy", "kB per frame", "longest / shortest", "first token, likewise", "as claimed")
    judgements = [
        (policy, f"{one['kb_per_frame']:.2f}", f"{one['growth']:.2f}", f"{one['ttft_growth']:.2f}",
         "yes" if one["holds"] else "no") for policy, one in found.items()
    ]  # fmt: skip
    told = [
        "# KV cache policies", "", *circumstances(repeats),
        f"- `{model}`; {json.dumps(_SETTINGS)}", "", *(__doc__ or "").splitlines()[2:], "",
    ]  # fmt: skip
    return [*told, *table(head, cells), "", *table(judged, judgements)]


# --- one measurement -------------------------------------------------------------------------------------------

_SETTINGS: dict[str, Any] = {
    "sink_tokens": 16, "recent_text_tokens": 16, "vision_s": 16.0, "window_tokens": 512, "retrieve_frames": 16,
    "device_frames": 16, "long_tokens": 256, "retention": 0.5, "prune_layer": 1,
}  # fmt: skip
"""Small, so that every bound is reached by the shortest video."""


def _load(args: Arguments) -> "VideoLlm":
    from actors.models import video_llm
    from pipeline.config import AnswerConfig, CompressConfig

    config = AnswerConfig(model=args.model, frame_px=args.frame_px, dtype="float32")
    llm = video_llm.make(config, CompressConfig(compressor="none"), args.device)
    assert isinstance(llm, video_llm.VideoLlm)
    llm.language.decoder.config.max_position_embeddings = sys.maxsize  # livevlm would refuse to go on
    return llm


def _measure(llm: "VideoLlm", policy: Policy, num_frames: int) -> Row:
    """Read a video of some frames and put questions to it."""
    from actors.kv.indexing import ANY, pieces
    from actors.kv.settings import KvSettings
    from actors.models.prompting import write_prompt

    settings = KvSettings(**_SETTINGS)
    with tempfile.TemporaryDirectory() as folder:
        cache = _cache(llm, policy, settings, Path(folder) / "kv")
        resident = _Resident()
        peak, start = 0, time.perf_counter()
        for piece in pieces(llm, _video(llm, num_frames), settings.group_frames):
            cache.feed(piece)
            peak = max(peak, cache.num_bytes)
        read_s = time.perf_counter() - start
        tail = write_prompt(llm.parts, (0.0,), ANY).tail
        times = [_first_token(llm, cache, tail) for _ in range(QUESTIONS)]
        peak = max(peak, *(num_bytes for _, num_bytes in times))
        disk = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
        return Row(policy, num_frames, round(peak / MB, 3), round(resident.grown() / MB, 1), round(disk / MB, 2),
                   round(read_s, 3), round(statistics.median(seconds for seconds, _ in times), 5))  # fmt: skip


def _cache(llm: "VideoLlm", policy: Policy, settings: Any, folder: Path) -> "KvCache":
    from actors.kv import KV_POLICIES
    from actors.kv.rekv import ReKv
    from actors.kv.store import KvStore, Manifest

    if policy != "rekv":
        return KV_POLICIES[policy](llm.language.decoder, settings)
    files = llm.parts.files
    manifest = Manifest(files.name, files.revision, llm.language.num_layers, "float16", 0)
    return ReKv(llm.language.decoder, settings, KvStore.create(folder, manifest))


def _first_token(llm: "VideoLlm", cache: "KvCache", tail: Sequence[int]) -> tuple[float, int]:
    """Return the seconds from a question to its first token, and the bytes held then."""
    import torch

    start = time.perf_counter()
    hidden_LD = cache.ask(llm.language.embed(torch.tensor(tail, device=llm.language.device)))
    best_R, _, _ = llm.language.read(hidden_LD[-1:])
    best_R.tolist()  # waits for a GPU
    seconds, num_bytes = time.perf_counter() - start, cache.num_bytes
    cache.forget()
    return seconds, num_bytes


def _video(llm: "VideoLlm", num_frames: int) -> "Iterator[Frames]":
    """Yield noise, one picture a second, a few at a time."""
    from pipeline.frames import Frames

    size, drawn = llm.parts.frame_size, np.random.default_rng(0)
    for start in range(0, num_frames, 16):
        count = min(16, num_frames - start)
        data_NHWC = drawn.integers(0, 256, (count, size.height_px, size.width_px, 3), dtype=np.uint8)
        yield Frames(data_NHWC, np.arange(start, start + count, dtype=np.float64))


def _text(llm: "VideoLlm") -> tuple[float, float, float]:
    """Return the share of a long prompt's tokens that are visual, and `text_kb` and `room_kb` of `figures`.

    While a question is open, the keys and values of text are there twice: as they were read, and closed up for it.
    """
    import torch

    from actors.kv.cache import KvCache
    from actors.kv.indexing import ANY
    from actors.kv.livevlm import Held
    from actors.kv.rows import ROOM
    from actors.kv.tokens import text
    from actors.models.prompting import write_prompt

    lengths = [len(write_prompt(llm.parts, [100.0 + n for n in range(count)], ANY).head) for count in (1, 2)]
    per_frame, visual = lengths[1] - lengths[0], llm.parts.tokens_per_frame + llm.parts.family.separators
    cache = KvCache(llm.language.decoder)
    cache.ask(llm.language.embed(torch.tensor([0], device=llm.language.device)))
    layer_bytes = cache.layers[0].keys.nbytes + cache.layers[0].values.nbytes
    axes = cache.rotary.axes
    known = Held(
        text(1, axes, torch.device("cpu")), torch.zeros((axes, 1), dtype=torch.int64), torch.zeros(1).long()
    )
    token_bytes = llm.language.num_layers * (2 * layer_bytes + known.num_bytes)
    room_bytes = llm.language.num_layers * layer_bytes * ROOM
    return visual / per_frame, (per_frame - visual) * token_bytes / 1e3, room_bytes / 1e3


class _Resident:
    """How far the resident memory of this process rose above what it was when this was made."""

    def __init__(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")  # the highest mark starts anew
        self._before = self._mark()

    def grown(self) -> int:
        return self._mark() - self._before

    def _mark(self) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        [value] = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
        return int(value) * 1024


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
