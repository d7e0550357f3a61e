"""decord behind the same contract, for the files on which it can be trusted.

Measured on decord 0.6.0: silently wrong pictures from open groups of pictures and H.265, everything one group late
in transport streams, padding in files with edit lists, unbounded read-ahead, and a crash when one reader is shared.
So it gets closed-group H.264 in local mp4 and mkv files only, by number, in a child process with a time limit.
decode_pyav is right everywhere and not slower; this entry is there for comparison.
"""

import importlib.util
import json
import subprocess
import sys
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np

from pipeline.errors import DecodeError
from pipeline.frames import Frames, FrameSize
from pipeline.media import Video, fitted_size, ignore_other_streams, open_video, shown_size, turn_deg
from pipeline.pictures import pictures

TIMEOUT_S = 120.0
"""Time one call may take; decord is known to hang with get_batch on files cut in certain places."""
FORMATS = ("mov", "matroska")
CHILD = Path(__file__).with_name("decord_child.py")


def decode_decord(uri: str, times_s: Sequence[float], size: FrameSize) -> Frames:
    """Return the pictures shown at `times_s`, decoded with decord; reads every packet's time first.

    Times past the last picture get the last picture's frame only within one second of it, as in decode_pyav.

    Raises:
        DecodeError: the file is of a kind decord gets wrong, decord is not installed, failed, or took too long.
    """
    if importlib.util.find_spec("decord") is None:
        msg = f"{uri}: decoder 'decord' is not installed; pip install decord, or use decoder 'pyav'"
        raise DecodeError(msg)
    with open_video(uri, DecodeError) as video:
        start, tick_s = video.start, video.tick_s
        pts = _closed_group_times(uri, video)
        video.reopen()
        first = next(pictures(video, video.container.demux(video.stream), []), None)
        if first is None or turn_deg(first[0]):
            _refuse(uri, "pictures that are turned or cannot be decoded")
        height_px, width_px = fitted_size(size, shown_size(first[0], video.stream.sample_aspect_ratio))
    shown_s = [(time - start) * tick_s for time in pts]
    index = sorted({max(0, bisect_right(shown_s, t + 1e-6) - 1) for t in times_s if t <= shown_s[-1] + 1.0})
    if not index:
        msg = f"{uri}: none of {len(times_s)} times lies inside the video, which ends at {shown_s[-1]:.1f} s"
        raise DecodeError(msg)
    order = {"path": uri, "index": index, "height_px": height_px, "width_px": width_px}
    data = _run_child(uri, order)
    shape = (len(index), height_px, width_px, 3)
    if len(data) != np.prod(shape):
        msg = f"{uri}: decord delivered {len(data)} bytes for pictures of shape {shape}; use decoder 'pyav'"
        raise DecodeError(msg)
    return Frames(np.frombuffer(data, np.uint8).reshape(shape), np.asarray(shown_s)[index])


def _closed_group_times(uri: str, video: Video) -> list[int]:
    """Return the sorted presentation times of every picture of a file that decord can be trusted with."""
    name = video.container.format.name
    if "://" in uri or video.stream.codec_context.name != "h264" or not name.startswith(FORMATS):
        _refuse(uri, f"{video.stream.codec_context.name} in {name.split(',')[0]}, or an object in a store")
    ignore_other_streams(video)
    times: list[int] = []
    key = -(2**63)
    for packet in video.container.demux(video.stream):
        if not packet.size:
            continue
        if packet.pts is None or packet.is_discard or packet.pts < key:
            _refuse(uri, "an edit list, or open groups of pictures")
        if packet.is_keyframe:
            key = packet.pts
        times.append(packet.pts)
    return sorted(times)


def _run_child(uri: str, order: Mapping[str, object]) -> bytes:
    try:
        done = subprocess.run(
            [sys.executable, "-P", str(CHILD)],
            input=json.dumps(order).encode(),
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        msg = f"{uri}: decord took longer than {TIMEOUT_S:g} s and was stopped; use decoder 'pyav'"
        raise DecodeError(msg) from error
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        msg = f"{uri}: decord ended with code {done.returncode} ({' '.join(last)}); use decoder 'pyav'"
        raise DecodeError(msg)
    return done.stdout


def _refuse(uri: str, kind: str) -> NoReturn:
    msg = (
        f"{uri}: decoder 'decord' gives wrong pictures for {kind}; it takes upright H.264 with closed groups in local"
        " mp4 and mkv files only; use decoder 'pyav'"
    )
    raise DecodeError(msg)
