"""What was warmed up works after files are out of reach; without that, it does not."""

import platform
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import av
import pytest

from pipeline import warm_up as warm_up_module
from pipeline.config import WindowConfig
from pipeline.decode import DECODERS
from pipeline.errors import ConfigError, DecodeError
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
data = small_video("libx264")
import_whole(av)
window = WindowConfig(sample_fps=4)
warm_up(decoder, sample, window)
lock_down(1024 * 2**20)
with decoder(io.BytesIO(data), "a.mp4") as look:
    shots = list(sample(0.0, 2.0, window, lambda times_s: look(times_s, FrameSize(32, 32), Policy())))
print(sum(picture is not None for _, picture in shots))
"""


NEEDS_WHEEL = pytest.mark.skipif(platform.machine() != "x86_64", reason="decord has wheels for x86_64 only")


@pytest.mark.parametrize(
    ("decoder", "sampler"),
    [("pyav", "adaptive"), ("pyav", "scenes"), pytest.param("decord", "rate", marks=NEEDS_WHEEL)],
)
def test_after_it_decoding_needs_no_files(decoder, sampler):
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


def encoders(monkeypatch, decoder):
    """Return the encoders that are used to warm a decoder up."""
    used = []
    real = warm_up_module.small_video
    monkeypatch.setattr(warm_up_module, "small_video", lambda name: used.append(name) or real(name))
    warm_up(decoder, SAMPLERS["rate"], WindowConfig())
    return used


def test_an_encoder_that_not_every_libav_has_is_not_needed(monkeypatch):
    assert encoders(monkeypatch, DECODERS["pyav"]) == ["mpeg4"]


def test_a_decoder_that_takes_nothing_else_has_a_video_of_h264(monkeypatch):
    @contextmanager
    def picky(file, name):
        with av.open(file) as container:
            codec = container.streams.video[0].codec_context.name
        if codec != "h264":
            msg = f"{name}: {codec} is not taken"
            raise DecodeError(msg)
        file.seek(0)
        with DECODERS["pyav"](file, name) as look:
            yield look

    assert encoders(monkeypatch, picky) == ["mpeg4", "libx264"]


def test_a_package_that_is_missing_is_told_before_any_video_is_opened(monkeypatch):
    monkeypatch.setitem(sys.modules, "scenedetect", None)
    with pytest.raises(ConfigError, match=r"pip install 'reelsift\[scenes\]'"):
        warm_up(DECODERS["pyav"], SAMPLERS["scenes"], WindowConfig())
