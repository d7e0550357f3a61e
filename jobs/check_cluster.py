"""`reelsift check-cluster cluster.yaml [--recipe NAME]`: mistakes in a cluster file, before they cost machines."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from jobs.cluster_file import find_problems, find_warnings, load_cluster, machines_of
from jobs.command_line import parse
from jobs.recipes import find_recipe

PROG = "reelsift check-cluster"


@dataclass(frozen=True)
class Arguments:
    """Check a file for `ray up`: typos, versions, limits, labels, and whether a recipe's pools fit its machines.

    Nothing is asked of a cloud. A constraints.txt beside the file is held against its images.
    """

    file: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="FILE")]]
    """The cluster file, as cluster.yaml."""
    recipe: Annotated[str, tyro.conf.arg(metavar="NAME")] = ""
    """A recipe whose smallest pools must fit the machines."""


def main(argv: list[str]) -> int:
    """Print problems, else warnings, on stderr and a JSON line on stdout; return 0 without problems, else 2.

    Raises:
        ConfigError: the file cannot be read, or there is no such recipe.
    """
    args = parse(Arguments, argv, PROG, Arguments.__doc__)
    job = find_recipe(args.recipe) if args.recipe else None
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
