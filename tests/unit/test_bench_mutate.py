"""Mutations are the same every time, and a bounded number of them is read on every run of the tests."""

import json
import random
from collections import Counter
from pathlib import Path

import psutil
import pytest

from jobs import bench_mutate
from jobs.bench_mutate import CHANGES, mutation
from pipeline.errors import ConfigError
from tests import videos

FOR_SLOW_MACHINES = ("--timeout-s", "60")
KINDS = ("h264.mp4", "h264.ts", "fragments.mp4", "vp9.webm", "mpeg4.avi", "open groups.ts")


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("good")
    for kind in KINDS:
        name, settings = videos.INTACT[kind]
        videos.write_video(folder / f"{kind}{Path(name).suffix}", **(settings | {"numbers": range(45)}))
    return folder


@pytest.fixture
def sources(good) -> list[Path]:
    return bench_mutate.good_files(good)


def test_a_mutation_is_made_of_seed_and_number_alone(sources):
    made = [mutation(sources, 7, number) for number in range(50)]
    assert made == [mutation(sources, 7, number) for number in range(50)]
    assert len({data for data, _, _ in made}) > 45
    assert made != [mutation(sources, 8, number) for number in range(50)]
    changed = sum(data not in {path.read_bytes() for path in sources} for data, _, _ in made)
    assert changed > 45


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("size_bytes", [0, 1, 3, 5000])
def test_every_change_can_be_made_of_every_file(change, size_bytes, sources):
    for seed in range(50):
        data = bytearray(random.Random(seed).randbytes(size_bytes))
        assert change(data, random.Random(seed), sources)
        assert len(data) < 2_000_000


def test_some_mutations_are_read_and_nothing_gets_out(good, capsys):
    num_files = 60
    words = ["--folder", str(good), "--files", str(num_files), "--seed", "3", "--memory-mb", "400"]
    code = bench_mutate.main([*FOR_SLOW_MACHINES, *words])
    out, err = capsys.readouterr()
    document = json.loads(out.splitlines()[-1])
    figures = Counter(document["figures"])
    assert (code, document["bench"]) == (0, "mutate"), err
    assert (figures["files"], figures["rows"]) == (num_files, num_files)
    assert (figures["escaped"], figures["hung"]) == (0, 0), err
    assert figures["crashed"] + figures["failed"] + figures["frames"] == num_files
    assert figures["failed"] > 5 < figures["frames"], "the changes are neither too weak nor too strong"
    assert "pipeline.child" not in str(
        [child.cmdline() for child in psutil.Process().children(recursive=True)]
    )


def test_one_mutation_can_be_repeated(good, capsys, sources):
    assert bench_mutate.main([*FOR_SLOW_MACHINES, "--folder", str(good), "--seed", "3", "--one", "11"]) == 0
    out, err = capsys.readouterr()
    kept = Path(err.rpartition("kept as ")[2].strip())
    try:
        assert kept.read_bytes() == mutation(sources, 3, 11)[0]
    finally:
        kept.unlink()
    assert json.loads(out.splitlines()[-1])["one"]["number"] == 11


def test_what_comes_out_is_told(good, capsys, monkeypatch):
    """An error that is none of the rows' is counted as escaped, and is exit code 1."""

    def fail(*_):
        msg = "surprise"
        raise RuntimeError(msg)

    monkeypatch.setattr("pipeline.stages.probe", fail)
    assert bench_mutate.main([*FOR_SLOW_MACHINES, "--folder", str(good), "--one", "0"]) == 1
    out, err = capsys.readouterr()
    Path(err.rpartition("kept as ")[2].strip()).unlink()
    found = json.loads(out.splitlines()[-1])["one"]
    assert found["outcome"] == "escaped"
    assert "surprise" in found["reason"]


def test_a_folder_without_small_files_is_refused(tmp_path):
    with (tmp_path / "large.mp4").open("wb") as file:
        file.truncate(bench_mutate.MOST_BYTES + 1)
    with pytest.raises(ConfigError, match="no file of at most"):
        bench_mutate.main(["--folder", str(tmp_path)])
