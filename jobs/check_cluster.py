"""`reelsift check-cluster FILE [OPTIONS]`: mistakes in a cluster file, before they cost machines."""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from jobs.cluster_file import find_problems, find_warnings, load_cluster, machines_of
from jobs.command_line import parse_with_recipe
from pipeline.config import JobConfig

PROG = "reelsift check-cluster"


@dataclass(frozen=True)
class Arguments:
    """Check a file for `ray up`: typos, versions, limits, labels, and whether a job's pools fit its machines.

    Nothing is asked of a cloud. A constraints.txt beside the file is held against its images. The pools are those of
    `reelsift answer` with the same options, of which any may be given; without one, no pools are checked.
    """

    file: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="FILE")]]
    """The cluster file, as cluster.yaml."""
    recipe: Annotated[str, tyro.conf.arg(metavar="NAME")] = ""
    """A recipe whose smallest pools must fit the machines; options given beside it go before it."""
    job: Annotated[JobConfig, tyro.conf.arg(name="")] = field(default_factory=JobConfig)


def main(argv: list[str]) -> int:
    """Print problems, else warnings, on stderr and a JSON line on stdout; return 0 without problems, else 2.

    Raises:
        ConfigError: the file cannot be read, a setting is out of its range, or there is no such recipe.
    """
    args = parse_with_recipe(Arguments, argv, PROG, Arguments.__doc__)
    job = args.job if len(argv) > 1 else None  # something is asked of the machines beside the file
    cluster = load_cluster(args.file)
    beside = args.file.parent / "constraints.txt"
    problems = find_problems(cluster, job, beside.read_text(encoding="utf-8") if beside.is_file() else "")
    warnings = [] if problems else find_warnings(cluster)
    for line in (*problems, *(f"warning: {warning}" for warning in warnings)):
        print(f"{args.file}: {line}", file=sys.stderr)
    if not problems:
        print(f"{args.file}: no mistake found; machines: {machines_of(cluster).describe()}", file=sys.stderr)
    print(json.dumps({"file": str(args.file), "problems": problems, "warnings": warnings}))
    return 2 if problems else 0
