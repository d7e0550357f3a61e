"""`reelsift index`: a real small video, read once, answered in a second call."""

import json

import pytest

from jobs import index
from pipeline.errors import ConfigError
from tests import videos
from tests.tiny_models import build


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(build("internvl", tmp_path_factory.mktemp("models") / "internvl"))


def test_a_video_is_read_once_and_answered_later(model, ten_seconds, tmp_path, capsys):
    common = ["--kv", str(tmp_path / "kv"), "--answer.model", model, "--answer.frame-px", "56",
              "--answer.max-new-tokens", "4", "--window-tokens", "100", "--retrieve-frames", "3"]  # fmt: skip
    assert index.main([*common, "--video", str(ten_seconds("mp4")), "--sample-fps", "1"]) == 0
    assert "10 of 10 frames" in capsys.readouterr().err
    assert index.main([*common, "--ask", "Is it dark?", "--ask", "Who is it?"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["question"] for line in lines] == ["Is it dark?", "Who is it?"]
    assert all(isinstance(line["answer"], str) for line in lines)


def test_a_picture_shown_at_several_times_is_read_once(model, tmp_path, capsys, monkeypatch):
    video = videos.write_video(tmp_path / "short.mp4", numbers=range(12), gop=12, options=videos.X264)
    monkeypatch.setattr(
        index, "FRAMES_AT_ONCE", 5
    )  # twice 30 pictures a second: a pair is parted every 5 times
    options = ["--kv", str(tmp_path / "kv"), "--video", str(video), "--sample-fps", "60", "--window-tokens", "100",
               "--dtype", "bfloat16", "--answer.model", model, "--answer.frame-px", "56"]  # fmt: skip
    assert index.main(options) == 0
    assert "12 of 12 frames" in capsys.readouterr().err
    assert json.loads((tmp_path / "kv" / "manifest.json").read_text())["dtype"] == "bfloat16"


def test_what_cannot_be_done_is_said(model, tmp_path):
    with pytest.raises(ConfigError, match="nothing to do"):
        index.main(["--kv", str(tmp_path), "--answer.model", model])
    with pytest.raises(ConfigError, match=r"answer\.model is missing"):
        index.main(["--kv", str(tmp_path), "--ask", "Who?"])
