"""What Ray costs: the same archive through the real job and through a plain loop, on the same number of cores.

Both run as commands of their own, in turns: `reelsift answer` on a Ray of its own, and jobs/plain_loop.py, which calls
the same functions in as many processes as Ray is given CPUs. Their tables must be equal first, in every column but run
ids and timings. Then

    ray_share = 1 - CPU seconds of all processes of the loop / CPU seconds of all processes of the job

and the same of wall time; medians of the turns, whole commands, Ray's start and end among them. CPU seconds are what
holds on a machine that others use too; wall time tells besides how long cores had nothing to do, if nobody else was
there. A neighbour that slows the cores in one of the turns makes the same work cost more CPU seconds there: so the
share is also told of what either way spends beside the work that its stages count.

Memory is compared between an archive of short videos, enough of them to fill every queue, and one ten times as long:
the highest USS of one process of each kind, the object store's highest use, and what was spilled, as Ray says it. It is
not read where time is compared: reading it is work, and Ray has more processes.
"""

import json
import os
import shutil
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from math import ceil
from pathlib import Path
from statistics import median
from typing import Any

from jobs import family, ray_figures
from jobs.bench_report import circumstances, list_files, table, write_report
from jobs.command_line import parse, require
from pipeline.errors import JobError
from pipeline.listing import SUFFIXES

PROG = "reelsift bench overhead"
TIMINGS = ("run_id", "decode_s", "score_s", "answer_s", "probe_s")
QUERIES = ("a car", "a rabbit", "a person in a street")
REPEATED = (".mp4", ".avi")
"""Clips that can be made longer by copying packets; others stay as they are."""
LONG = "long"
"""The archive on which time is compared; on the others memory is."""
LONGER = 10
SHARE_BOUND = 0.1
GROWTH_BOUND_MB = 64.0
LEAST_WORK_S = 120.0
"""A shorter loop says little: Ray's start is a fixed time."""


@dataclass(frozen=True)
class Arguments:
    """Measure what Ray costs beside a plain loop, and whether memory stays flat."""

    media: Path
    """Folder with clips."""
    seconds: float = 180.0
    """Each clip is repeated until it lasts so long."""
    copies: int = 10
    """How often each is copied."""
    short_s: float = 20.0
    """The same of the archives on which memory is compared."""
    short_copies: int = 4
    """In the smaller one of them; ten times as often in the other."""
    turns: int = 1
    """How often each way goes through the archive of long videos."""
    window_s: float = 300.0
    """Seconds of one window."""
    report: Path | None = None
    """Markdown file to write; the default is named after the machine and the day, in docs/benchmarks/."""


@dataclass(kw_only=True)
class Turn(family.Use):
    """One way through one archive, and what it used."""

    way: str
    archive: str
    windows: int
    work_s: float
    """Of its CPU seconds, those that the stages count as their work: the same work either way."""
    streams: list[dict[str, Any]]
    """What Ray says of each stream; empty for the loop."""


def main(argv: list[str]) -> int:
    """Run both ways, compare, write the report; exit code 1 if Ray costs too much or memory grows.

    Raises:
        ConfigError: the arguments do not fit.
        JobError: a run failed, or the two ways gave different rows.
    """
    args = parse(Arguments, argv, PROG, Arguments.__doc__)
    require("--seconds", args.seconds, above=0)
    require("--copies", args.copies, at_least=1)
    require("--short-s", args.short_s, above=0)
    require("--short-copies", args.short_copies, at_least=1)
    require("--turns", args.turns, at_least=1)
    require("--window-s", args.window_s, above=0)
    clips = list_files("--media", args.media)
    with tempfile.TemporaryDirectory(prefix="reelsift-overhead-") as folder:
        clips = [clip for clip in clips if clip.suffix in SUFFIXES]
        few, many, long = (
            archive(clips, Path(folder) / name, seconds, copies)
            for name, seconds, copies in (
                ("few", args.short_s, args.short_copies),
                ("many", args.short_s, args.short_copies * LONGER),
                (LONG, args.seconds, args.copies),
            )
        )
        turns = [run_turn("ray", videos, Path(folder), args.window_s) for videos in (few, many)]
        digests: set[str] = set()
        for _ in range(args.turns):
            for way in ("loop", "ray"):
                turns.append(run_turn(way, long, Path(folder), args.window_s))
                digests.add(json.dumps(digest(str(Path(folder) / "out"))))
                print(
                    f"{way}: {turns[-1].wall_s:.1f} s, {turns[-1].cpu_s:.1f} CPU s {turns[-1].cpu_s_of}",
                    file=sys.stderr,
                )
    if len(digests) != 1:
        msg = f"Ray and the loop gave different rows: {' and '.join(sorted(digests))}"
        raise JobError(msg)
    figures = compare(turns)
    is_usual = replace(args, report=None) == Arguments(args.media)
    is_long = figures["loop_wall_s"] >= LEAST_WORK_S
    passed = (
        figures["ray_share"] <= SHARE_BOUND
        and figures["memory_growth_mb"] <= GROWTH_BOUND_MB
        and not figures["spilled_mb"]
    )
    lacking = [] if is_usual else ["the archive, --turns or --window-s are not the usual ones"]
    lacking += [] if is_long else [f"the loop took less than {LEAST_WORK_S:g} s"]
    _write(args, turns, figures, lacking)
    rows = [
        {name: value for name, value in asdict(turn).items() if name not in ("memory_mb", "streams")}
        for turn in turns
    ]
    print(json.dumps({"bench": "overhead", "pass": passed, "figures": figures, "rows": rows}))
    return 0 if passed else 1


def archive(clips: list[Path], folder: Path, seconds: float, copies: int) -> Path:
    """Return a folder with each clip so often, repeated until it lasts so long."""
    once = folder / "once"
    once.mkdir(parents=True)
    videos = [repeated(clip, once, seconds) if clip.suffix in REPEATED else clip for clip in clips]
    return copied(videos, folder / folder.name, copies)


def repeated(clip: Path, folder: Path, seconds: float) -> Path:
    """Return a video of a clip's pictures again and again for at least so long, not encoded anew.

    Raises:
        JobError: it has no pictures that can be read.
    """
    import av

    target = folder / clip.name
    try:
        with av.open(str(clip)) as source, av.open(str(target), "w") as container:
            found: Any = source.streams.video[0]
            stream = container.add_stream_from_template(found)
            packets: list[Any] = [
                packet for packet in source.demux(found) if packet.size and packet.dts is not None
            ]
            length = max(packet.dts + (packet.duration or 1) for packet in packets) - packets[0].dts
            rounds = ceil(seconds / float(length * found.time_base))
            whole = [(bytes(packet), packet.pts, packet.dts, packet.is_keyframe) for packet in packets]
            for number in range(rounds):
                for data, pts, dts, is_key in whole:
                    packet: Any = av.Packet(data)
                    packet.dts = dts + number * length
                    packet.pts = (dts if pts is None else pts) + number * length
                    packet.time_base, packet.stream, packet.is_keyframe = found.time_base, stream, is_key
                    container.mux(packet)
    except (OSError, IndexError, ValueError) as error:
        msg = f"--media: {clip}: its pictures cannot be read: {error}; take it out of the folder"
        raise JobError(msg) from error
    return target


def copied(clips: list[Path], folder: Path, copies: int) -> Path:
    """Return a folder with each clip so often."""
    for copy in range(copies):
        place = folder / f"copy{copy:03d}"
        place.mkdir(parents=True)
        for clip in clips:
            shutil.copy(clip, place / clip.name)
    return folder


def run_turn(way: str, videos: Path, folder: Path, window_s: float) -> Turn:
    """Run one way over an archive into `folder`/out, which is emptied before.

    Raises:
        JobError: it failed.
    """
    out, figures = folder / "out", folder / "figures.jsonl"
    shutil.rmtree(out, ignore_errors=True)
    figures.unlink(missing_ok=True)
    cores = max(2, len(os.sched_getaffinity(0)))
    start = ["jobs", "answer"] if way == "ray" else ["jobs.plain_loop", str(cores)]
    asked = [word for text in QUERIES for word in ("--query", text)]
    command = [
        sys.executable,
        "-m",
        *start,
        str(videos),
        str(out),
        *asked,
        "--window.length-s",
        str(window_s),
    ]
    environment = {
        **ray_figures.environment(figures),
        # Ray gives each of its processes one thread for numbers; so many processes as cores leave no room for more
        "OMP_NUM_THREADS": "1",
        # Ray's workers would step back behind whatever else runs on the machine, the loop would not
        "RAY_worker_niceness": "0",
    }
    said, use = family.run(command, environment, weighs=videos.name != LONG)
    stats = json.loads(said.strip().splitlines()[-1])
    return Turn(
        way=way,
        archive=videos.name,
        windows=stats["windows"],
        work_s=sum(seconds for name, seconds in stats["this_run"].items() if name.endswith("_cpu_s")),
        streams=ray_figures.read(figures) if way == "ray" else [],
        **asdict(use),
    )


def compare(turns: list[Turn]) -> dict[str, Any]:
    """Return the figures: shares as medians over the long videos, growth from few short ones to many."""
    long = [turn for turn in turns if turn.archive == LONG]
    of = {
        (way, name): median(getattr(turn, name) for turn in long if turn.way == way)
        for way in ("ray", "loop")
        for name in ("wall_s", "cpu_s", "work_s")
    }
    beside_s = sum(sign * (of[way, "cpu_s"] - of[way, "work_s"]) for way, sign in (("ray", 1), ("loop", -1)))
    short_mb, long_mb = (
        highest(turn for turn in turns if turn.archive == archive) for archive in ("few", "many")
    )
    growth = {kind: long_mb[kind] - short_mb[kind] for kind in short_mb}
    worst = max(growth, key=lambda kind: growth[kind])
    return {
        "ray_share": round(1 - of["loop", "cpu_s"] / of["ray", "cpu_s"], 4),
        "ray_share_beside_work": round(beside_s / (of["loop", "cpu_s"] + beside_s), 4),
        "ray_share_wall": round(1 - of["loop", "wall_s"] / of["ray", "wall_s"], 4),
        **{f"{way}_{name}": round(value, 1) for (way, name), value in of.items()},
        "foreign_cores": round(median(turn.foreign_cores for turn in long), 2),
        "memory_growth_mb": round(growth[worst], 1),
        "memory_growth_of": worst,
        "spilled_mb": max(stream["spilled_mb"] for turn in turns for stream in turn.streams),
    }


def highest(turns: Any) -> dict[str, float]:
    """Return the highest memory of one process of each kind, and of the object store, over some turns of Ray."""
    found: dict[str, float] = {}
    for turn in turns:
        most = {kind: max(values) for kind, values in turn.memory_mb.items()}
        most["object store"] = max(stream["store_mb"] for stream in turn.streams)
        for kind, value in most.items():
            found[kind] = max(found.get(kind, 0.0), value)
    return found


def digest(out: str) -> dict[str, str]:
    """Return a checksum per table over its rows in a fixed order, run ids and timings left out."""
    import hashlib

    from pipeline import ledger, rows

    found: dict[str, str] = {}
    for name, schema in rows.TABLES.items():
        columns = [column for column in schema.names if column not in TIMINGS]
        lines = sorted(repr(row) for row in ledger.scan(out, name, columns))
        found[name] = f"{len(lines)} rows {hashlib.sha256(chr(10).join(lines).encode()).hexdigest()[:16]}"
    return found


def _write(args: Arguments, turns: list[Turn], figures: dict[str, Any], lacking: list[str]) -> None:
    """Write the report."""
    command = (
        f"{PROG} --media DIR --seconds {args.seconds:g} --copies {args.copies} --short-s {args.short_s:g}"
        f" --short-copies {args.short_copies} --turns {args.turns} --window-s {args.window_s:g}"
    )
    lines = [
        "# What Ray costs beside a plain loop, and what grows with the archive",
        "",
        *circumstances(command),
        "",
        f"Each clip, repeated until it lasts {args.seconds:g} s, {args.copies} times (long); until it lasts"
        f" {args.short_s:g} s, {args.short_copies} times (few) and {args.short_copies * LONGER} times (many)."
        f" Windows of at most {args.window_s:g} s"
        f" at 1 frame per second, {len(QUERIES)} questions, embedded scorer. The loop calls the same functions in as"
        " many processes as Ray has CPUs, each with models of its own. All rows of all turns over the long archive are"
        " equal bit for bit, run ids and timings left out.",
        "",
        *table(
            ["way", "archive", "windows", "wall s", "CPU s", "of it work", "others' cores", "stolen cores"],
            [
                [
                    turn.way,
                    turn.archive,
                    f"{turn.windows}",
                    f"{turn.wall_s:.1f}",
                    f"{turn.cpu_s:.1f}",
                    f"{turn.work_s:.1f}",
                    f"{turn.foreign_cores:.2f}",
                    f"{turn.stolen_cores:.2f}",
                ]
                for turn in turns
            ],
        ),
        "",
        f"ray_share = 1 - loop / Ray, medians of whole commands: **{figures['ray_share']:.1%} of CPU time**,"
        f" {figures['ray_share_wall']:.1%} of wall time. Of CPU time beside the work that the stages count, which is"
        f" the same either way: {figures['ray_share_beside_work']:.1%}. Others' cores are those that strangers to the"
        " run kept busy meanwhile, and stolen ones what the machine beneath gave to other machines: where they are not"
        " near 0, wall time says little.",
        "",
        "CPU seconds per kind of process, last turn of each way:",
        "",
    ]
    last = {turn.way: turn for turn in turns}
    lines += table(
        ["way", "process", "CPU s"],
        [
            [way, kind, f"{cpu_s:.1f}"]
            for way in ("ray", "loop")
            for kind, cpu_s in sorted(last[way].cpu_s_of.items())
        ],
    )
    short_mb, long_mb = (
        highest(turn for turn in turns if turn.archive == archive) for archive in ("few", "many")
    )
    lines += ["", "Highest memory of one process (USS) and of the object store, MB:", ""]
    lines += table(
        ["", "few", "many"],
        [[kind, f"{short_mb[kind]:.0f}", f"{long_mb[kind]:.0f}"] for kind in sorted(short_mb)],
    )
    lines += ["", f"Spilled: {figures['spilled_mb']:g} MB."]
    write_report("overhead", lines, args.report, lacking)
