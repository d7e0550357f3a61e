"""Do routed plans answer better than others at equal budgets? VideoRouter's comparison on a world whose truth is exact.

A split of generated videos that nothing was trained on is written, read as any archive is, and asked about; answers
are exact matches. Every method plans by the same planner and answers through the same model, so that they differ in
plans alone. Budgets are caps, shares of what all frames cost at full resolution.
"""

import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from jobs.bench_report import write_report
from jobs.bench_route_plans import PAPER_SCALES, TRAINED, UNTRAINED, by_paper, by_rule
from jobs.command_line import parse, require
from jobs.recipes import find_recipe
from pipeline.config import AnswerConfig, CompressConfig, JobConfig, PlanConfig, ScoreConfig
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from actors.models import ImageRouter
    from actors.models.video_llm import VideoLlm
    from jobs.bench_route_ask import Method, Remembered, Tried
    from jobs.bench_route_figures import Found
    from pipeline.queries import Query
    from pipeline.route import RouteManyFn

    Pair = tuple[RouteManyFn, ImageRouter]

PROG = "reelsift bench route"
EARLY_LAYERS = 2
"""Of the four of the world's model."""
MAX_NEW_TOKENS = 4
"""An answer is one word and its end."""


@dataclass(frozen=True)
class Arguments:
    """Measure accuracy, tokens and prefill time of plans at equal budgets."""

    model: str = "package:world/model"
    """Model that was trained on the generated world: one that comes with the package, or a folder."""
    heads: str = "package:world/heads"
    """Heads trained on it, likewise; without them the trained routers are left out."""
    videos: int = 60
    """Videos of the test split; each has some 19 questions."""
    budgets: tuple[float, ...] = (100.0, 50.0, 32.1, 16.0, 8.0)
    """Caps in percent of the dense tokens; 100 is always among them, as there all methods must be one."""
    router: Literal["rules", "llm"] = "rules"
    """Router of the untrained VideoRouter."""
    score: ScoreConfig = field(default_factory=lambda: find_recipe("world").score)
    """Which scorer proposes frames, and how many of them are looked at."""
    timed: int = 3
    """Videos whose questions are asked alone too, for the time of the prefill."""
    report: Path | None = None
    """Markdown file to write; without it the report is only printed."""


def main(argv: list[str]) -> int:
    """Compare, print the report; the last stdout line is JSON. Return 1 where an aim is missed.

    Raises:
        ConfigError: the arguments do not fit.
        ModelError: there is no such model, or the heads are not of this model.
    """
    args = parse(Arguments, argv, PROG, __doc__)
    require("--videos", args.videos, at_least=2)
    require("--timed", args.timed, at_least=1)
    for budget_pct in args.budgets:
        require("--budgets", budget_pct, above=0)
    if not args.budgets or max(args.budgets) > 100:
        msg = f"--budgets {args.budgets}: expected percentages up to 100"
        raise ConfigError(msg)
    from jobs.bench_route_report import lines

    found = measure(args)
    write_report(
        "route", lines(command(args), found), args.report, ["a report is kept where it is asked for"]
    )
    print(json.dumps(found.document()))
    return 0 if found.passes else 1


def command(args: Arguments) -> str:
    """Return the command that repeats a run."""
    words = [PROG]
    words += [
        f"--{name} {_named(value)}"
        for name in ("model", "heads")
        if (value := getattr(args, name)) != getattr(Arguments, name)
    ]
    for name in ("videos", "budgets", "router", "timed"):
        if (value := getattr(args, name)) != getattr(Arguments, name):
            given = " ".join(f"{one:g}" for one in value) if isinstance(value, tuple) else value
            words.append(f"--{name} {given}")
    usual = Arguments().score
    if args.score.model != usual.model:
        words.append(f"--score.model {_named(args.score.model)}")
    words += [
        f"--score.{name.replace('_', '-')} {value}"
        for name in ("proposer", "revision", "candidates", "smooth_s")
        if (value := getattr(args.score, name)) != getattr(usual, name)
    ]
    return " ".join(words)


def _named(model: str) -> str:
    """Return a model as a report may name it: a folder is nobody else's."""
    from actors.models.packaged import PREFIX

    if not model:
        return "''"
    return model if model.startswith(PREFIX) else "DIR"


def measure(args: Arguments) -> "Found":
    """Write the videos, ask everything, and return what was found."""
    from actors.device import pick_device
    from actors.models import video_llm
    from actors.models.tables import describe_proposer
    from jobs.bench_route_figures import Found
    from jobs.bench_route_videos import watch, write_split
    from jobs.world.model import PIXELS

    answer = AnswerConfig(model=args.model, frame_px=PIXELS, dtype="float32", max_new_tokens=MAX_NEW_TOKENS)
    config = JobConfig(answer=answer, score=args.score, plan=PlanConfig(early_layers=EARLY_LAYERS))
    llm = cast("VideoLlm", video_llm.make(answer, CompressConfig(), pick_device(1)))
    pairs, note = both_routers(args, config, llm)
    _say(note)
    with tempfile.TemporaryDirectory(prefix="reelsift-route-") as folder:
        _say(f"writing {args.videos} videos")
        write_split(Path(folder), args.videos)
        _say("reading them, and scoring their frames")
        videos, queries = watch(Path(folder), args.videos, llm.parts.frame_size, args.score)
    found = Found(videos, llm.parts.tokens_per_frame, note, describe_proposer(args.score).name)
    _compare(args, llm, queries, pairs, found)
    return found


def both_routers(args: Arguments, config: JobConfig, llm: "VideoLlm") -> "tuple[dict[str, Pair], str]":
    """Return routers of questions and frames, untrained and, where there are heads, trained; and what is missing."""
    from actors.models.heads import FACTS_FILE
    from actors.models.packaged import shipped

    pairs = {UNTRAINED: _routers(replace(config.plan, router=args.router), "early-layers", config, llm)}
    if args.heads not in shipped() and not (Path(args.heads).expanduser() / FACTS_FILE).exists():
        note = f"There are no heads in {args.heads}: {TRAINED} is left out, and the comparison is not passed."
        return pairs, note
    pairs[TRAINED] = _routers(_trained_plan(args.heads), "trained", config, llm)
    return pairs, ""


def _trained_plan(heads: str) -> PlanConfig:
    """Return the plan's settings that the heads were trained with."""
    from actors.models.heads import read_heads

    facts = read_heads(heads)
    return PlanConfig(
        router="trained",
        early_layers=facts["early_layers"],
        early_tokens=facts["early_tokens"],
        heads=heads,
    )


def _routers(plan: PlanConfig, scorer: str, config: JobConfig, llm: "VideoLlm") -> "Pair":
    """Return a router of questions and one of frames, as a job with these settings has them.

    Raises:
        ConfigError, ModelError: they do not fit the model.
    """
    from actors.models import video_llm
    from actors.models.tables import describe_router, describe_scorer

    job = replace(config, plan=plan, score=replace(config.score, scorer=scorer))
    facts = video_llm.describe(job.answer)
    entry, _ = describe_router(job, facts)
    second, _ = describe_scorer(job, facts)
    assert second.refine is not None
    return entry.make(job, llm.device), second.refine(job, llm)


def _compare(
    args: Arguments, llm: "VideoLlm", queries: Sequence["Query"], pairs: "dict[str, Pair]", found: "Found"
) -> None:
    """Ask everything about every video, and measure the routers by themselves."""
    from jobs.bench_route_ask import Remembered, check_equal, looked_at, put, time_alone
    from jobs.bench_route_routers import RouterMeasures, costs, routes_right

    remembered = {name: Remembered(router) for name, (_, router) in pairs.items()}
    found.tried = _all_tried(args, llm, queries, pairs, remembered, found)
    found.measures = RouterMeasures(queries, {**remembered})
    for name, (semantic, _) in pairs.items():
        found.semantic[name] = routes_right(semantic, args.videos)
    for number, watched in enumerate(found.videos):
        with looked_at(llm, watched, remembered.values()) as features:
            for tried in found.tried:
                put(llm, watched, tried)
            found.measures.add(watched, features)
            if number < args.timed:
                time_alone(llm, watched, found.tried)
            if not number:
                found.costs = {
                    name: costs(llm, router, semantic, watched, features)
                    for name, (semantic, router) in pairs.items()
                }
        found.wrong = check_equal(found.tried)
        _say(f"video {number + 1} of {len(found.videos)}{''.join(f'; {wrong}' for wrong in found.wrong)}")


def _all_tried(
    args: Arguments,
    llm: "VideoLlm",
    queries: Sequence["Query"],
    pairs: "dict[str, Pair]",
    remembered: "dict[str, Remembered]",
    found: "Found",
) -> "list[Tried]":
    """Return every method at every setting; dense is at 100 % alone, the paper's scales are for routed methods."""
    from jobs import bench_route_ask as ways
    from pipeline.stages import route_queries

    per_frame, num_frames = llm.parts.tokens_per_frame, found.num_frames
    budgets = dict.fromkeys((100.0, *args.budgets))
    ruled = [by_rule(PlanConfig(), num_frames, per_frame, budget_pct) for budget_pct in budgets]
    paper = [by_paper(PlanConfig(), num_frames, per_frame, *scales) for scales in PAPER_SCALES]
    whole = by_rule(PlanConfig(), num_frames, per_frame, 100.0)
    even = ways.frames_at_distances(per_frame)
    methods: list[Method] = [
        even,
        ways.pooled_alike(per_frame),
        ways.dual_encoder_pooling(per_frame, queries),
        *(
            ways.video_router(
                name, per_frame, queries, route_queries(semantic, queries), args.score, remembered[name]
            )
            for name, (semantic, _) in pairs.items()
        ),
        ways.oracle(per_frame),
    ]
    rows = [ways.Tried(replace(even, name="dense"), whole)]
    for method in methods:
        rows += [ways.Tried(method, one) for one in (*ruled, *(paper if method.is_routed else ()))]
    return rows


def _say(text: str) -> None:
    if text:
        print(text, file=sys.stderr)
