"""Which bytes of a file the wanted pictures need, told from its index before anything is read."""

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

from pipeline.media import Video


@runtime_checkable
class Planned(Protocol):
    """A file object that wants to know beforehand what will be read."""

    def plan(self, runs: Sequence[tuple[int, int]]) -> None: ...


def announce(video: Video, wanted: Sequence[int], *, keys_only: bool) -> None:
    """Tell the file under a video with an index which bytes the pictures at sorted wanted ticks need."""
    if isinstance(video.file, Planned) and video.has_index:
        video.file.plan(list(byte_runs(video, wanted, keys_only=keys_only)))


def byte_runs(video: Video, wanted: Sequence[int], *, keys_only: bool) -> Iterator[tuple[int, int]]:
    """Yield one range [start, stop) per group of packets that holds wanted pictures, up to the last of them.

    The index holds decoding times. A picture is shown at most `delay` after it is decoded, so a time that soon after
    a key packet may belong to the group before it; and every picture shown by a time is decoded by then, so the first
    packet decoded later ends what is needed.

    Args:
        video: with an index (`has_index`).
        wanted: sorted times in stream ticks.
        keys_only: only the key packets are wanted.
    """
    entries = video.stream.index_entries
    delay = video.start - entries[0].timestamp
    index = 0
    for time in wanted:
        key = entries.search_timestamp(time)
        if key > 0 and time < entries[key].timestamp + delay:
            before = entries.search_timestamp(entries[key].timestamp - 1)
            key = before if before >= 0 else key
        # times are sorted: what the one before has taken is not gone through again
        first = index = max(index, key, 0)
        last = first
        if not keys_only:
            while last < len(entries) - 1 and entries[last].timestamp <= time:
                last += 1
        index = last
        places = [
            (entry.pos, entry.pos + entry.size) for entry in (entries[i] for i in range(first, last + 1))
        ]
        yield min(start for start, _ in places), max(stop for _, stop in places)
