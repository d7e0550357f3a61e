"""What many modules need: small videos, each written once for all of them, and no decoding child that stays behind."""

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from pipeline import isolation
from tests import videos

# more threads of torch only wait for each other over arrays this small
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def intact(tmp_path_factory) -> Callable[[str], tuple[Path, list[int]]]:
    """Return (file, numbers) of a kind of videos.INTACT. Not to be changed."""
    return cache(lambda kind: videos.write_intact(tmp_path_factory.mktemp("intact"), kind))


@pytest.fixture(scope="session")
def ten_seconds(tmp_path_factory) -> Callable[[str], Path]:
    """Return 300 pictures with a key picture every second, by the suffix of the file. Not to be changed."""

    def write(suffix: str) -> Path:
        usual = {"options": videos.X264}
        coding = {"codec": "mpeg4", "b_frames": 0, "ticks": 1} if suffix == "avi" else usual
        options = {"movflags": "faststart"} if suffix == "mp4" else None
        path = tmp_path_factory.mktemp("ten") / f"ten.{suffix}"
        return videos.write_video(path, numbers=range(300), gop=30, container_options=options, **coding)

    return cache(write)


@pytest.fixture(scope="session")
def llm_folders(tmp_path_factory) -> dict[str, Path]:
    """Return the folder of each class of video language models; one has no chat template. Not to be changed."""
    from tests.tiny_models import VIDEO_LLMS, build

    root = tmp_path_factory.mktemp("models")
    return {kind: build(kind, root / kind, template=kind != "smolvlm") for kind in VIDEO_LLMS}


@pytest.fixture(scope="module")
def load_llm(llm_folders) -> Callable[..., Any]:
    """Return a loader of answerers by class, compressor and settings that keeps what it loaded."""
    from tests.tiny_models import answerer

    return cache(lambda kind, *compressor, **settings: answerer(llm_folders[kind], *compressor, **settings))


@pytest.fixture(scope="session")
def library_llm(llm_folders) -> Callable[[str], Any]:
    """Return a loader of transformers' own models: ours have another attention. Not to be changed."""
    from transformers import AutoModelForImageTextToText as Auto

    return cache(lambda kind: Auto.from_pretrained(llm_folders[kind], dtype="float32").eval())


@pytest.fixture(scope="module", autouse=True)
def _no_child_stays():
    """A module finds no decoding child of another one."""
    yield
    isolation.drop_child()
