"""Does anything in a broken video file get past the decoding child? Good files, broken in seeded ways, are read.

Each mutation of a small file is probed and, if it claims to be a video, one of its windows is sampled, as the job
does it. It must end as frames or as a reasoned failure, in time; nothing else may be left behind: no process, no
file, no growing memory. Every mutation is made from the seed and its number alone, so what is found can be repeated:
`--one NUMBER`.
"""

import json
import logging
import multiprocessing
import os
import queue
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from jobs.command_line import parse, require
from pipeline.config import DecodeConfig, WindowConfig
from pipeline.errors import ConfigError, RowError
from pipeline.frames import FrameSize
from pipeline.isolation import Reader, drop_child
from pipeline.rows import Row

PROG = "reelsift bench mutate"
SIZE = FrameSize(64, 64)
WINDOW = WindowConfig(length_s=10.0, sample_fps=1.0)
MOST_BYTES = 4 * 2**20
"""Larger files are left out: a mutation is written whole."""
HUNG_S = 2.5
"""A video may take its time-out twice, and the start of two children."""
SAY_EVERY = 200

Outcome = Literal["frames", "failed", "crashed", "hung", "escaped"]


@dataclass(frozen=True)
class Arguments:
    """Read broken files and count what comes of it."""

    files: int = 1000
    """Mutations to read."""
    seed: int = 0
    """Of all mutations."""
    folder: Path | None = None
    """Where the good files lie, or are made; the default is a folder of its own, made anew."""
    workers: int = 2
    """Processes, each with a decoding child."""
    timeout_s: float = 5.0
    """Longest time that a child may take for one request."""
    memory_mb: int = 512
    """Memory of a child."""
    one: int | None = None
    """Only the mutation of this number; the file is kept and its place printed."""


@dataclass(frozen=True, slots=True)
class Found:
    """What came of one mutation."""

    number: int
    recipe: str
    """Which file was broken, and how."""
    outcome: Outcome
    reason: str
    wall_s: float
    worker_mb: float
    """Memory of the process that reads, afterwards."""
    child_mb: float
    """Most memory that its child has had."""


def main(argv: list[str]) -> int:
    """Read the mutations; the last stdout line is JSON; return 1 if anything escaped or hung.

    Raises:
        ConfigError: the arguments do not fit, or there are no good files to break.
    """
    args = parse(Arguments, argv, PROG)
    for option, number in (("--files", args.files), ("--workers", args.workers)):
        require(option, number, at_least=1)
    require("--one", args.one or 0, at_least=0)
    require("--timeout-s", args.timeout_s, above=0)
    require("--memory-mb", args.memory_mb, at_least=128)
    with tempfile.TemporaryDirectory(prefix="reelsift-mutate-") as temporary:
        sources = good_files(args.folder or Path(temporary) / "good")
        if args.one is not None:
            return _read_one(args, sources)
        started = time.monotonic()
        found = list(_read_all(args, sources))
    _report(args, found, time.monotonic() - started)
    counts = Counter(result.outcome for result in found)
    kinds: tuple[Outcome, ...] = ("escaped", "hung", "crashed", "failed", "frames")
    figures = {"files": args.files, "rows": len(found), **{kind: counts[kind] for kind in kinds}}
    print(json.dumps({"bench": "mutate", "figures": figures}))
    return 1 if counts["escaped"] or counts["hung"] or len(found) < args.files else 0


def good_files(folder: Path) -> list[Path]:
    """Return the good files of a folder in order, the small corpus where there are none.

    Raises:
        ConfigError: none of them is small enough.
    """
    from jobs.corpus import make_corpus

    if not folder.is_dir() or not any(folder.iterdir()):
        make_corpus(folder, small=True)
    files = [
        path for path in sorted(folder.iterdir()) if path.is_file() and 0 < path.stat().st_size <= MOST_BYTES
    ]
    if not files:
        msg = f"{folder} holds no file of at most {MOST_BYTES} bytes to break; name another --folder"
        raise ConfigError(msg)
    return files


# --- breaking files ------------------------------------------------------------------------------------


def mutation(sources: Sequence[Path], seed: int, number: int) -> tuple[bytes, str, str]:
    """Return the bytes of a mutation, what was done, and the ending of its file name."""
    random_ = random.Random(f"{seed}-{number}")
    source = random_.choice(sources)
    data = bytearray(source.read_bytes())
    done: list[str] = []
    for _ in range(random_.choice((1, 1, 1, 2, 3))):
        change = random_.choice(CHANGES)
        done.append(change(data, random_, sources))
    return bytes(data), f"{source.name}: {', '.join(done)}", source.suffix


def _place(data: bytearray, random_: random.Random) -> int:
    """Return a byte's place: often near the beginning or the end, where headers and indices lie."""
    span = random_.choice((64, 1024, 16384, len(data), len(data))) or 1
    offset = random_.randrange(min(span, len(data)) or 1)
    return offset if random_.random() < 0.7 else max(0, len(data) - 1 - offset)


def flip_bits(data: bytearray, random_: random.Random, sources: Sequence[Path]) -> str:
    """Flip 1 to 1000 bits, all over the file or close together."""
    del sources
    if not data:
        return "nothing to flip"
    num_bits = round(10 ** random_.uniform(0, 3))
    first = _place(data, random_)
    span = random_.choice((len(data), 4096, 256))
    for _ in range(num_bits):
        data[(first + random_.randrange(span)) % len(data)] ^= 1 << random_.randrange(8)
    return f"{num_bits} bits flipped within {span} bytes from {first}"


def cut(data: bytearray, random_: random.Random, sources: Sequence[Path]) -> str:
    """Cut the end, the beginning, or a piece out of the middle."""
    del sources
    start, stop = sorted((_place(data, random_), _place(data, random_)))
    start, stop = random_.choice(((start, len(data)), (0, start), (start, stop)))
    del data[start:stop]
    return f"bytes {start} to {stop} cut out"


def zero(data: bytearray, random_: random.Random, sources: Sequence[Path]) -> str:
    """Write zeros over a span."""
    del sources
    start = _place(data, random_)
    stop = min(len(data), start + round(10 ** random_.uniform(0, 5)))
    data[start:stop] = bytes(stop - start)
    return f"bytes {start} to {stop} zeroed"


def splice_noise(data: bytearray, random_: random.Random, sources: Sequence[Path]) -> str:
    """Put noise over a span or in between."""
    del sources
    start, num_bytes = _place(data, random_), round(10 ** random_.uniform(0, 5))
    stop = random_.choice((start, start + num_bytes))
    data[start:stop] = random_.randbytes(num_bytes)
    return f"{num_bytes} bytes of noise at {start}, {'over' if stop > start else 'between'}"


def splice_file(data: bytearray, random_: random.Random, sources: Sequence[Path]) -> str:
    """Put a piece of another file over a span or in between."""
    other = random_.choice(sources)
    piece = other.read_bytes()
    first = _place(bytearray(piece), random_)
    piece = piece[first : first + round(10 ** random_.uniform(1, 5.5))]
    start = _place(data, random_)
    stop = random_.choice((start, start + len(piece)))
    data[start:stop] = piece
    return (
        f"{len(piece)} bytes of {other.name} from {first} at {start}, {'over' if stop > start else 'between'}"
    )


EXTREMES = (
    0,
    1,
    -1,
    2,
    127,
    128,
    255,
    2**15,
    2**16 - 1,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**62,
    2**63 - 1,
    2**63,
)
BOXES = (
    b"moov", b"mvhd", b"tkhd", b"mdhd", b"hdlr", b"elst", b"stsd", b"avc1", b"avcC", b"hvcC", b"stts", b"ctts", b"stss",
    b"stsc", b"stsz", b"stco", b"co64", b"moof", b"tfhd", b"trun", b"avih", b"strh", b"strf", b"idx1", b"movi",
    b"\x2a\xd7\xb1", b"\x44\x89", b"\x16\x54\xae\x6b", b"\x1f\x43\xb6\x75", b"\x1c\x53\xbb\x6b",
)  # fmt: skip
"""Names of header fields in mp4, avi and Matroska files, as they stand in the bytes."""


def set_field(data: bytearray, random_: random.Random, sources: Sequence[Path]) -> str:
    """Write extreme numbers right after, or before, the name of a header field; anywhere if the file has none."""
    del sources
    places = [place for name in BOXES if (place := data.find(name)) >= 0]
    place = random_.choice(places) + random_.randrange(-4, 96) if places else _place(data, random_)
    place = max(0, place)
    value, num_bytes = random_.choice(EXTREMES), random_.choice((1, 2, 4, 4, 8))
    order: Literal["big", "little"] = random_.choice(("big", "big", "little"))
    data[place : place + num_bytes] = (value % 2 ** (8 * num_bytes)).to_bytes(num_bytes, order)
    return f"{value} in {num_bytes} bytes at {place}"


Change = Callable[[bytearray, random.Random, Sequence[Path]], str]
CHANGES: tuple[Change, ...] = (
    flip_bits,
    cut,
    zero,
    splice_noise,
    splice_file,
    set_field,
    set_field,
    set_field,
)


# --- reading them --------------------------------------------------------------------------------------


def _read_all(args: Arguments, sources: list[Path]) -> Iterator[Found]:
    """Yield what comes of every mutation, in the order of ending, and say how far it is."""
    shares = [(args, sources, range(first, args.files, args.workers)) for first in range(args.workers)]
    context = multiprocessing.get_context("spawn")
    results: multiprocessing.Queue[Found | None] = context.Queue()
    workers = [context.Process(target=_work, args=(*share, results)) for share in shares]
    for worker in workers:
        worker.start()
    num_done, num_open, started = 0, len(workers), time.monotonic()
    while num_open:
        try:
            found = results.get(timeout=60)
        except queue.Empty:
            if not any(worker.is_alive() for worker in workers):
                break  # killed: the missing rows tell
            continue
        if found is None:
            num_open -= 1
            continue
        num_done += 1
        is_slow = found.wall_s > args.timeout_s
        if is_slow or found.outcome in ("crashed", "hung", "escaped") or "unexpected" in found.reason:
            print(f"seed {args.seed} --one {found.number} {found.outcome} in {found.wall_s:.1f} s: {found.reason}\n"
                  f"    {found.recipe}",
                  file=sys.stderr, flush=True)  # fmt: skip
        if num_done % SAY_EVERY == 0:
            rate = num_done / (time.monotonic() - started)
            print(f"{num_done} of {args.files} files, {rate:.1f} per second", file=sys.stderr, flush=True)
        yield found
    for worker in workers:
        worker.join()


def _work(
    args: Arguments, sources: list[Path], numbers: range, results: "multiprocessing.Queue[Found | None]"
) -> None:
    """Read a share of the mutations in this process."""
    logging.basicConfig(stream=sys.stderr, level=logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="reelsift-mutated-") as folder:
        try:
            for number in numbers:
                results.put(read_mutation(args, sources, number, Path(folder)))
        finally:
            drop_child()
            results.put(None)


def read_mutation(args: Arguments, sources: Sequence[Path], number: int, folder: Path) -> Found:
    """Make one mutation and read it; the file lies in the folder, alone, and is removed afterwards."""
    import psutil

    data, recipe, ending = mutation(sources, args.seed, number)
    path = folder / f"{number}{ending}"
    path.write_bytes(data)
    started = time.monotonic()
    outcome, reason = _read(args, path)
    wall_s = time.monotonic() - started
    if wall_s > 2 * HUNG_S * args.timeout_s:
        outcome, reason = "hung", f"{wall_s:.1f} s; {reason}"
    this = psutil.Process()
    # multiprocessing keeps a process of its own
    children = [
        child for child in this.children(recursive=True) if "multiprocessing" not in str(child.cmdline())
    ]
    if len(children) > 1 or sorted(folder.iterdir()) != [path]:
        outcome, reason = "escaped", f"left behind: {children}, {sorted(folder.iterdir())}; {reason}"
    path.unlink()
    return Found(
        number, recipe, outcome, reason, wall_s, this.memory_info().rss / 2**20,
        max((child.memory_info().rss / 2**20 for child in children), default=0.0),
    )  # fmt: skip


def _read(args: Arguments, path: Path) -> tuple[Outcome, str]:
    """Probe a file and sample one of its windows; return how that ended."""
    from pipeline.stages import probe, sample_window

    config = DecodeConfig(timeout_s=args.timeout_s, memory_mb=args.memory_mb)
    reader = Reader(config, WINDOW)
    status = path.stat()
    file: Row = {
        "uri": str(path), "video_id": path.stem, "version": "1", "size_bytes": status.st_size,
        "etag": str(status.st_mtime_ns),
    }  # fmt: skip
    try:
        facts = probe(reader, file)
        if why := facts.get("error_message", ""):
            return _judged(why), why
        start_s = facts["duration_s"] // WINDOW.length_s // 2 * WINDOW.length_s
        end_s = min(start_s + WINDOW.length_s, facts["duration_s"])
        sample_window(reader, SIZE, {**file, "start_s": start_s, "end_s": end_s, "key_gap_s": 0.0})
    except RowError as error:
        return _judged(str(error)), str(error)
    except Exception as error:  # noqa: BLE001 whatever else comes out is what this looks for
        return "escaped", "".join(traceback.format_exception(error))
    return "frames", facts["status"]


def _judged(reason: str) -> Outcome:
    return "crashed" if "broke its decoder" in reason else "failed"


def _read_one(args: Arguments, sources: Sequence[Path]) -> int:
    """Read one mutation, keep its file, and say all about it."""
    number = args.one or 0
    logging.basicConfig(stream=sys.stderr, level=logging.INFO)
    data, _, ending = mutation(sources, args.seed, number)
    kept = Path(tempfile.gettempdir()) / f"mutation-{args.seed}-{number}{ending}"
    kept.write_bytes(data)
    with tempfile.TemporaryDirectory(prefix="reelsift-mutated-") as folder:
        found = read_mutation(args, sources, number, Path(folder))
    drop_child()
    print(f"kept as {kept}", file=sys.stderr)
    print(json.dumps({"bench": "mutate", "one": asdict(found)}))
    return 1 if found.outcome in ("escaped", "hung") else 0


def _report(args: Arguments, found: Sequence[Found], wall_s: float) -> None:
    """Print what a reader of the figures wants to know beside them."""
    import re

    counts = Counter(re.sub(r"\d+", "N", result.reason.partition(": ")[2])[:90] for result in found
                     if result.outcome != "frames")  # fmt: skip
    for reason, count in counts.most_common(25):
        print(f"{count:6d} {reason}", file=sys.stderr)
    lasting = sorted(result.wall_s for result in found)
    early, late = found[: len(found) // 4], found[-len(found) // 4 :]
    print(
        f"{len(found)} files in {wall_s:.0f} s on {args.workers} of {os.cpu_count()} CPUs; median"
        f" {lasting[len(lasting) // 2] * 1000:.0f} ms, longest {lasting[-1]:.1f} s; reader's memory at most"
        f" {max(f.worker_mb for f in early):.0f} MB in the first quarter, {max(f.worker_mb for f in late):.0f} MB in"
        f" the last; child's at most {max(f.child_mb for f in found):.0f} MB",
        file=sys.stderr,
    )
