"""Places in full, names as they are."""

from jobs.places import absolute, absolute_models
from jobs.training.settings import LabelConfig, RoutersConfig
from pipeline.config import AnswerConfig, JobConfig, PlanConfig, ScoreConfig


def test_places_are_named_in_full_but_for_schemes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/of")
    assert absolute("videos") == str(tmp_path / "videos")
    assert absolute("~/videos") == "/home/of/videos"
    assert absolute("s3://bucket/videos") == "s3://bucket/videos"


def test_folders_of_models_and_heads_are_named_in_full(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("small", "pair", "heads"):
        (tmp_path / name).mkdir()
    answer, score, plan = AnswerConfig(model="./small"), ScoreConfig(model="pair"), PlanConfig(heads="heads")
    found = absolute_models(JobConfig(answer=answer, score=score, plan=plan))
    assert (found.answer.model, found.score.model) == (str(tmp_path / "small"), str(tmp_path / "pair"))
    assert found.plan.heads == str(tmp_path / "heads")
    found = absolute_models(LabelConfig(answer=answer, num_frames=7))
    assert (found.answer.model, found.num_frames) == (str(tmp_path / "small"), 7)
    assert absolute_models(RoutersConfig(answer=answer)).answer.model == str(tmp_path / "small")


def test_names_that_are_the_same_everywhere_stay():
    config = JobConfig(answer=AnswerConfig(model="some/model"), plan=PlanConfig(heads="package:world/heads"))
    assert absolute_models(config) == config
    assert absolute_models(JobConfig()) == JobConfig()
