"""`reelsift index`: read one long video into a folder of keys and values, and answer questions from it later.

    reelsift index --video talk.mp4 --kv talk.kv --answer.model MODEL
    reelsift index --kv talk.kv --answer.model MODEL --ask "Who speaks first?" --ask "What is on the last slide?"

Both can be one call. It works on one machine, without Ray, and prints one JSON line per question. docs/kv.md says
what it keeps and what it costs.
"""

import json
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from jobs.command_line import parse, require
from pipeline.config import AnswerConfig
from pipeline.errors import ConfigError, RowError

if TYPE_CHECKING:
    from actors.kv.settings import KvSettings
    from actors.models.video_llm import VideoLlm
    from pipeline.frames import Frames, FrameSize

PROG = "reelsift index"
FRAMES_AT_ONCE = 64
"""Pictures in memory at once."""


@dataclass(frozen=True)
class Arguments:
    """Read one video into a folder, and answer questions from it."""

    kv: Path
    """Folder of the keys and values; new where a video is read."""
    video: str = ""
    """File or s3:// object to read; none = answer from what the folder holds."""
    ask: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Question; may be given several times."""
    sample_fps: float = 0.5
    """Frames read per second."""
    gb_per_hour: float = 0.0
    """Most 10^9 bytes on disk for each hour of video; 0 = no limit."""
    window_tokens: int = 15_000
    """Tokens before a group of frames that it sees while the video is read."""
    group_frames: int = 16
    """Frames read together."""
    dtype: Literal["float16", "bfloat16"] = "float16"
    """Number format of the files; bfloat16 where keys or values are beyond float16."""
    retrieve_frames: int = 64
    """Frames shown to a question, in each layer."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where the model runs."""
    answer: AnswerConfig = field(default_factory=AnswerConfig)


def main(argv: list[str]) -> int:
    """Read a video if one is named, answer questions, and return the exit code.

    Raises:
        ConfigError: neither a video nor a question, no model, or numbers that do not fit the model.
        ModelError: the model cannot be loaded, or the folder is another one's.
        StoreError: the folder holds a store already, none, or none that can be read.
    """
    args = parse(Arguments, argv, PROG, __doc__)
    require("--sample-fps", args.sample_fps, above=0)
    require("--gb-per-hour", args.gb_per_hour, at_least=0)
    if not (args.video or args.ask):
        msg = "nothing to do: give --video FILE to read one, --ask QUESTION to be answered, or both"
        raise ConfigError(msg)
    if not args.answer.model:
        msg = "--answer.model is missing: keys and values are those of a video language model"
        raise ConfigError(msg)
    from actors.kv.settings import KvSettings

    settings = KvSettings(
        window_tokens=args.window_tokens, retrieve_frames=args.retrieve_frames, group_frames=args.group_frames
    )
    llm = _load(args)
    try:
        if args.video:
            _read(llm, args, settings)
        _answer(llm, args, settings)
    except RowError as error:
        print(f"{PROG}: {error}", file=sys.stderr)
        return 1
    return 0


def _load(args: Arguments) -> "VideoLlm":
    from actors.models import video_llm
    from pipeline.config import CompressConfig

    llm = video_llm.make(args.answer, CompressConfig(compressor="none"), args.device)
    assert isinstance(llm, video_llm.VideoLlm)
    return llm


def _read(llm: "VideoLlm", args: Arguments, settings: "KvSettings") -> None:
    """Read the video, and say on stderr what became of it."""
    from actors.kv.indexing import index_video

    frames = _frames(args.video, llm.parts.frame_size, args.sample_fps)
    cap = int(args.gb_per_hour * 1e9)
    store = index_video(llm, frames, args.kv, settings, dtype=args.dtype, bytes_per_hour=cap)
    told = f"{len(store.extents)} of {store.manifest.num_read} frames, {store.num_bytes / 1e6:.1f} MB"
    print(f"{PROG}: {args.video}: {told} in {args.kv}", file=sys.stderr)


def _answer(llm: "VideoLlm", args: Arguments, settings: "KvSettings") -> None:
    """Print an answer per question."""
    from actors.kv.indexing import answer_from

    for question in args.ask:
        answer = answer_from(llm, args.kv, question, settings)
        print(json.dumps({"question": question, "answer": answer}, ensure_ascii=False))


def _frames(uri: str, size: "FrameSize", sample_fps: float) -> "Iterator[Frames]":
    """Yield the frames of a video, some at a time; a picture that is shown at several of the times comes once.

    Raises:
        ConfigError: the name stands for no single video.
        ProbeError: the video cannot be opened; DecodeError, likewise, later.
    """
    from pipeline.config import DecodeConfig, WindowConfig
    from pipeline.frames import Frames
    from pipeline.isolation import Reader
    from pipeline.listing import list_videos
    from pipeline.times import sample_times

    files = list(list_videos(uri))
    if len(files) != 1:
        msg = f"--video {uri}: found {len(files)} videos, expected one"
        raise ConfigError(msg)
    reader = Reader(DecodeConfig(), WindowConfig())
    video = {**files[0], **reader.probe(files[0])}
    times_s = sample_times(0.0, video["duration_s"], sample_fps)
    last_s = -math.inf
    for start in range(0, len(times_s), FRAMES_AT_ONCE):
        frames, _ = reader.look(video, times_s[start : start + FRAMES_AT_ONCE], size)
        # the picture that was the last one of a call may be the first one of the next
        first = sum(pts_s <= last_s for pts_s in frames.pts_s_N.tolist())
        if first < len(frames):
            last_s = float(frames.pts_s_N[-1])
            yield Frames(frames.data_NHWC[first:], frames.pts_s_N[first:])
