"""Using a decoder and a sampler once, on a video made here, before the process gives up files.

Libraries import modules, load codecs and look at the machine when they are first used; after lock_down (sandbox.py)
they no longer can. What is used is ready, whatever it is: no decoder has to say what it needs.
"""

import io
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import av
import numpy as np

from pipeline.errors import DecodeError
from pipeline.frames import Decoder, FrameSize, Policy
from pipeline.sampling import SampleFn

if TYPE_CHECKING:
    from pipeline.config import WindowConfig

SIDE_PX, NUM_PICTURES, FPS = 64, 8, 1


def warm_up(decoder: Decoder, sample: SampleFn, window: "WindowConfig") -> None:
    """Sample a small video: of a codec that libav writes itself, or of H.264 if the decoder takes nothing else.

    Raises:
        DecodeError, ConfigError: the decoder or the sampler cannot be used, for example because a package is missing.
    """
    try:
        _try(decoder, sample, window, "mpeg4")
    except DecodeError:
        # not every libav is built with an encoder of H.264
        if "libx264" not in av.codecs_available:
            raise
        _try(decoder, sample, window, "libx264")


def _try(decoder: Decoder, sample: SampleFn, window: "WindowConfig", encoder: str) -> None:
    """Sample a small video that an encoder of libav writes."""
    size = FrameSize(SIDE_PX // 2, SIDE_PX // 2)
    with decoder(io.BytesIO(small_video(encoder)), "warm-up.mp4") as look:
        for _ in sample(0.0, NUM_PICTURES / FPS, window, lambda times_s: look(times_s, size, Policy())):
            pass


def small_video(encoder: str) -> bytes:
    """Return a video in mp4 of two scenes, one grey and one that moves."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        options = {"preset": "ultrafast"} if encoder == "libx264" else {}
        stream: Any = container.add_stream(encoder, rate=FPS, options=options)
        stream.width = stream.height = SIDE_PX
        stream.pix_fmt = "yuv420p"
        for k in range(NUM_PICTURES):
            picture_HWC = np.full((SIDE_PX, SIDE_PX, 3), 90, np.uint8)
            if k > NUM_PICTURES // 2:
                picture_HWC[:, k * 4 :] = 230
            frame = av.VideoFrame.from_ndarray(picture_HWC, format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = k, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()
