"""What was warmed up works after files are out of reach; without that, it does not."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.config import WindowConfig
from pipeline.decode import DECODERS
from pipeline.errors import ConfigError
from pipeline.sampling import SAMPLERS
from pipeline.warm_up import warm_up

LOCKED = """
import io, sys
import av
from pipeline.child import import_whole
from pipeline.config import WindowConfig
from pipeline.decode import DECODERS
from pipeline.frames import FrameSize, Policy
from pipeline.sampling import SAMPLERS
from pipeline.sandbox import lock_down
from pipeline.warm_up import small_video, warm_up
decoder, sample = DECODERS[sys.argv[1]], SAMPLERS[sys.argv[2]]
data = small_video()
import_whole(av)
window = WindowConfig(sample_fps=4)
warm_up(decoder, sample, window)
lock_down(1024 * 2**20)
with decoder(io.BytesIO(data), "a.mp4") as look:
    shots = list(sample(0.0, 2.0, window, lambda times_s: look(times_s, FrameSize(32, 32), Policy())))
print(sum(picture is not None for _, picture in shots))
"""
PACKAGES = {"decord": "decord", "scenes": "scenedetect"}


@pytest.mark.parametrize(
    ("decoder", "sampler"),
    [("pyav", "adaptive"), ("pyav", "scenes"), ("decord", "rate")],
)
def test_after_it_decoding_needs_no_files(decoder, sampler):
    for name in (decoder, sampler):
        if name in PACKAGES and importlib.util.find_spec(PACKAGES[name]) is None:
            pytest.skip(f"{PACKAGES[name]} is optional")
    works_after_warm_up(decoder, sampler)


def works_after_warm_up(decoder, sampler):
    done = subprocess.run(
        [sys.executable, "-c", LOCKED, decoder, sampler],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 0


def test_a_package_that_is_missing_is_told_before_any_video_is_opened(monkeypatch):
    monkeypatch.setitem(sys.modules, "scenedetect", None)
    with pytest.raises(ConfigError, match=r"pip install 'reelsift\[scenes\]'"):
        warm_up(DECODERS["pyav"], SAMPLERS["scenes"], WindowConfig())
