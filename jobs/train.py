"""Training what routes and what is kept: `reelsift train label | routers | policy ...`; see docs/training.md.

The last stdout line is one JSON document.
"""

import json
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any

import tyro

from jobs.command_line import parse
from jobs.places import absolute, absolute_models
from jobs.training.settings import LabelConfig, PolicyConfig, RoutersConfig
from pipeline.errors import ConfigError


@dataclass(frozen=True)
class LabelArguments:
    """Find out which questions need the whole video and which frames the others cannot do without.

    VIDEOS is a folder or s3://bucket/prefix. QUESTIONS is a .jsonl or .parquet file with id, video (below VIDEOS),
    question, kind (flag, choose, ask), answer and, if there are, choices, category, split (train, dev, test) and
    evidence_s (intervals in seconds). OUT gets qtr/ and flr/, Parquet with one row per question each.
    """

    videos: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="VIDEOS")]]
    """Where the videos lie."""
    questions: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="QUESTIONS")]]
    """Questions and their known answers."""
    out: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="OUT")]]
    """Where the labels go."""
    job: Annotated[LabelConfig, tyro.conf.arg(name="")] = field(default_factory=LabelConfig)


@dataclass(frozen=True)
class RoutersArguments:
    """Train the heads that tell routes and relevant frames, on the first layers of the model that answers.

    LABELS is a folder written by `reelsift train label`. OUT gets heads.json and heads.safetensors, for --plan.heads of
    `reelsift answer`; with --stages 1,2,3 also model/, for its --answer.model: there the language model is trained with
    the heads. The same command goes on where it was interrupted.
    """

    labels: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="LABELS")]]
    """Where the labels lie."""
    out: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="OUT")]]
    """Where the heads go."""
    videos: str = ""
    """Where the videos lie now; empty = where they lay when they were labelled."""
    job: Annotated[RoutersConfig, tyro.conf.arg(name="")] = field(default_factory=RoutersConfig)


@dataclass(frozen=True)
class PolicyArguments:
    """Train the network that says how much of each frame to keep, from what a model needs to answer.

    LABELS is a folder written by `reelsift train label`. OUT gets policy.json and policy.safetensors, for
    --compress.policy of `reelsift answer` with --compress.compressor policy. The same command goes on where it was
    interrupted.
    """

    labels: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="LABELS")]]
    """Where the labels lie."""
    out: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="OUT")]]
    """Where the policy goes."""
    videos: str = ""
    """Where the videos lie now; empty = where they lay when they were labelled."""
    job: Annotated[PolicyConfig, tyro.conf.arg(name="")] = field(default_factory=PolicyConfig)


def _label(argv: list[str]) -> int:
    """Run `reelsift train label`; see `jobs.training.label`."""
    from jobs.training.label import label

    args = parse(LabelArguments, argv, "reelsift train label", LabelArguments.__doc__)
    return _print(label(absolute(args.videos), args.questions, absolute(args.out), absolute_models(args.job)))


def _routers(argv: list[str]) -> int:
    """Run `reelsift train routers`; see `jobs.training.routers`."""
    from jobs.training.routers import train_routers

    args = parse(RoutersArguments, argv, "reelsift train routers", RoutersArguments.__doc__)
    videos = absolute(args.videos) if args.videos else ""
    return _print(train_routers(absolute(args.labels), absolute(args.out), absolute_models(args.job), videos))


def _policy(argv: list[str]) -> int:
    """Run `reelsift train policy`; see `jobs.training.policy`."""
    from jobs.training.policy import train_policy

    args = parse(PolicyArguments, argv, "reelsift train policy", PolicyArguments.__doc__)
    videos = absolute(args.videos) if args.videos else ""
    return _print(train_policy(absolute(args.labels), absolute(args.out), absolute_models(args.job), videos))


STEPS: dict[str, Callable[[list[str]], int]] = {"label": _label, "routers": _routers, "policy": _policy}


def main(argv: list[str]) -> int:
    """Run the step that the first argument names; return its exit code.

    Raises:
        ConfigError: no such step, or its arguments do not fit.
    """
    known = ", ".join(STEPS)
    if not argv or argv[0] in ("-h", "--help"):
        print(f"usage: reelsift train STEP ...\n\n{__doc__}\n\nSTEP is one of: {known}", file=sys.stderr)
        return 0 if argv else 2
    if argv[0] not in STEPS:
        msg = f"no step {argv[0]!r} of training; known: {known}"
        raise ConfigError(msg)
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    for ours in ("pipeline", "actors", "jobs"):
        logging.getLogger(ours).setLevel(logging.INFO)
    return STEPS[argv[0]](argv[1:])


def _print(found: dict[str, Any]) -> int:
    print(json.dumps(found))
    return 0
