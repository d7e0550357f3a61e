"""Recipes: a whole configuration by its name, and options that go before it."""

import pytest

from jobs.answer import read_arguments
from jobs.recipes import RECIPES, find_recipe
from pipeline import config as settings
from pipeline.config import JobConfig
from pipeline.errors import ConfigError

PATHS = ["videos", "queries", "out"]


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_a_configuration_like_any_other(name):
    recipe = find_recipe(name)
    assert settings.load(settings.dump(recipe)) == recipe
    assert read_arguments([*PATHS, "--recipe", name]).job == recipe
    assert settings.fingerprint(recipe) != settings.fingerprint(JobConfig())


@pytest.mark.parametrize("given", [["--recipe", "world"], ["--recipe=world"]])
def test_options_go_before_the_recipe_wherever_they_stand(given):
    option = ["--plan.budget-tokens", "99"]
    for argv in ([*PATHS, *given, *option], [*option, *given, *PATHS]):
        args = read_arguments(argv)
        assert args.paths == tuple(PATHS)
        assert args.job.plan.budget_tokens == 99
        assert args.job.plan.scale_background == find_recipe("world").plan.scale_background


def test_without_a_recipe_nothing_changes():
    assert read_arguments(PATHS).job == JobConfig()


def test_an_unknown_recipe_names_those_there_are():
    with pytest.raises(ConfigError, match=r"--recipe 'wrold': no such recipe; known: .*did you mean 'world'"):
        read_arguments([*PATHS, "--recipe", "wrold"])


def test_a_setting_out_of_range_is_still_one_line():
    with pytest.raises(ConfigError, match=r"^--plan.budget-tokens 0: expected at least 1$"):
        read_arguments([*PATHS, "--recipe", "world", "--plan.budget-tokens", "0"])


def test_a_recipe_without_a_name_is_refused(capsys):
    with pytest.raises(SystemExit) as ended:
        read_arguments([*PATHS, "--recipe"])
    assert ended.value.code == 2
    assert "recipe" in capsys.readouterr().err
