"""Writes generated scenes as real video files."""

from fractions import Fraction
from pathlib import Path

import av

from jobs.world.scenes import FRAME_PX, SECONDS, draw, make_scene

FPS = 4
QUALITY = "16"
"""x264's constant rate factor: digits are small."""


def write_video(path: Path, seed: int, seconds: int = SECONDS) -> None:
    """Write the first seconds of a seed's scene as H.264 in MP4; the file has its name once it is whole."""
    scene = make_scene(seed)
    part = path.with_name(f"{path.name}.part")
    with av.open(str(part), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": QUALITY, "preset": "veryfast"})
        stream.width = stream.height = FRAME_PX
        stream.pix_fmt = "yuv420p"
        stream.codec_context.gop_size = 4 * FPS
        for number in range(seconds * FPS):
            frame = av.VideoFrame.from_ndarray(draw(scene, number / FPS), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    part.rename(path)
