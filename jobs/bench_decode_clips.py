"""Clips to measure decoding on: real footage in the sizes, codecs and group lengths that archives hold."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import av.error

from jobs.bench_report import list_files
from jobs.corpus_recipes import run_ffmpeg
from pipeline.errors import ConfigError

FPS = 30
SIZES_PX = {360: 640, 1080: 1920}
"""Height: width."""
CODERS = {
    "h264": ("-c:v", "libx264", "-preset", "medium"),
    # slower presets change the bytes, hardly the work of decoding them
    "hevc": ("-c:v", "libx265", "-preset", "veryfast", "-tag:v", "hvc1", "-x265-params"),
}


@dataclass(frozen=True, slots=True)
class Clip:
    """One way of coding the footage."""

    height_px: int
    gop: int
    """Pictures from one key picture to the next, at 30 a second."""
    codec: str

    @property
    def name(self) -> str:
        """Return what it is called in tables and as a file."""
        return f"{self.height_px}p_{self.codec}_gop{self.gop}"


CLIPS = tuple(
    Clip(height_px, gop, codec)
    for codec in ("h264", "hevc")
    for height_px in (1080, 360)
    for gop in (250, 30)
)


def make_clips(media: Path, folder: Path, clips: Sequence[Clip], seconds: int) -> dict[Clip, Path]:
    """Encode the clips that are missing and return where each lies.

    Every video of `media` gives an equal share of the time, looped and scaled, so that they differ in nothing but
    their coding: 3 B-pictures; 4 Mbit/s at 1080p, crf 23 at 360p.

    Raises:
        ConfigError: `media` is no folder or holds no video, or the ffmpeg program fails.
    """
    sources = [path for path in list_files("--media", media) if _is_video(path)]
    if not sources:
        msg = f"{media} holds no video to make clips of; give a folder with some real footage (--media)"
        raise ConfigError(msg)
    folder.mkdir(parents=True, exist_ok=True)
    paths: dict[Clip, Path] = {}
    for clip in clips:
        paths[clip] = folder / f"{clip.name}_{seconds}s.mp4"
        if not paths[clip].exists():
            unfinished = paths[clip].with_suffix(".making.mp4")
            run_ffmpeg(unfinished, *_arguments(sources, clip, seconds))
            unfinished.replace(paths[clip])
    return paths


def _arguments(sources: Sequence[Path], clip: Clip, seconds: int) -> list[str]:
    """Return ffmpeg's arguments for one clip."""
    inputs: list[str] = []
    for path in sources:
        inputs += ["-stream_loop", "-1", "-t", f"{seconds / len(sources)}", "-i", str(path)]
    shape = f"scale={SIZES_PX[clip.height_px]}:{clip.height_px},setsar=1,fps={FPS},format=yuv420p"
    chains = [f"[{i}:v:0]{shape}[v{i}]" for i in range(len(sources))]
    joined = "".join(f"[v{i}]" for i in range(len(sources))) + f"concat=n={len(sources)}[v]"
    groups = f"keyint={clip.gop}:min-keyint={clip.gop}:scenecut=0:bframes=3"
    coder = [*CODERS[clip.codec]]
    if clip.codec == "hevc":
        coder.append(f"log-level=error:{groups}")
    else:
        coder += ["-x264-params", groups]
    rate = ["-b:v", "4M"] if clip.height_px > 720 else ["-crf", "23"]
    wanted = ["-frames:v", str(seconds * FPS), "-map", "[v]", "-an"]
    return [*inputs, "-filter_complex", ";".join([*chains, joined]), *wanted, *coder, *rate]


def _is_video(path: Path) -> bool:
    """Return whether a file holds pictures."""
    try:
        with av.open(str(path)) as container:
            return bool(container.streams.video)
    except (av.error.FFmpegError, OSError):
        return False
