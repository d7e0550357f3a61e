"""Writes small awkward videos whose picture k shows the number k, and breaks them.

The number is ten black or white blocks in the top third of the picture, so "which picture did I get" has an
exact answer after any lossy codec and any resize. Only PyAV is needed.
"""

import random
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.stream import Disposition

BITS = 10


@lru_cache(maxsize=1000)
def picture(number: int, width_px: int = 160, height_px: int = 96) -> np.ndarray:
    """Return picture `number`: uint8 [H, W, 3], its number on top and moving stripes below."""
    y, x = np.mgrid[:height_px, :width_px]
    grey_HW = ((x + 3 * number) // 8 % 2 * 60 + (y + number) // 8 % 2 * 60 + 50).astype(np.uint8)
    block_px = width_px // BITS
    grey_HW[: height_px // 3] = 128
    for bit in range(BITS):
        grey_HW[: height_px // 3, bit * block_px : (bit + 1) * block_px] = 235 if number >> bit & 1 else 16
    return np.repeat(grey_HW[..., None], 3, axis=2)


def number(data_HWC: np.ndarray) -> int:
    """Return the number that a picture shows."""
    height_px, width_px, _ = data_HWC.shape
    found = 0
    for bit in range(BITS):
        left, right = (bit + 0.25) * width_px / BITS, (bit + 0.75) * width_px / BITS
        block = data_HWC[height_px // 12 : height_px // 4, int(left) : max(int(right), int(left) + 1)]
        found |= (block.mean() > 128) << bit
    return int(found)


def write_video(
    path: Path,
    *,
    numbers: Sequence[int] = range(150),
    fps: int = 30,
    ticks: int = 512,
    codec: str = "libx264",
    gop: int = 30,
    b_frames: int = 2,
    size: tuple[int, int] = (160, 96),
    pix_fmt: str = "yuv420p",
    rotation_deg: int = 0,
    start_s: float = 0.0,
    audio_s: float = 0.0,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
) -> Path:
    """Write a video in which picture k is shown from start_s + k / fps on; leave numbers out for a variable rate.

    A frame lasts `ticks` ticks of the encoder's clock.
    """
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream: Any = container.add_stream(codec, rate=fps, options=options or {})
        stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
        stream.codec_context.time_base = Fraction(1, fps * ticks)
        stream.gop_size = gop
        if b_frames:
            stream.codec_context.max_b_frames = b_frames
        if rotation_deg:
            stream.set_display_rotation(rotation_deg)
        sound: Any = container.add_stream("aac", rate=16000) if audio_s else None
        for k in numbers:
            frame = av.VideoFrame.from_ndarray(picture(k, *size), format="rgb24").reformat(format=pix_fmt)
            frame.pts, frame.time_base = round((k / fps + start_s) * fps * ticks), Fraction(1, fps * ticks)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if sound is not None:
            _add_sound(container, sound, audio_s)
    return path


def _add_sound(container: Any, sound: Any, audio_s: float) -> None:
    for index in range(int(audio_s * 16000) // 1024):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 16000, index * 1024, Fraction(1, 16000)
        container.mux(sound.encode(frame))
    container.mux(sound.encode())


X264 = {"preset": "ultrafast", "crf": "20", "sc_threshold": "0"}
X265 = {"preset": "ultrafast"}
FAST = {"deadline": "realtime", "cpu-used": "8"}
HEVC = "log-level=error:keyint=30:min-keyint=30:bframes=3:open-gop="
SOME = [k for k in range(150) if random.Random(k).random() < 0.4 or k == 0]
"""About 40 % of the numbers: a variable frame rate."""

INTACT: dict[str, tuple[str, dict[str, Any]]] = {
    "h264.mp4": ("a.mp4", {"options": X264}),
    "long groups.mp4": ("a.mp4", {"gop": 250, "b_frames": 3, "options": X264}),
    "no B pictures.mp4": ("a.mp4", {"b_frames": 0, "gop": 15, "options": X264}),
    "open groups.mp4": (
        "a.mp4",
        {"options": {"x264-params": "keyint=24:min-keyint=24:scenecut=0:bframes=3:open-gop=1"}},
    ),
    "recovery points.mp4": (
        "a.mp4",
        {"b_frames": 0, "options": {"x264-params": "keyint=40:scenecut=0:bframes=0:intra-refresh=1"}},
    ),
    "open groups.ts": (
        "a.ts",
        {"options": {"x264-params": "keyint=24:min-keyint=24:scenecut=0:bframes=3:open-gop=1"}},
    ),
    "fragments.mp4": (
        "a.mp4",
        {"options": X264, "container_options": {"movflags": "frag_keyframe+empty_moov+default_base_moof"}},
    ),
    "h264.mkv": ("a.mkv", {"options": X264}),
    "h264.ts": ("a.ts", {"options": X264}),
    "h264.flv": ("a.flv", {"options": X264}),
    "starts at 100 s.mkv": ("a.mkv", {"start_s": 100.0, "options": X264}),
    "variable rate.mp4": ("a.mp4", {"numbers": SOME, "options": X264}),
    "variable rate.mkv": ("a.mkv", {"numbers": SOME, "options": X264}),
    "variable rate.ts": ("a.ts", {"numbers": SOME, "options": X264}),
    "odd size.mp4": ("a.mp4", {"size": (641, 361), "pix_fmt": "yuv444p", "numbers": range(60), "options": X264}),
    "sound is longer.mp4": ("a.mp4", {"audio_s": 8.0, "options": X264}),
    "ünï côdé 日本.mp4": ("ünï côdé 日本.mp4", {"options": X264}),
    "hevc open groups.mp4": ("a.mp4", {"codec": "libx265", "options": X265 | {"x265-params": HEVC + "1"}}),
    "hevc.mkv": ("a.mkv", {"codec": "libx265", "options": X265 | {"x265-params": HEVC + "0"}}),
    "vp9.webm": ("a.webm", {"codec": "libvpx-vp9", "b_frames": 0, "options": FAST}),
    "mpeg4.avi": ("a.avi", {"codec": "mpeg4", "ticks": 1, "b_frames": 0, "options": {"qmin": "2", "qmax": "3"}}),
    "mpeg2.ts": ("a.ts", {"codec": "mpeg2video", "ticks": 1, "gop": 15, "options": {"qmin": "2", "qmax": "3"}}),
}  # fmt: skip
"""Name of a kind, file name, and what `write_video` needs for it."""


def write_intact(folder: Path, kind: str) -> tuple[Path, list[int]]:
    """Write one kind of INTACT; return the file and the numbers it shows."""
    name, settings = INTACT[kind]
    return write_video(folder / name, **settings), list(settings.get("numbers", range(150)))


def write_audio(path: Path, *, with_cover: bool = False) -> Path:
    """Write an audio file, with or without a cover picture (m4a keeps it as a stream of one picture)."""
    with av.open(str(path), "w", format="mp4") as container:
        sound: Any = container.add_stream("aac", rate=16000)
        cover: Any = container.add_stream("mjpeg", rate=1) if with_cover else None
        if cover is not None:
            cover.width, cover.height, cover.pix_fmt = 160, 96, "yuvj420p"
            cover.disposition = Disposition.attached_pic
            image = av.VideoFrame.from_ndarray(picture(5), format="rgb24").reformat(format="yuvj420p")
            container.mux(cover.encode(image))
        _add_sound(container, sound, 2.0)
    return path


def cut(source: Path, target: Path, share: float) -> Path:
    """Write the first part of a file."""
    data = source.read_bytes()
    target.write_bytes(data[: int(len(data) * share)])
    return target


def damage(source: Path, target: Path, at: float, share: float) -> Path:
    """Write a file with random bytes in a part of it."""
    data = bytearray(source.read_bytes())
    first, length = int(len(data) * at), int(len(data) * share)
    data[first : first + length] = random.Random(1).randbytes(length)
    target.write_bytes(data)
    return target


def drop_packets(source: Path, target: Path, dropped: range) -> Path:
    """Copy a video's packets into another file, leaving some out by their place, as a hole in a recording does."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for index, packet in enumerate(old.demux(old.streams.video[0])):
            if packet.size and index not in dropped:
                packet.stream = stream
                new.mux(packet)
    return target
