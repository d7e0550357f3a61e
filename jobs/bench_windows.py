"""What the measurements of answerers ask: windows of real or drawn pictures, and questions in a fixed order.

Shape letters: N frames.
"""

from collections.abc import Iterator, Sequence
from itertools import chain, islice, zip_longest
from pathlib import Path

import numpy as np

from actors.models import Ask, Request, WindowView
from pipeline.budget import Plan
from pipeline.errors import ConfigError
from pipeline.frames import Frames, FrameSize
from pipeline.queries import Kind, Query

THINGS = (
    "person", "car", "bus", "truck", "bicycle", "dog", "cat", "bird", "horse", "tree", "house", "door", "window",
    "table", "chair", "bag", "phone", "book", "cup", "ball", "hat", "coat", "road", "sign", "light", "fire", "boat",
    "train", "plane", "bridge", "wall", "flag",
)  # fmt: skip
COLOURS = ("red", "green", "blue", "white", "black")
TEXTS: dict[Kind, tuple[str, str]] = {
    "find": ("the {}", "somebody beside the {}"),
    "flag": ("Is there a {} in the picture?", "Is somebody beside the {}?"),
    "choose": ("What is the colour of the {}?", "Which colour lies behind the {}?"),
    "ask": ("What does the {} do in the video?", "Where is the {}, and what is beside it?"),
}
MIX: tuple[Kind, ...] = ("flag", "choose", "ask")
MOST_QUESTIONS = 2 * len(THINGS)
SIDE_BLOCKS, NEW_BLOCKS = 8, 6


def draw_queries(num: int, kinds: Sequence[Kind] = MIX) -> list[Query]:
    """Return questions, their kinds in turn; no two texts are the same.

    Raises:
        ConfigError: more than there are texts.
    """
    if num > MOST_QUESTIONS:
        msg = f"{num} questions: expected at most {MOST_QUESTIONS}"
        raise ConfigError(msg)
    found: list[Query] = []
    for index in range(num):
        kind = kinds[index % len(kinds)]
        text = TEXTS[kind][index // len(THINGS)].format(THINGS[index % len(THINGS)])
        found.append(Query(f"q{index}", text, kind, COLOURS if kind == "choose" else ()))
    return found


def request(window: WindowView, queries: Sequence[Query], tokens_per_frame: int) -> Request:
    """Return questions put to a window, each shown every frame with so many tokens."""
    num = len(window.pts_s_N)
    plan = Plan("global", (tokens_per_frame,) * num, "every frame")
    relevance_N = np.linspace(0.2, 0.8, num, dtype=np.float32)
    nothing = np.zeros((num, 0), np.float32)
    return Request(window, [Ask(query, plan, relevance_N, nothing, 0.5) for query in queries])


def make_windows(media: Path | None, num_windows: int, num_frames: int, size: FrameSize) -> list[WindowView]:
    """Return windows of as many frames: of a folder's videos in turn, or drawn from a seeded generator.

    Raises:
        ConfigError: there is no video, or they give fewer windows.
    """
    if media is None:
        return [_view(draw_frames(seed, num_frames, size)) for seed in range(num_windows)]
    from pipeline.listing import list_videos

    videos = list(list_videos(str(media)))
    per_video = -(-num_windows // len(videos))
    parts = [_read(video, per_video, num_frames, size) for video in videos]
    in_turn = (frames for frames in chain.from_iterable(zip_longest(*parts)) if frames is not None)
    found = [_view(frames) for frames in islice(in_turn, num_windows)]
    if len(found) < num_windows:
        msg = (
            f"--media {media}: {len(videos)} videos give {len(found)} windows of {num_frames} frames, expected"
            f" {num_windows}; add longer ones"
        )
        raise ConfigError(msg)
    return found


def draw_frames(seed: int, num_frames: int, size: FrameSize) -> Frames:
    """Return pictures of coloured blocks, of which some change from one to the next."""
    generator = np.random.default_rng(seed)
    blocks_HWC = generator.integers(0, 256, (SIDE_BLOCKS, SIDE_BLOCKS, 3), dtype=np.uint8)
    rows = np.arange(size.height_px) * SIDE_BLOCKS // size.height_px
    columns = np.arange(size.width_px) * SIDE_BLOCKS // size.width_px
    data_NHWC = np.empty((num_frames, size.height_px, size.width_px, 3), np.uint8)
    for frame in range(num_frames):
        at = generator.integers(0, SIDE_BLOCKS, (2, NEW_BLOCKS))
        blocks_HWC[at[0], at[1]] = generator.integers(0, 256, (NEW_BLOCKS, 3), dtype=np.uint8)
        data_NHWC[frame] = blocks_HWC[rows[:, None], columns]
    return Frames(data_NHWC, np.arange(num_frames, dtype=np.float64))


def _view(frames: Frames) -> WindowView:
    """Return a window of which every frame is evidence."""
    end_s = float(frames.pts_s_N[-1]) + 1.0
    return WindowView(float(frames.pts_s_N[0]), end_s, frames.pts_s_N, tuple(range(len(frames))), frames)


def _read(video: dict[str, object], num_windows: int, num_frames: int, size: FrameSize) -> list[Frames]:
    """Return a video's pictures at equal distances, cut into windows; fewer where it has fewer pictures."""
    from pipeline.config import DecodeConfig, WindowConfig
    from pipeline.isolation import Reader

    reader = Reader(DecodeConfig(), WindowConfig())
    num = num_windows * num_frames
    duration_s = float(reader.probe(video)["duration_s"])
    frames, _ = reader.look(video, [duration_s * (index + 0.5) / num for index in range(num)], size)
    return list(_cut(frames, num_frames))


def _cut(frames: Frames, num_frames: int) -> Iterator[Frames]:
    """Cut pictures into windows; what is left over is dropped."""
    for start in range(0, len(frames) - num_frames + 1, num_frames):
        part = slice(start, start + num_frames)
        yield Frames(frames.data_NHWC[part], frames.pts_s_N[part])
