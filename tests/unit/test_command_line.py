"""What a setting out of its range says, in the spelling of the command line."""

from dataclasses import dataclass, field
from typing import Annotated

import pytest
import tyro

from jobs.answer import Arguments
from jobs.command_line import parse, require
from pipeline.config import ScoreConfig
from pipeline.errors import ConfigError


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("--decode.near-s 0", "--decode.near-s 0: expected above 0 and at most 60"),
        ("--decode.near_s nan", "--decode.near-s nan: expected above 0 and at most 60"),
        ("--window.length-s nan", "--window.length-s nan: expected above 0"),
        ("--score.threshold nan", "--score.threshold nan: expected at least 0 and at most 1"),
        ("--decode.memory-mb 0", "--decode.memory-mb 0: expected at least 128"),
        ("--window.count=0", "--window.count 0: expected at least 1 and at most 4096"),
        ("--answer.pool.max-size 0", "--answer.pool.max-size 0: expected at least 1"),
        ("--max-failed-fraction 1.5", "--max-failed-fraction 1.5: expected at least 0 and at most 1"),
        (
            "--decode.near-s 61 --decode.memory-mb 1",
            "--decode.near-s 61: expected above 0 and at most 60; --decode.memory-mb 1: expected at least 128",
        ),
    ],
)
def test_a_setting_out_of_range_is_one_line(given, said, capsys):
    with pytest.raises(ConfigError) as error:
        parse(Arguments, ["videos", "queries", "out", *given.split()], "reelsift answer")
    assert str(error.value) == said
    assert capsys.readouterr() == ("", "")


@dataclass(frozen=True)
class Flat:
    """A bench: its settings are written without a stage."""

    score: Annotated[ScoreConfig, tyro.conf.arg(name="")] = field(default_factory=ScoreConfig)


def test_settings_without_a_prefix_are_named_as_they_are_written():
    with pytest.raises(ConfigError, match=r"^--threshold 2: expected at least 0 and at most 1$"):
        parse(Flat, ["--threshold", "2"], "x")
    assert parse(Flat, ["--threshold", "0.25"], "x").score.threshold == 0.25


@pytest.mark.parametrize(("argument", "said"), [("--bogus", "bogus"), ("--window.count=x", "window.count")])
def test_other_mistakes_are_said_once_by_the_parser(argument, said, capsys):
    with pytest.raises(SystemExit) as ended:
        parse(Arguments, ["videos", "queries", "out", argument], "reelsift answer")
    err = capsys.readouterr().err
    assert ended.value.code == 2
    assert said in err
    assert err.count("For full helptext") == 1


def test_help_is_printed_once(capsys):
    with pytest.raises(SystemExit) as ended:
        parse(Arguments, ["--help"], "reelsift answer")
    assert ended.value.code == 0
    assert capsys.readouterr().out.count("usage: reelsift answer") == 1


def test_numbers_of_other_options():
    require("--files", 1, at_least=1)
    require("--seconds", 0.5, above=0)
    with pytest.raises(ConfigError, match=r"^--files 0: expected at least 1$"):
        require("--files", 0, at_least=1)
    with pytest.raises(ConfigError, match=r"^--files -1: expected at least 1$"):
        require("--files", -1, at_least=1)
    for value in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match=r"^--seconds .*: expected a finite number above 0$"):
            require("--seconds", value, above=0)
