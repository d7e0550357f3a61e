"""What is left of answers and evidence when fewer visual tokens are shown, and what shortening them costs.

Every token compressor and every frame selector, at the same budgets: right answers on the generated world, labelled
seconds of real clips that keep tokens, time and memory at the size of a published model.
"""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.bench_report import write_report
from jobs.command_line import parse, require
from jobs.recipes import find_recipe
from pipeline.config import ScoreConfig
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from jobs.bench_compress_report import Found
    from jobs.bench_compress_ways import Way

PROG = "reelsift bench compress"


@dataclass(frozen=True)
class Arguments:
    """Compare token compressors and frame selectors at equal budgets."""

    videos: int = 40
    """Generated videos of the test split; each has some 19 questions."""
    budgets: tuple[float, ...] = (50.0, 25.0, 12.5)
    """Percent of the dense tokens."""
    compressors: tuple[str, ...] = ()
    """Entries of TOKEN_COMPRESSORS; by default all, none where only --selectors names some."""
    selectors: tuple[str, ...] = ()
    """Entries of FRAME_SELECTORS; by default all, none where only --compressors names some."""
    policies: tuple[Path, ...] = ()
    """Folders written by `reelsift train policy`: each is a row of its own beside the untrained rule's."""
    media: Path | None = None
    """Folder of real clips."""
    labels: Path | None = None
    """JSON lines as of `bench retrieval`: file, query, spans_s; without them clips give retention alone."""
    clip_model: str = "package:world/model"
    """Model whose vision tower sees the real clips, a folder or hub id; the world's has only ever seen drawings."""
    score: ScoreConfig = field(default_factory=lambda: find_recipe("world").score)
    """Which scorer says what is relevant in generated videos; in real clips it is the embedded one."""
    shape: str = "internvl3-1b"
    """Size of the model at which time is taken, a name of bench_shapes.SHAPES."""
    frames: int = 64
    """Frames of the clip that is timed."""
    repeats: int = 3
    """How often each method is timed; the median is reported."""
    report: Path | None = None
    """Markdown file to write, with a plot beside it; without it the report is only printed."""


def main(argv: list[str]) -> int:
    """Compare, print the report; the last stdout line is JSON. Return 1 where an aim is missed.

    Raises:
        ConfigError: the arguments do not fit.
        ModelError: a model cannot be loaded.
    """
    args = parse(Arguments, argv, PROG, __doc__)
    for option, value, least in (
        ("--videos", args.videos, 2), ("--frames", args.frames, 8), ("--repeats", args.repeats, 1)
    ):  # fmt: skip
        require(option, value, at_least=least)
    for budget_pct in args.budgets:
        require("--budgets", budget_pct, above=0)
    if not args.budgets or max(args.budgets) >= 100:
        msg = f"--budgets {args.budgets}: expected percentages below 100"
        raise ConfigError(msg)
    if args.labels and not args.media:
        msg = f"--labels {args.labels}: labels name clips; give their folder with --media"
        raise ConfigError(msg)
    from jobs.bench_compress_report import draw, lines
    from jobs.bench_shapes import find_shape

    find_shape(args.shape)  # refuses an unknown one before anything is measured
    found = measure(args)
    picture = args.report.with_suffix(".png") if args.report else None
    drawn = picture.name if picture and draw(found, picture) else ""
    if picture and not drawn:
        print("no plot: matplotlib is not here; pip install 'reelsift[bench]'", file=sys.stderr)
    report = lines(command(args), found, drawn)
    write_report("compress", report, args.report, ["a report is kept where it is asked for"])
    print(json.dumps(found.document()))
    return 0 if found.passes else 1


def command(args: Arguments) -> str:
    """Return the command that repeats a run, without what is only true on this machine."""
    options = ("videos", "budgets", "compressors", "selectors", "shape", "frames", "repeats")
    words = [PROG]
    words += [
        f"--{name} {' '.join(map(_plain, value)) if isinstance(value, tuple) else value}"
        for name in options
        if (value := getattr(args, name)) != getattr(Arguments, name)
    ]
    words += ["--policies " + " ".join(folder.name for folder in args.policies)] if args.policies else []
    words += ["--media DIR"] if args.media else []
    words += ["--labels FILE"] if args.labels else []
    words += ["--clip-model DIR"] if args.clip_model != Arguments.clip_model else []
    usual = Arguments().score
    words += ["--score.model DIR"] if args.score.model != usual.model else []
    return " ".join(words)


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def measure(args: Arguments) -> "Found":
    """Return what was found; time is taken last.

    Raises:
        ConfigError: no such entry, or labels and clips do not fit.
        ModelError: a model cannot be loaded.
    """
    from actors.device import pick_device
    from jobs.bench_compress_clips import watch_clips
    from jobs.bench_compress_report import Found
    from jobs.bench_compress_speed import measure_speed
    from jobs.bench_compress_world import ask_world

    device = pick_device(1)
    ways = chosen(args)
    clips = None
    if args.media:  # first: of all that is given only clips and labels may not fit
        clips = watch_clips(ways, args.media, args.labels, args.clip_model, ScoreConfig(), device)
    world = ask_world(ways, args.videos, args.score, device)
    speed = measure_speed(ways, args.repeats, device, args.shape, args.frames)
    return Found(ways, world, speed, clips)


def chosen(args: Arguments) -> "list[Way]":
    """Return what is compared.

    Raises:
        ConfigError: no such entry.
    """
    from jobs.bench_compress_ways import every_way
    from pipeline.compress import TOKEN_COMPRESSORS
    from pipeline.compress.policy import describe_policy
    from pipeline.select import FRAME_SELECTORS

    for folder in args.policies:
        describe_policy(str(folder))
    for option, named, known in (
        ("--compressors", args.compressors, TOKEN_COMPRESSORS),
        ("--selectors", args.selectors, FRAME_SELECTORS),
    ):
        if unknown := sorted(set(named) - set(known)):
            msg = f"{option}: no entry {', '.join(unknown)}; known: {', '.join(known)}"
            raise ConfigError(msg)
    if args.compressors or args.selectors:
        return every_way(args.compressors, args.selectors, args.budgets, args.policies)
    return every_way(list(TOKEN_COMPRESSORS), list(FRAME_SELECTORS), args.budgets, args.policies)
