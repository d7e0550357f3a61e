"""The measurement of memories: its stream, its slope, and a run of seconds."""

import json

import numpy as np
import pytest
import torch

from jobs import bench_stream
from jobs.bench_stream import Arguments, measure, slope_of, stream
from pipeline.errors import ConfigError
from pipeline.memory import MEMORIES


def frames(num_frames: int, chunk: int, seed: int = 0) -> torch.Tensor:
    return torch.cat([values.clone() for values, _ in stream(num_frames, 2.0, chunk, seed)])


def test_the_stream_is_the_same_however_it_is_cut():
    whole = frames(70, 70)
    assert torch.equal(frames(70, 1), whole)
    assert torch.equal(frames(70, 16), whole)
    assert not torch.equal(frames(70, 70, seed=1), whole)
    assert torch.cat([pts_s for _, pts_s in stream(7, 2.0, 3)]).tolist() == [k / 2 for k in range(7)]


def test_the_stream_has_cuts_still_stretches_and_walks():
    values = frames(400, 16)
    # the share of tokens that are unlike those of the frame before
    new = (torch.cosine_similarity(values[1:], values[:-1], dim=-1) < 0.95).double().mean(1)
    assert int((new > 0.9).sum()) >= 2, "cuts"
    assert float((new < 0.02).double().mean()) > 0.2, "stillness"
    assert float(((new > 0.15) & (new < 0.35)).double().mean()) > 0.2, "walks"
    assert 0.8 < float(values.std()) < 1.2


def test_the_slope_is_that_of_a_line_through_noise():
    hours = np.linspace(0, 10, 41)
    noise = np.random.default_rng(0).normal(0, 0.1, 41)
    assert slope_of(list(zip(hours, 300 + 2.5 * hours + noise, strict=True))) == pytest.approx(2.5, abs=0.05)
    assert slope_of([(0.0, 5.0), (1.0, 5.0), (2.0, 5.0)]) == 0


def test_every_memory_is_measured():
    assert {settings.get("memory", name) for name, settings in bench_stream.VARIANTS.items()} == set(MEMORIES)


@pytest.mark.parametrize("name", ["carriers", "stream-dycoke, lrr"])
def test_a_run_of_seconds(name):
    row = measure(name, Arguments(hours=0.01, chunk=7))
    assert (row.memory, row.frames) == (name, 40)
    assert 0 < row.tokens <= 6144
    assert 0 < row.state_mb < row.rss_mb
    assert row.frames_per_s > 0
    assert np.isfinite(row.rss_slope_mb_per_hour)


def test_the_command_ends_with_one_json_document(tmp_path, capsys):
    report = tmp_path / "stream.md"
    code = bench_stream.main(
        ["--hours", "0.01", "--only", "recent", "--videos", "1", "--report", str(report)]
    )
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (found["bench"], code) == ("stream", 0 if found["pass"] else 1)
    assert set(found["figures"]) == {"rss_slope_mb_per_hour", "frames_per_s", "from_pixels"}
    [row] = found["rows"]
    assert found["figures"]["rss_slope_mb_per_hour"] == row["rss_slope_mb_per_hour"]
    pixels = found["figures"]["from_pixels"]
    assert (pixels["frames"], pixels["tokens_per_frame"]) == (128, 16)
    shares = [pixels[f"{part}_share"] for part in ("decode", "encode", "memory")]
    assert sum(shares) == pytest.approx(1, abs=0.01)
    assert f"| recent | {row['frames_per_s']:.0f} |" in report.read_text()


@pytest.mark.parametrize("name", ["hours", "fps", "chunk", "videos", "processes"])
def test_settings_out_of_their_range_are_refused(name):
    with pytest.raises(ConfigError, match=f"--{name} -1: expected"):
        bench_stream.main([f"--{name}", "-1"])


def test_an_unknown_variant_is_refused():
    with pytest.raises(ConfigError, match=r"--only 'lru'"):
        bench_stream.main(["--only", "lru"])
