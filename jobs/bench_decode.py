"""Reading pictures: what it costs beside other readers, whether they are the right ones, how little of S3 is read.

Three parts, each of which can be run by itself: speed (CPU seconds per minute of video, beside others), corpus (every
picture of a corpus of awkward files judged, and the memory of the decoding child), s3 (requests and bytes per group of
pictures and per window). Encoding the clips and the corpus needs the ffmpeg program and takes a while, once.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs import bench_decode_report as report
from jobs import bench_decode_speed as speed
from jobs.bench_decode_clips import Clip, make_clips
from jobs.bench_decode_corpus import check_corpus
from jobs.bench_decode_pieces import Measured, read_earlier, rows
from jobs.bench_decode_s3 import measure_s3
from jobs.bench_decode_speed import Results
from jobs.bench_report import write_report
from jobs.command_line import parse, require
from jobs.decode_peers import PEERS
from pipeline.errors import ConfigError

PROG = "reelsift bench decode"
PARTS = ("speed", "corpus", "s3")
LONG, SHORT = Clip(1080, 250, "h264"), Clip(1080, 30, "h264")
WARM, WARM_S = Clip(360, 30, "h264"), 2
EXACT_AND_DECORD, EXACT_AND_RAY, AUTO_AND_DECORD = 0.70, 0.50, 0.40
RANGE_RATIO, CHILD_MB = 1.2, 200


@dataclass(frozen=True)
class Arguments:
    """Measure how pictures are read."""

    media: Path
    """Folder with real footage to make clips of."""
    cache: Path = Path(".demo/bench")
    """Folder in which clips and corpus are kept for the next run."""
    only: str = ",".join(PARTS)
    """Parts to run, joined by commas; '' runs none and reports what --earlier gives."""
    quick: bool = False
    """Only 1080p H.264 at 1 fps, and the small corpus."""
    cells: str = ""
    """Only cells whose name contains one of these, joined by commas: 360p_hevc_gop30."""
    peers: str = ""
    """Only peers whose name contains one of these, joined by commas: ours,decord."""
    seconds: int = 60
    """Length of the clips."""
    repeats: int = 3
    """How often everything is timed; medians are reported."""
    s3: str = ""
    """s3://bucket/prefix that may be written; endpoint and keys come from the environment."""
    long: Path | None = None
    """A long mp4 for the s3 part; the longest clip where none is given."""
    daft_python: str = sys.executable
    """Interpreter with Daft and PyAV, which want another pyarrow than the project."""
    earlier: tuple[Path, ...] = ()
    """Standard outputs of earlier runs, whose measurements are reported with these."""
    report: Path | None = None
    """Markdown file to write; the default, for a run of everything, is named after the machine and the day, in
    docs/benchmarks/."""


def main(argv: list[str]) -> int:
    """Run the parts, write the report; the last stdout line is JSON. Return 1 where an aim is missed.

    Raises:
        ConfigError: the arguments do not fit, or the ffmpeg program is missing.
    """
    args = parse(Arguments, argv, PROG)
    require("--seconds", args.seconds, at_least=1)
    require("--repeats", args.repeats, at_least=1)
    found = measure(args)
    document = summary(found)
    lines = report.lines(command(args), args.seconds, found, document)
    shorter = [f"clips of {args.seconds} s"] if args.seconds < Arguments.seconds else []
    write_report("decode", lines, args.report, [*found.lacking(), *shorter])
    print(json.dumps(document))
    return 0 if document["pass"] else 1


def command(args: Arguments) -> str:
    """Return the command that repeats a run, without what is only true on this machine."""
    words = [
        PROG,
        "--media DIR",
        f"--only '{args.only}'",
        f"--seconds {args.seconds}",
        f"--repeats {args.repeats}",
    ]
    words += ["--quick"] if args.quick else []
    words += [
        f"--{name} '{value}'" for name, value in (("cells", args.cells), ("peers", args.peers)) if value
    ]
    words += ["--s3 s3://BUCKET/PREFIX"] if args.s3 else []
    words += ["--long FILE"] if args.long else []
    words += ["--earlier", *(path.name for path in args.earlier)] if args.earlier else []
    return " ".join(words)


def measure(args: Arguments) -> Measured:
    """Run the parts that are asked for."""
    parts = [part for part in args.only.split(",") if part]
    if unknown := set(parts) - set(PARTS):
        msg = f"--only: no part {sorted(unknown)}; known: {', '.join(PARTS)}"
        raise ConfigError(msg)
    if args.s3 and not args.s3.startswith("s3://"):
        msg = f"--s3 {args.s3}: expected s3://bucket/prefix"
        raise ConfigError(msg)
    if args.long and not args.long.is_file():
        msg = f"--long {args.long}: no such file"
        raise ConfigError(msg)
    found = Measured()
    if "speed" in parts:
        found.speed = _measure_speed(args)
    if "corpus" in parts:
        found.corpus = check_corpus(args.cache / "corpus", small=args.quick, tell=_tell)
    if "s3" in parts and args.s3:
        clips = args.cache / "clips"
        source = args.long or make_clips(args.media, clips, [LONG], args.seconds)[LONG]
        found.s3 = measure_s3(args.s3, source, _tell)
    elif "s3" in parts:
        found.s3_skipped = "not measured: no --s3 s3://bucket/prefix was given"
        _tell(found.s3_skipped)
    read_earlier(found, args.earlier)
    return found


def _measure_speed(args: Arguments) -> Results:
    """Run the peers in the cells that are asked for."""
    peers = chosen(list(PEERS), args.peers)
    cells = [cell for cell in speed.CELLS if not args.quick or _is_headline(cell)]
    names = [cell.name for cell in cells]
    cells = [cell for cell in cells if cell.name in chosen(names, args.cells)]
    if not cells or not peers:
        msg = f"--cells {args.cells!r} and --peers {args.peers!r} leave nothing to measure; cells are {names}"
        raise ConfigError(msg)
    clips = list(dict.fromkeys(cell.clip for cell in cells))
    paths = make_clips(args.media, args.cache / "clips", clips, args.seconds)
    warm = make_clips(args.media, args.cache / "clips", [WARM], WARM_S)[WARM]
    return speed.measure(
        paths, cells, peers, seconds=args.seconds, repeats=args.repeats,
        pythons={"daft": args.daft_python}, warm=warm, tell=_tell,
    )  # fmt: skip


def chosen(names: Sequence[str], parts: str) -> list[str]:
    """Return the names that contain one of some words joined by commas; all without a word."""
    words = [word for word in parts.split(",") if word]
    return [name for name in names if not words or any(word in name for word in words)]


def _is_headline(cell: speed.Cell) -> bool:
    return cell.clip in (LONG, SHORT) and cell.fps == 1


def summary(found: Measured) -> dict[str, Any]:
    """Return what the last line of standard output says; a figure that was not measured is None and fails nothing."""
    figures: dict[str, float | int | None] = dict.fromkeys(
        (
            "wrong_frames", "exact_vs_decord_gop250_1fps", "exact_vs_ray_read_videos_gop250_1fps",
            "auto_vs_decord_gop30_1fps", "range_gets_one_gop", "range_bytes_ratio", "worker_peak_mb",
            "worker_peak_heavy_mb",
        )
    )  # fmt: skip
    missed: list[str] = []
    if found.speed:
        long, short = speed.Cell(LONG, 1.0), speed.Cell(SHORT, 1.0)
        figures |= {
            "exact_vs_decord_gop250_1fps": speed.ratio(found.speed, long, "ours exact", "decord get_batch"),
            "exact_vs_ray_read_videos_gop250_1fps": speed.ratio(
                found.speed, long, "ours exact", "ray read_videos"
            ),
            "auto_vs_decord_gop30_1fps": speed.ratio(found.speed, short, "ours auto", "decord get_batch"),
        }
        missed += _lost(found)
    if found.corpus:
        figures["wrong_frames"] = sum(c.num_wrong - c.num_wrong_stale for c in found.corpus)
        lacking = sum(checked.num_lacking for checked in found.corpus)
        missed += [f"{lacking} times inside intact files are lacking a picture"] if lacking else []
        figures["worker_peak_mb"] = _peak_mb(found, is_heavy=False)
        figures["worker_peak_heavy_mb"] = _peak_mb(found, is_heavy=True)
    if found.s3:
        one = next(
            r for r in found.s3 if (r.container, r.what, r.state) == ("mp4 moov at end", "one group", "warm")
        )
        figures["range_gets_one_gop"] = one.num_gets
        figures["range_bytes_ratio"] = round(one.num_bytes / one.group_bytes, 3)
    missed += _missed(figures)
    return {"bench": "decode", "pass": not missed, "figures": figures, "missed": missed, "rows": rows(found)}


def _peak_mb(found: Measured, *, is_heavy: bool) -> int | None:
    """Return the highest memory of the decoding child, over the files that ask for little or for much themselves."""
    peaks = [checked.child_mb for checked in found.corpus if checked.is_heavy == is_heavy]
    return round(max(peaks)) if peaks else None


def _lost(found: Measured) -> list[str]:
    """Return the cells where ours is slower than another, gives a wrong picture, or nothing."""
    missed = [
        f"{cell.name}: ours exact costs {times:.2f} x {best}"
        for cell, best, times in speed.slower(found.speed, found.peers)
    ]
    for (cell, name), result in found.speed.items():
        if name.startswith("ours") and result.judged and result.judged.num_wrong:
            missed.append(f"{cell.name}: {name} has {result.judged.num_wrong} wrong pictures")
        if name.startswith("ours") and result.unable:
            missed.append(f"{cell.name}: {name} gave nothing: {result.unable}")
    return missed


def _missed(figures: dict[str, float | int | None]) -> list[str]:
    """Return the aims that a measured figure misses."""
    aims: dict[str, tuple[float, bool]] = {
        "wrong_frames": (0, True),
        "exact_vs_decord_gop250_1fps": (EXACT_AND_DECORD, True),
        "exact_vs_ray_read_videos_gop250_1fps": (EXACT_AND_RAY, True),
        "auto_vs_decord_gop30_1fps": (AUTO_AND_DECORD, True),
        "range_gets_one_gop": (1, True),
        "range_bytes_ratio": (RANGE_RATIO, False),
        "worker_peak_mb": (CHILD_MB, False),
    }
    return [
        f"{name} is {value}, the aim is {'at most' if may_equal else 'below'} {aim:g}"
        for name, (aim, may_equal) in aims.items()
        if (value := figures[name]) is not None and not (value <= aim if may_equal else value < aim)
    ]


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
