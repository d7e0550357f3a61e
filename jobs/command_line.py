"""Options of a command, read from its arguments into a dataclass; a setting out of its range is one plain line."""

import io
import math
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from typing import Any, TypeVar

import tyro
from pydantic import ValidationError

from jobs.recipes import find_recipe
from pipeline import config as settings
from pipeline.errors import ConfigError

BOUNDS = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}

Options = TypeVar("Options")


def parse(
    options: Callable[..., Options],
    argv: Sequence[str],
    prog: str,
    description: str | None = None,
    default: Options | None = None,
) -> Options:
    """Return the options that the arguments name; an unknown one, or no number, is said by tyro, exit code 2.

    Args:
        options: the class of all options.
        argv: arguments as they were typed.
        prog: the command, for messages.
        description: what the command does, for its help.
        default: what options are that are not given; None = as the class has them.

    Raises:
        ConfigError: a setting is out of its range.
    """
    stated: dict[str, Any] = {"args": argv, "prog": prog, "description": description}
    if default is not None:
        stated["default"] = default
    try:
        with redirect_stderr(io.StringIO()):
            return tyro.cli(options, **stated)
    except ValidationError as error:
        raise ConfigError(_explain(error, "")) from error
    except SystemExit as ended:
        if not ended.code:
            raise  # it was asked for help
        refused = ended.__context__
        if refused is not None and isinstance(error := refused.__context__, ValidationError):
            raise ConfigError(_explain(error, str(getattr(refused, "arg", "")))) from error
    return tyro.cli(options, **stated)  # says what was wrong


def parse_with_recipe(
    options: Callable[..., Options], argv: Sequence[str], prog: str, description: str | None = None
) -> Options:
    """Return the options of a command that takes one place or more, `recipe` and `job`.

    A recipe stands behind every setting of the job that is not given.

    Raises:
        ConfigError: a setting is out of its range, or there is no such recipe.
    """
    asked = ArgumentParser(add_help=False, allow_abbrev=False)
    asked.add_argument("--recipe", nargs="?", default="")
    name = asked.parse_known_args(argv)[0].recipe
    behind = options(tyro.MISSING, recipe=name, job=find_recipe(name)) if name else None
    return parse(options, argv, prog, description, behind)


def require(option: str, value: float, *, at_least: float | None = None, above: float | None = None) -> None:
    """Check a number of an option that has no type of its own in pipeline/config.py.

    Raises:
        ConfigError: it is out of range, or no finite number.
    """
    if not math.isfinite(value) or (above is not None and value <= above):
        msg = f"{option} {value:g}: expected a finite number above {above or 0:g}"
        raise ConfigError(msg)
    if at_least is not None and value < at_least:
        msg = f"{option} {value:g}: expected at least {at_least:g}"
        raise ConfigError(msg)


def _explain(error: ValidationError, place: str) -> str:
    """Return which options are out of range, as they are written on the command line.

    `place` is where the settings lie in the options: `job.score.pool`, of which the first is not written.
    """
    prefix = "".join(f"{part}." for part in place.split(".")[1:])
    fields: dict[str, Any] = getattr(getattr(settings, error.title, None), "__pydantic_fields__", {})
    lines: list[str] = []
    for mistake in error.errors(include_url=False):
        name = ".".join(map(str, mistake["loc"]))
        bounds = [
            f"{word} {getattr(bound, key):g}"
            for bound in getattr(fields.get(name), "metadata", ())
            for key, word in BOUNDS.items()
            if hasattr(bound, key)
        ]
        expected = " and ".join(bounds) or mistake["msg"]
        given = str(mistake["input"]).removesuffix(".0")
        lines.append(f"--{prefix}{name.replace('_', '-')} {given}: expected {expected}")
    return "; ".join(lines)
