"""Many questions to one window beside one, and beside a plain loop over transformers; is memory foreseen rightly?

Three parts. questions: 1 to 64 questions put to one window in one call, first compared with the same questions asked
one at a time. loop: questions to several windows, beside transformers' own `forward` and `generate` on the same
frames and prompts. memory: what the memory estimator says beside what models took. Weights are random or blind
(bench_models.py), so that only time, memory and equality mean anything, never an answer.
"""

import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from jobs.bench_questions_report import Measured, lines
from jobs.bench_report import write_report
from jobs.bench_shapes import find_shape
from jobs.command_line import parse, require
from pipeline.config import AnswerConfig
from pipeline.errors import ConfigError, ModelError
from pipeline.queries import Kind

if TYPE_CHECKING:
    from actors.models.video_llm import VideoLlm
    from jobs.library_loop import LibraryLoop

PROG = "reelsift bench questions"
KINDS: dict[str, tuple[Kind, ...]] = {"mix": ("flag", "choose", "ask"), "ask": ("ask",)}
LOOP_KINDS: tuple[Kind, ...] = ("flag", "ask", "choose", "ask")


@dataclass(frozen=True)
class Arguments:
    """Measure what more questions, more windows and larger models cost."""

    media: Path | None = None
    """Folder of videos whose pictures are shown; without it pictures are drawn."""
    shape: str = "smolvlm-256m"
    """Model, a name of bench_shapes.SHAPES."""
    random_language: bool = False
    """Take random weights for the language model too, where SmolLM2 would fit in."""
    questions: tuple[int, ...] = (1, 4, 16, 64)
    """How many questions are put to one window."""
    frames: int = 8
    """Frames of a window."""
    windows: int = 8
    """Windows of the loop part."""
    per_window: int = 4
    """Questions to each of them, half of them answered in free text."""
    max_new_tokens: int = 32
    """Longest free text."""
    repeats: int = 3
    """How often every number of questions is timed, in changing order; medians are reported."""
    loop_repeats: int = 1
    """How often the loop part is timed; one question after the other takes minutes."""
    skip_loop: bool = False
    """Leave the loop part out."""
    skip_memory: bool = False
    """Leave the memory part out."""
    report: Path | None = None
    """Markdown file to write; the default, for a run of everything, is named after the machine and the day, in
    docs/benchmarks/."""


def main(argv: list[str]) -> int:
    """Run the parts, write the report; the last stdout line is JSON. Return 1 where an aim is missed.

    Raises:
        ConfigError: the arguments do not fit.
    """
    args = parse(Arguments, argv, PROG, __doc__)
    for name in ("frames", "windows", "per_window", "max_new_tokens", "repeats", "loop_repeats"):
        option = f"--{name.replace('_', '-')}"
        require(option, getattr(args, name), at_least=2 if name == "frames" else 1)
    if not args.questions or min(args.questions) < 1:
        msg = f"--questions {args.questions}: expected numbers of at least 1"
        raise ConfigError(msg)
    found = Measured()
    with tempfile.TemporaryDirectory(prefix="reelsift-questions-") as folder:
        model = build(args, Path(folder), found)
        _measure_questions(args, model, found)
        if not args.skip_loop:
            _measure_loop(args, model, found)
    if not args.skip_memory:
        measure_memory(found)
    report = lines(command(args), about(args, found), args.repeats, found)
    write_report("questions", report, args.report, lacking(args))
    document = {"bench": "questions", "pass": found.passes, "figures": found.figures, "rows": found.rows}
    print(json.dumps(document))
    return 0 if found.passes else 1


def lacking(args: Arguments) -> list[str]:
    """Return what a run of everything on real pictures has more than this."""
    names = ("shape", "random_language", "questions", "frames", "windows", "per_window", "max_new_tokens")
    changed = [
        f"--{name.replace('_', '-')}" for name in names if getattr(args, name) != getattr(Arguments, name)
    ]
    fewer = ["--repeats"] if args.repeats < Arguments.repeats else []
    return (
        ([f"{' and '.join(changed + fewer)} not as usual"] if changed or fewer else [])
        + ([] if args.media else ["no --media"])
        + ["--skip-loop"] * args.skip_loop
        + ["--skip-memory"] * args.skip_memory
    )


def command(args: Arguments) -> str:
    """Return the command that repeats a run, without what is only true on this machine."""
    words = [PROG, *["--media DIR"] * (args.media is not None)]
    for name in (
        "shape",
        "questions",
        "frames",
        "windows",
        "per_window",
        "max_new_tokens",
        "repeats",
        "loop_repeats",
    ):
        if (value := getattr(args, name)) != getattr(Arguments, name):
            given = " ".join(map(str, value)) if isinstance(value, tuple) else value
            words.append(f"--{name.replace('_', '-')} {given}")
    switches = ("random_language", "skip_loop", "skip_memory")
    return " ".join([*words, *(f"--{name.replace('_', '-')}" for name in switches if getattr(args, name))])


def about(args: Arguments, found: Measured) -> list[str]:
    """Return what a reader must know of the model and of what it was shown."""
    shown = "frames of real videos" if args.media else "drawn frames"
    return [
        f"Model of the shape {args.shape}, language model: {found.language}, the vision tower random: blind, and no"
        f" answerer. {args.frames} {shown} per window, free text of up to {args.max_new_tokens} tokens, {found.dtype}"
        " where nothing else is said."
    ]


# --- the model -----------------------------------------------------------------------------------------------


def build(args: Arguments, folder: Path, found: Measured) -> Path:
    """Return the folder of a model, with the real language model inside where it fits and can be had."""
    from jobs.bench_models import build_shape
    from jobs.smollm2 import language_model

    language: Path | None = None
    found.language = "random weights"
    if args.shape == Arguments.shape and not args.random_language:
        try:
            language = language_model()
            found.language = "SmolLM2-135M-Instruct"
        except ModelError as error:
            found.language = f"random weights, since {error}"
            print(found.language, file=sys.stderr)
    return build_shape(args.shape, folder / args.shape, language=language)


def load(args: Arguments, model: Path, dtype: str) -> "VideoLlm":
    """Return an answerer that shows every frame whole."""
    from actors.device import pick_device
    from actors.models import video_llm
    from pipeline.config import CompressConfig

    config = _config(args, model, dtype)
    return cast("VideoLlm", video_llm.make(config, CompressConfig(compressor="none"), pick_device(1)))


def load_loop(args: Arguments, model: Path, dtype: str) -> "LibraryLoop":
    """Return the library's own model of the same folder: the answerer's has another attention."""
    from actors.device import pick_device
    from actors.models.loading import load_model
    from actors.models.prompting import read_parts
    from jobs.library_loop import LibraryLoop

    parts = read_parts(_config(args, model, dtype), weights=True)
    plain = load_model("AutoModelForImageTextToText", parts.files, dtype, pick_device(1))
    return LibraryLoop(parts, plain, args.max_new_tokens)


def _config(args: Arguments, model: Path, dtype: str) -> AnswerConfig:
    return AnswerConfig(
        model=str(model),
        dtype=cast("Any", dtype),
        frame_px=find_shape(args.shape).vision.frame_px,
        max_new_tokens=args.max_new_tokens,
    )


# --- the parts -----------------------------------------------------------------------------------------------


def _measure_questions(args: Arguments, model: Path, found: Measured) -> None:
    """Compare answers given together and alone, then time every number of questions of each mixture."""
    from jobs.bench_questions_time import compare, time_each
    from jobs.bench_windows import draw_queries, make_windows, request

    llm = load(args, model, "float32")
    [window] = make_windows(args.media, 1, args.frames, llm.parts.frame_size)
    per_frame = llm.parts.tokens_per_frame
    row: dict[str, Any] = compare(
        llm, request(window, draw_queries(max(args.questions), KINDS["mix"]), per_frame)
    )
    print(f"equality: {row}", file=sys.stderr)
    found.is_equal.append(row["equal"])
    found.rows.append(row)
    llm = load(args, model, "auto")
    found.dtype = _dtype(llm)
    requests = {
        (kinds, num): request(window, draw_queries(num, mixture), per_frame)
        for kinds, mixture in KINDS.items()
        for num in sorted(set(args.questions))
    }
    rows = time_each(llm, requests, args.repeats)
    found.rows += rows
    wall_s = {row["questions"]: row["wall_s"] for row in rows if row["kinds"] == "mix"}
    for num in (16, 64):
        if {1, num} <= set(wall_s):
            found.figures[f"q{num}_vs_1"] = round(wall_s[num] / wall_s[1], 3)


def _measure_loop(args: Arguments, model: Path, found: Measured) -> None:
    """Compare the answers with the library's in float32 on two windows, then time both on all windows."""
    from jobs.bench_windows import draw_queries, make_windows, request
    from jobs.library_loop import race

    queries = draw_queries(args.windows * args.per_window, LOOP_KINDS)
    groups = [queries[start : start + args.per_window] for start in range(0, len(queries), args.per_window)]
    for dtype, num_windows, repeats in (("float32", 2, 1), ("auto", args.windows, args.loop_repeats)):
        llm, loop = load(args, model, dtype), load_loop(args, model, dtype)
        windows = make_windows(args.media, args.windows, args.frames, llm.parts.frame_size)
        asked = list(zip(windows, groups, strict=True))[:num_windows]
        requests = [request(window, group, llm.parts.tokens_per_frame) for window, group in asked]
        row: dict[str, Any] = {"part": "loop", "dtype": _dtype(llm), **race(llm, loop, requests, repeats)}
        if dtype == "float32":
            row = {**row, "part": "loop equality", "equal": row["same_answers"] == row["questions"]}
            found.is_equal.append(row["equal"])
        else:
            found.figures["batched_vs_loop"] = row["ratio"]
        print(f"{row}", file=sys.stderr)
        found.rows.append(row)


def measure_memory(found: Measured) -> None:
    """Compare the memory estimator with what nine models took, then answer under a small budget."""
    from jobs.bench_memory import MEASURED_SHAPES, measure_budget, measure_shape

    errors: list[float] = []
    for name in MEASURED_SHAPES:
        with tempfile.TemporaryDirectory(prefix="reelsift-memory-") as folder:
            row = measure_shape(name, Path(folder))
        print(f"memory: {row}", file=sys.stderr)
        found.rows.append({"part": "memory", **row})
        errors.append(abs(row["error"]))
    found.figures["estimator_error"] = round(max(errors), 4)
    with tempfile.TemporaryDirectory(prefix="reelsift-memory-") as folder:
        budget = measure_budget(Path(folder))
    print(f"budget: {budget}", file=sys.stderr)
    found.rows.append({"part": "budget", **budget})
    found.is_equal.append(budget["same_answers"])
    found.holds = budget["holds"] and not budget["refused"]


def _dtype(llm: "VideoLlm") -> str:
    return str(llm.model.dtype).removeprefix("torch.")
