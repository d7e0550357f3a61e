"""What answers/ and frames/ hold already, and with it which windows are left to do and where their frames lie.

A window is answered and its frames are indexed in one part, whose files in answers/ and frames/ have the same name.
So the name of the file that holds a window's answers is the name of the file that holds its frames, and the driver
finds them without a look into frames/. Who merges parts keeps this: he merges answers and frames of the same parts, and
names both results alike.

Later answers of the window lie in parts without its frames, which may have frames of other windows: so each answer says
whether it came with its window's frames (`indexed`). A window without such an answer was never indexed; one whose file
in frames/ is gone is not indexed any more: both are decoded and written down.
"""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from pipeline import ledger
from pipeline.ledger import Run
from pipeline.queries import Query
from pipeline.rows import Row
from pipeline.windows import Keys, holds, key, sorted_keys, window_id

VIDEO_COLUMNS = (
    "video_id",
    "version",
    "uri",
    "size_bytes",
    "etag",
    "duration_s",
    "key_gap_s",
    "window_starts_s",
    "clock_restarts",
    "error_type",
)


@dataclass(frozen=True, slots=True)
class Answered:
    """8 bytes per answer, 12 per window, and the names of the files in frames/."""

    answers: Keys
    """Keys (window_id, query_id) of committed answers."""
    windows: Keys
    """Keys (window_id) of windows whose frames are indexed."""
    file_of: npt.NDArray[np.uint32]
    """Which of the files holds them, per window."""
    files: Sequence[str]
    """URIs of the files in frames/."""

    def holds(self, window_id: str, query_id: str) -> bool:
        """Return whether a question was answered on a window."""
        return holds(self.answers, key(window_id, query_id))

    def frames_uri(self, window_id: str) -> str:
        """Return the file of frames/ that holds a window's frames, empty if none does."""
        value = np.uint64(key(window_id))
        index = int(np.searchsorted(self.windows, value))
        found = index < len(self.windows) and self.windows[index] == value
        return self.files[int(self.file_of[index])] if found else ""


def read_answered(out: str) -> Answered:
    """Return what an output folder holds, streaming over its answers."""
    files = ledger.part_files(out, "frames")
    number = {uri.rpartition("/")[2]: index for index, uri in enumerate(files)}
    answers, windows, file_of = array("Q"), array("Q"), array("I")
    for name, batch in ledger.scan_files(out, "answers", ["window_id", "query_id", "indexed"]):
        found = batch.to_pylist()
        answers.extend(key(row["window_id"], row["query_id"]) for row in found)
        if name in number:
            for window_id in {row["window_id"] for row in found if row["indexed"]}:
                windows.append(key(window_id))
                file_of.append(number[name])
    indexed, first = np.unique(np.frombuffer(windows, np.uint64), return_index=True)
    return Answered(sorted_keys(answers), indexed, np.frombuffer(file_of, np.uint32)[first], files)


def open_windows(run: Run, queries: Sequence[Query], found: Keys) -> Iterator[Row]:
    """Yield the windows of the found videos that lack an answer (rows.WINDOW), without a look at `key_times_s`."""
    videos = ledger.scan(run.out, "videos", VIDEO_COLUMNS)
    return plan_windows(videos, queries, found=found, answered=read_answered(run.out))


def plan_windows(
    videos: Iterable[Row],
    queries: Sequence[Query],
    *,
    found: Keys,
    answered: Answered,
) -> Iterator[Row]:
    """Yield a rows.WINDOW row for every window that still has a query without an answer.

    Args:
        videos: rows of rows.VIDEOS; unusable ones and versions not found by this run are passed over.
        queries: what is asked.
        found: keys (video_id, version) of this run's listing.
        answered: what was answered before, and where frames lie.
    """
    for video in videos:
        if video["error_type"] or not holds(found, key(video["video_id"], video["version"])):
            continue
        starts_s = video["window_starts_s"]
        for start_s, end_s in pairwise([*starts_s, video["duration_s"]]):
            name = window_id(video["video_id"], video["version"], start_s, end_s)
            open_ids = [q.query_id for q in queries if not answered.holds(name, q.query_id)]
            if open_ids:
                frames_uri = answered.frames_uri(name)
                yield {
                    "window_id": name,
                    "video_id": video["video_id"],
                    "version": video["version"],
                    "uri": video["uri"],
                    "size_bytes": video["size_bytes"],
                    "etag": video["etag"],
                    "start_s": start_s,
                    "end_s": end_s,
                    "key_gap_s": video["key_gap_s"],
                    "clock_restarts": video["clock_restarts"],
                    "query_ids": open_ids,
                    "write_frames": not frames_uri,
                    "frames_uri": frames_uri,
                }
