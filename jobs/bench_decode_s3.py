"""How much of an object is read to see one group of pictures, or one window: requests and bytes, cold and warm.

Cold is the first look on this machine; warm is a later one, when what opening read has been kept (kept.py). Every
HTTP request that the client sends is counted where it is sent, those of listing and retries included.
"""

import tempfile
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av

from jobs.corpus_recipes import run_ffmpeg
from pipeline import kept, store
from pipeline.config import DecodeConfig, WindowConfig
from pipeline.frames import FrameSize, Policy
from pipeline.isolation import Reader
from pipeline.listing import list_videos
from pipeline.rows import Row
from pipeline.windows import spans

SIZE = FrameSize(252, 448)
KINDS = {
    "mp4 faststart": (".faststart.mp4", ("-movflags", "+faststart")),
    "mp4 moov at end": (".moov_last.mp4", ()),
    "mp4 fragmented": (".fragmented.mp4", ("-movflags", "+frag_keyframe+empty_moov+default_base_moof")),
    "mkv": (".mkv", ()),
    "ts": (".ts", ()),
}
"""Containers the same coded pictures are put in: suffix, ffmpeg's arguments."""


@dataclass(frozen=True, slots=True)
class Read:
    """What one look at an object read."""

    container: str
    what: str
    """`one group`, all pictures of a group in the middle, or `one window`, the product's own."""
    state: str
    """cold or warm."""
    num_gets: int
    num_heads: int
    num_bytes: int
    object_bytes: int
    """What a whole-file download reads."""
    group_bytes: int
    """What the group's own packets are."""


def measure_s3(prefix: str, source: Path, tell: Callable[[str], None]) -> list[Read]:
    """Put a video into containers, upload them, and look at each; the objects are deleted again.

    Args:
        prefix: s3://bucket/prefix, which this user may write.
        source: a long video, mp4 by preference.
        tell: is told what has been measured.

    Raises:
        StoreError: the store is out of reach.
        ConfigError: the ffmpeg program fails.
    """
    found: list[Read] = []
    start_s, end_s, group_bytes = middle_group(source)
    fs, path = store.open_fs(prefix)
    with tempfile.TemporaryDirectory(prefix="reelsift-s3-bench-") as folder:
        for container, (suffix, arguments) in KINDS.items():
            local = Path(folder) / f"long{suffix}"
            run_ffmpeg(local, "-i", str(source), "-map", "0:v:0", "-c", "copy", *arguments)
            key = f"{path.rstrip('/')}/{local.name}"
            fs.put(str(local), key)
            try:
                found += _looks(f"{prefix.rstrip('/')}/{local.name}", container, start_s, end_s, group_bytes)
            finally:
                fs.rm(key)
            local.unlink()
            costs = (f"{r.what} {r.state} {r.num_gets} GET, {r.num_bytes / 1e6:.2f} MB" for r in found[-4:])
            tell(f"{container}: {'; '.join(costs)}")
    return found


def _looks(uri: str, container: str, start_s: float, end_s: float, group_bytes: int) -> list[Read]:
    """Look at a group and at a window, each cold and warm."""
    file = next(list_videos(uri))
    reader = Reader(DecodeConfig(), WindowConfig())
    times_s = [start_s + (end_s - start_s) * share for share in (0.01, 0.25, 0.5, 0.75, 0.99)]
    window = {**file, **_window_at(start_s)}
    found: list[Read] = []
    for what in ("one group", "one window"):
        forget(file)
        for state in ("cold", "warm"):
            with counted(uri) as counts:
                if what == "one group":
                    _, origin = reader.look(file, times_s, SIZE)
                else:
                    _, origin = reader.sample(window, SIZE, Policy())
            found.append(
                Read(container, what, state, counts["GetObject"], counts["HeadObject"], origin.num_bytes,
                     file["size_bytes"], group_bytes)
            )  # fmt: skip
    return found


def _window_at(time_s: float) -> Row:
    """Return the window of the product's own cutting that holds a time."""
    config = WindowConfig()
    start_s, end_s = next(
        span for span in spans(time_s + config.length_s, config) if span[0] <= time_s < span[1]
    )
    return {"start_s": start_s, "end_s": end_s}


def forget(file: Row) -> None:
    """Throw away what is kept of a video's header on this machine."""
    folder = kept.folder()
    for path in folder.glob(f"{file['video_id']}-{file['version']}*") if folder else ():
        path.unlink(missing_ok=True)


@contextmanager
def counted(uri: str) -> Generator["Counter[str]"]:
    """Count the HTTP requests sent to a store inside the block, by operation."""
    fs, _ = store.open_fs(uri)
    counts: Counter[str] = Counter()

    def count(event_name: str, **_: Any) -> None:
        counts[event_name.rpartition(".")[2]] += 1

    fs.connect()
    events = fs.s3.meta.events
    events.register("before-send.s3", count)
    try:
        yield counts
    finally:
        events.unregister("before-send.s3", count)


def middle_group(path: Path) -> tuple[float, float, int]:
    """Return when the group of pictures in a video's middle begins and ends, in seconds, and its bytes."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        packets = [
            (
                float((packet.pts - (stream.start_time or 0)) * packet.time_base),
                packet.size,
                packet.is_keyframe,
            )
            for packet in container.demux(stream)
            if packet.pts is not None
        ]
    keys = [index for index, (_, _, is_key) in enumerate(packets) if is_key]
    middle = max((place for place, index in enumerate(keys) if index <= len(packets) // 2), default=0)
    first = keys[middle]
    after = keys[middle + 1] if middle + 1 < len(keys) else len(packets)
    end_s = packets[after][0] if after < len(packets) else max(at_s for at_s, _, _ in packets)
    return packets[first][0], end_s, sum(size for _, size, _ in packets[first:after])
