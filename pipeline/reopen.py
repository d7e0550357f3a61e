"""Failed rows are taken out of the tables, so that they are missing; what is missing is done by the run that follows.

A part's file is replaced by one of the same name without them, one file at a time. What follows from a row goes before
it: verdicts before answers, the frames of a window before its last good word that they are there (answered.py), videos
last. So a crash at any point leaves each key once or not at all, and nothing that says more than its sources: the same
command opens the rest again, and any command does what is open.
"""

from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import ledger, store
from pipeline.queries import Query
from pipeline.reasons import count_reason
from pipeline.rows import Row
from pipeline.windows import Keys, holds, key, sorted_keys

FAILED = pc.field("error_type") != ""
VIDEO = ("video_id", "version", "error_type", "error_message", "uri")
ANSWER = (*VIDEO, "window_id", "query_id", "indexed", "start_s", "end_s")


@dataclass(slots=True)
class Reopened:
    """Rows that are missing now, and why they had failed."""

    videos: int = 0
    answers: int = 0
    verdicts: int = 0
    reasons: Counter[str] = field(default_factory=Counter[str])
    """Of videos and answers; see reasons.py."""


def failed_videos(out: str) -> Keys:
    """Return the keys (video_id, version) of videos that could not be probed."""
    found = ledger.scan(out, "videos", ["video_id", "version"], FAILED)
    return sorted_keys(key(row["video_id"], row["version"]) for row in found)


def has_failed(out: str, queries: Sequence[Query], found: Keys) -> bool:
    """Return whether any answer to a query, or verdict on it, of a video that was found has failed."""
    asked = {query.query_id for query in queries}
    return any(_any_failed(out, table, asked, found) for table in ("answers", "verdicts"))


def reopen(out: str, queries: Sequence[Query], found: Keys, check: Callable[[], None]) -> Reopened:
    """Take out failed videos and answers, and the verdicts that rest on them.

    Args:
        out: output folder that this process holds.
        queries: whose answers are opened again.
        found: keys (video_id, version) of the videos that are opened again.
        check: raises when the folder is not held any more (lease.Lease.check).

    Raises:
        StoreError: the folder cannot be read or written; what is open by then stays open.
    """
    done = Reopened()
    asked = {query.query_id for query in queries}
    videos, answers, verdicts = array("Q"), array("Q"), array("Q")
    for row in ledger.scan(out, "videos", VIDEO, FAILED):
        if holds(found, key(row["video_id"], row["version"])):
            videos.append(key(row["video_id"], row["version"]))
            count_reason(done.reasons, "video", row)
    for row in ledger.scan(out, "answers", ANSWER, FAILED):
        if row["query_id"] in asked and holds(found, key(row["video_id"], row["version"])):
            answers.append(key(row["window_id"], row["query_id"]))
            verdicts.append(key(row["video_id"], row["version"], row["query_id"]))
            count_reason(done.reasons, "answer", row)
    bad_videos, bad_answers, touched = sorted_keys(videos), sorted_keys(answers), sorted_keys(verdicts)

    def is_touched(row: Row) -> bool:
        """Of a video that may be good by now every verdict goes, also one on a question that nobody asks today."""
        name = (row["video_id"], row["version"])
        failed = row["error_type"] and row["query_id"] in asked and holds(found, key(*name))
        return bool(failed) or holds(bad_videos, key(*name)) or holds(touched, key(*name, row["query_id"]))

    def is_bad(row: Row) -> bool:
        return bool(row["error_type"]) and holds(bad_answers, key(row["window_id"], row["query_id"]))

    if bad_videos.size or touched.size or _any_failed(out, "verdicts", asked, found):
        done.verdicts = _take_out(out, "verdicts", (*VIDEO, "query_id"), is_touched, check)
    if bad_answers.size:
        _take_out_frames(out, is_bad, check)
        done.answers = _take_out(out, "answers", ANSWER, is_bad, check)
    if bad_videos.size:
        done.videos = _take_out(out, "videos", VIDEO, lambda row: _is_in(bad_videos, row), check)
    return done


def _any_failed(out: str, table: str, asked: set[str], found: Keys) -> bool:
    rows = ledger.scan(out, table, ["video_id", "version", "query_id"], FAILED)
    return any(row["query_id"] in asked and _is_in(found, row) for row in rows)


def _is_in(videos: Keys, row: Row) -> bool:
    return holds(videos, key(row["video_id"], row["version"]))


def _take_out(
    out: str, table: str, columns: Sequence[str], goes: Callable[[Row], bool], check: Callable[[], None]
) -> int:
    """Take rows out of a table; return how many."""
    num_gone: Counter[str] = Counter()
    for name, batch in ledger.scan_files(out, table, columns):
        num_gone[name] += sum(map(goes, batch.to_pylist()))
    for name in +num_gone:
        content = _read(store.join(out, table, name))
        keep = [not goes(row) for row in content.select(list(columns)).to_pylist()]
        _replace(store.join(out, table, name), content.filter(pa.array(keep)), check)
    return num_gone.total()


def _take_out_frames(out: str, is_bad: Callable[[Row], bool], check: Callable[[], None]) -> None:
    """Take out the frames of windows of which no answer is left that says where they are."""
    indexed = {uri.rpartition("/")[2] for uri in ledger.part_files(out, "frames")}
    bad_in = {name for name, batch in ledger.scan_files(out, "answers", ANSWER, FAILED)
              if name in indexed and any(map(is_bad, batch.to_pylist()))}  # fmt: skip
    for name in sorted(bad_in):
        spans: dict[str, tuple[str, str, float, float]] = {}
        stays: set[str] = set()
        for row in _read(store.join(out, "answers", name), ANSWER).to_pylist():
            if row["indexed"] and is_bad(row):
                spans[row["window_id"]] = (row["video_id"], row["version"], row["start_s"], row["end_s"])
            elif row["indexed"]:
                stays.add(row["window_id"])
        gone = [span for window_id, span in spans.items() if window_id not in stays]
        uri = store.join(out, "frames", name)
        content = _read(uri)
        keep = ~_inside(content, gone)
        if not keep.all():
            _replace(uri, content.filter(pa.array(keep)), check)


def _inside(frames: pa.Table, spans: Sequence[tuple[str, str, float, float]]) -> np.ndarray:
    """Return which frames were sampled in one of the spans (video_id, version, start_s, end_s)."""
    of_video: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for video_id, version, start_s, end_s in spans:
        of_video[video_id, version].append((start_s, end_s))
    rows = frames.select(["video_id", "version", "wanted_s"]).to_pylist()
    found = (
        any(
            start_s <= row["wanted_s"] < end_s for start_s, end_s in of_video[row["video_id"], row["version"]]
        )
        for row in rows
    )
    return np.fromiter(found, bool, len(rows))


def _read(uri: str, columns: Sequence[str] | None = None) -> pa.Table:
    fs, path = store.open_fs(uri)
    with store.explained("read", uri), fs.open(path, "rb") as file:
        return pq.ParquetFile(file).read(columns=list(columns) if columns else None)


def _replace(uri: str, content: pa.Table, check: Callable[[], None]) -> None:
    check()
    if content.num_rows:
        store.write_table(uri, content)
    else:
        store.delete(uri)
