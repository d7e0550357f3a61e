"""Is the bill known beforehand? An archive is made, estimated, answered, and the estimate compared with what it took.

Clips are cut and joined to videos of different lengths and sizes. The dry run sees a sample of them; then the job runs
on this machine's own Ray. Compared are expected values: counts, CPU seconds per stage (not busy seconds, which grow
with whatever else the machine does), and dollars at on-demand prices. The same again with a language model.
"""

import json
import math
import os
import random
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.bench_report import circumstances, list_files, table, write_report
from jobs.command_line import parse, require
from pipeline.cost import STAGES
from pipeline.errors import ConfigError, JobError
from pipeline.listing import SUFFIXES

PROG = "reelsift bench cost"
WITHIN = 1.3
"""An estimate is good if it lies within this factor of the truth."""
COUNTS = (
    "windows",
    "answers",
    "frames_seen",
    "tokens_dense",
    "tokens_used",
    "prefill_tokens",
    "written_bytes",
)
MATTERING = 0.05
"""Share of all CPU seconds from which a stage matters."""
LENGTHS_S = (3.0, 30.0)
QUERIES = (
    {"query_id": "car", "kind": "find", "text": "a car"},
    {"query_id": "rabbit", "kind": "flag", "text": "a rabbit"},
    {"query_id": "where", "kind": "choose", "text": "Where is this?", "choices": ["a forest", "a street"]},
)
SETTINGS = ("--window.length-s", "10", "--window.sample-fps", "1")
MODEL = (
    "--answer.model", "package:world/model", "--answer.frame-px", "64", "--answer.dtype", "float32",
    "--plan.budget-tokens", "164",
)  # fmt: skip


@dataclass(frozen=True)
class Arguments:
    """Compare estimates of cost with what runs cost."""

    media: Path
    """Folder with clips that the archive is made of."""
    videos: int = 80
    """Videos of the archive."""
    model: bool = True
    """Whether to ask a language model, too (the small one of the generated world)."""
    seed: int = 1
    """Of the videos' lengths."""
    report: Path | None = None
    """Markdown file to write; the default is named after the machine and the day, in docs/benchmarks/."""


def main(argv: list[str]) -> int:
    """Make the archive, compare, write the report; return 1 if an estimate is too far off.

    Raises:
        ConfigError: the arguments do not fit.
        JobError: a job failed.
    """
    args = parse(Arguments, argv, PROG)
    require("--videos", args.videos, at_least=1)
    clips = [clip for clip in list_files("--media", args.media) if clip.suffix.lower() in SUFFIXES]
    if not clips:
        msg = (
            f"--media {args.media}: found no video, expected files in .mp4, .mkv, .avi or the like; add some"
        )
        raise ConfigError(msg)
    ways = {"relevance": SETTINGS} | ({"language model": (*SETTINGS, *MODEL)} if args.model else {})
    with tempfile.TemporaryDirectory(prefix="reelsift-cost-") as folder:
        videos, queries = Path(folder) / "in", Path(folder) / "queries.jsonl"
        make_archive(videos, clips, args.videos, args.seed)
        queries.write_text("".join(json.dumps(query) + "\n" for query in QUERIES))
        found = {
            name: compare(videos, queries, Path(folder) / name.replace(" ", "-"), settings)
            for name, settings in ways.items()
        }
    lacking = [] if (args.videos, args.model) == (Arguments.videos, True) else ["not the usual archive"]
    _write(args, found, lacking)
    figures = {
        f"ratio_{name}" if way == "relevance" else f"ratio_model_{name}": round(ratio, 3)
        for way, ratios in found.items()
        for name, ratio in ratios["ratios"].items()
    }
    passed = all(is_near(ratio) for ratios in found.values() for ratio in ratios["ratios"].values())
    print(json.dumps({"bench": "cost", "pass": passed, "figures": figures}))
    return 0 if passed else 1


def make_archive(folder: Path, clips: list[Path], num_videos: int, seed: int) -> None:
    """Write videos that play a clip over and over, for different times.

    Raises:
        ConfigError: the ffmpeg program is missing, or a clip is no video.
    """
    from jobs.corpus_recipes import run_ffmpeg

    folder.mkdir(parents=True)
    draw = random.Random(seed)
    for number in range(num_videos):
        clip = clips[number % len(clips)]
        low, high = map(math.log, LENGTHS_S)
        length_s = math.exp(draw.uniform(low, high))
        run_ffmpeg(
            folder / f"{number:03d}{clip.suffix}", "-stream_loop", "-1", "-i", str(clip), "-t", f"{length_s:.2f}",
            "-map", "0:v:0", "-c", "copy",
        )  # fmt: skip


def compare(videos: Path, queries: Path, out: Path, settings: tuple[str, ...]) -> dict[str, Any]:
    """Return estimate, truth and the ratios between them.

    Raises:
        JobError: the job or its dry run failed.
    """
    command = ["answer", str(videos), str(queries), str(out), *settings]
    guessed = run([*command, "--dry-run", "--calibrate"])["estimate"]
    real = run(command)["cost"]
    return {"estimate": guessed, "truth": real, "ratios": ratios_of(guessed, real)}


def ratios_of(guessed: dict[str, Any], real: dict[str, Any]) -> dict[str, float]:
    """Return expected over real values: counts, CPU seconds of the stages that matter, dollars on demand."""
    pairs = {name: (guessed["counts"][name]["mid"], real["counts"][name]) for name in COUNTS}
    all_s = sum(stage["cpu_s"] for stage in real["stages"].values())
    for name in STAGES:
        spent_s = real["stages"][name]["cpu_s"]
        if spent_s >= MATTERING * all_s:
            pairs[name] = (guessed["stages"][name]["cpu_s"]["mid"], spent_s)
    pairs["total"] = (guessed["total"]["expected_on_demand"], real["total"]["high"])
    return {
        name: guess / truth if truth else float("inf")
        for name, (guess, truth) in pairs.items()
        if guess or truth
    }


def is_near(ratio: float) -> bool:
    """Return whether an estimate is good."""
    return 1 / WITHIN <= ratio <= WITHIN


def run(command: list[str]) -> dict[str, Any]:
    """Run a command in its own process, on a Ray of its own; return its last line.

    Raises:
        JobError: it failed; what it said.
    """
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-m", "jobs", *command], env=environment, capture_output=True, text=True, check=False
    )
    print(done.stderr.rpartition("\n}\n")[2], file=sys.stderr)
    if done.returncode:
        msg = f"`reelsift {' '.join(command)}` ended with exit code {done.returncode}: {done.stderr[-2000:]}"
        raise JobError(msg)
    return json.loads(done.stdout.strip().splitlines()[-1])


def _write(args: Arguments, found: dict[str, dict[str, Any]], lacking: list[str]) -> None:
    """Write the report."""
    lines = [
        "# Cost: what the dry run says and what the run takes",
        "",
        *circumstances(f"{PROG} --media DIR --videos {args.videos}"),
        "",
        f"{args.videos} videos of {LENGTHS_S[0]:g} to {LENGTHS_S[1]:g} s, made of the clips of one folder by repeating"
        " them; windows of 10 s at 1 frame per second, 3 questions, `--dry-run --calibrate` before the run. Seconds are"
        " CPU seconds of workers and decoders on both sides; dollars are for work at on-demand prices, which the"
        f" shipped table has. Good is what lies within a factor of {WITHIN:g}.",
    ]
    for way, one in found.items():
        lines += ["", f"## {way.capitalize()}", ""]
        guessed, real = one["estimate"], one["truth"]
        rows = [_row(name, guessed["counts"][name], real["counts"][name]) for name in COUNTS]
        rows += [
            _row(f"{name}, CPU s ({guessed['stages'][name]['source']})", guessed["stages"][name]["cpu_s"],
                 real["stages"][name]["cpu_s"])
            for name in STAGES
        ]  # fmt: skip
        total = guessed["total"]
        spread = {"low": total["low"], "mid": total["expected_on_demand"], "high": total["high"]}
        rows.append(_row("dollars (low: spot)", spread, real["total"]["high"]))
        lines += table(["", "low", "expected", "high", "truth", "expected / truth"], rows)
        probed = guessed["files"]
        lines += [
            "",
            f"{probed['probed']} of {probed['new']} files probed, {guessed['windows_tried']} windows tried.",
        ]
    write_report("cost", lines, args.report, lacking)


def _row(name: str, guessed: dict[str, float], real: float) -> list[str]:
    ratio = f"{guessed['mid'] / real:.2f}" if real else "-"
    return [name, *(f"{guessed[end]:.4g}" for end in ("low", "mid", "high")), f"{real:.4g}", ratio]
