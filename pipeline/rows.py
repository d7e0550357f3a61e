"""The columns at every arrow of the flow, as Arrow schemas of plain types any engine can read.

A row between two stages is a Python dict; a numpy array inside it travels as the struct ARRAY, so that no
Ray tensor type and no pickle ever reaches a block or a file. Every schema ends in `error_type` and
`error_message`: empty means good, and a failed row has the same columns as a good one.

Units are in the names: `_s` seconds (all times are presentation times counted from the video's start,
spans are half-open), `_px` pixels, `_bytes`, `_tokens`.
"""

from collections.abc import Iterable, Iterator
from typing import Any, cast

import numpy as np
import pyarrow as pa

Row = dict[str, Any]

ARRAY = pa.struct([("shape", pa.list_(pa.int32())), ("dtype", pa.string()), ("data", pa.large_binary())])
SPAN = pa.struct([("start_s", pa.float64()), ("end_s", pa.float64()), ("score", pa.float32())])
EVIDENCE = pa.struct([("pts_s", pa.float64()), ("score", pa.float32()), ("tokens", pa.int32())])
SAMPLE = pa.struct(
    [
        ("wanted_s", pa.float64()),
        ("pts_s", pa.float64()),
        ("off_s", pa.float32()),
        ("is_key", pa.bool_()),
        ("quality", pa.string()),
        ("reason", pa.string()),
        ("frame", pa.int32()),
    ]
)
PLAN = pa.struct(
    [
        ("query_id", pa.string()),
        ("route", pa.string()),
        ("route_confidence", pa.float32()),
        ("route_reason", pa.string()),
        ("reason", pa.string()),
        ("tokens", pa.list_(pa.int32())),
        ("candidates", pa.list_(pa.int32())),
        ("fallback", pa.list_(pa.int32())),
        ("error_message", pa.string()),
    ]
)

_ERROR = [("error_type", pa.string()), ("error_message", pa.string())]
_KEY = [("video_id", pa.string()), ("version", pa.string()), ("uri", pa.string())]
_SPAN_OF_WINDOW = [("start_s", pa.float64()), ("end_s", pa.float64())]
COST = (
    "vision_frames",
    "prefills",
    "prefill_tokens",
    "decode_steps",
    "decode_passes",
    "oom_halvings",
    "router_tokens",
)
"""What a language model computed anew for an answer: columns of ANSWERS, counters of a run."""

# --- written to disk ---------------------------------------------------------------------------------

VIDEOS = pa.schema(
    [
        ("run_id", pa.string()),
        *_KEY,
        ("size_bytes", pa.int64()),
        ("etag", pa.string()),
        ("status", pa.string()),
        ("note", pa.string()),
        ("container", pa.string()),
        ("codec", pa.string()),
        ("width_px", pa.int32()),
        ("height_px", pa.int32()),
        ("rotation_deg", pa.int32()),
        ("fps", pa.float64()),
        ("start_s", pa.float64()),
        ("duration_s", pa.float64()),
        ("num_packets", pa.int64()),
        ("key_times_s", pa.list_(pa.float64())),
        ("key_gap_s", pa.float64()),
        ("window_starts_s", pa.list_(pa.float64())),
        ("clock_restarts", pa.bool_()),
        ("num_windows", pa.int32()),
        ("probe_s", pa.float32()),
        *_ERROR,
    ]
)
"""One row per file found. `status` is ok, truncated, damaged, unreadable or no_video; width and height are as
displayed (after rotation); `start_s` is the file's own clock at our time 0; `duration_s` is what can really be
decoded; `note` says what a usable file lacks. `num_packets` of the video stream and `key_times_s` are 0 and empty
where only reading the whole file would tell. `key_gap_s` is the longest time between key pictures, 0 when they are not
known; `window_starts_s` are the starts of the file's windows: each ends where the next begins, the last one at
`duration_s`. `clock_restarts`: the file's clock starts again somewhere (joined recordings); times here go on, and the
file is only read from its beginning."""

FRAMES = pa.schema(
    [
        ("run_id", pa.string()),
        ("video_id", pa.string()),
        ("version", pa.string()),
        ("wanted_s", pa.float64()),
        ("pts_s", pa.float64()),
        ("off_s", pa.float32()),
        ("is_key", pa.bool_()),
        ("quality", pa.string()),
        ("reason", pa.string()),
        ("num_times", pa.int32()),
        ("novelty", pa.float32()),
        ("slow", pa.bool_()),
        ("scorer", pa.string()),
        ("embedding", pa.list_(pa.float32())),
    ]
)
"""One row per different picture of a window, the index that later jobs reuse, and one per sampled time without one.

`num_times` sampled times got this picture, `wanted_s` is the first of them; over a window they add up to its
`frames_planned`, and by `quality` to its `frames_stale` and `frames_missing`: a picture that is right for some times
and stands in for others has a row for each quality. `quality` is ok, stale (an older picture stands in, or it is
doubtful) or missing; `reason` says why. `pts_s` is the picture's own presentation time, `off_s` how far it lies from
the picture shown at `wanted_s`; of a stale one, where that picture is not known, from `wanted_s` itself: negative is
earlier. `novelty` is the mean absolute luma change against the sampled frame before it, in [0, 1]; the first frame of
a window has 1. `slow` says whether it differs from the last such frame; all do where `plan.selector` does not ask. Of a
missing picture `pts_s`, `off_s`, `novelty`, `slow` and `embedding` are null."""

ANSWERS = pa.schema(
    [
        ("run_id", pa.string()),
        ("window_id", pa.string()),
        *_KEY,
        *_SPAN_OF_WINDOW,
        ("query_id", pa.string()),
        ("query", pa.string()),
        ("kind", pa.string()),
        ("answer", pa.string()),
        ("confidence", pa.float32()),
        ("spans", pa.list_(SPAN)),
        ("evidence", pa.list_(EVIDENCE)),
        ("route", pa.string()),
        ("route_confidence", pa.float32()),
        ("route_reason", pa.string()),
        ("plan_reason", pa.string()),
        ("judged", pa.list_(EVIDENCE)),
        ("frames_planned", pa.int32()),
        ("frames_seen", pa.int32()),
        ("frames_stale", pa.int32()),
        ("frames_missing", pa.int32()),
        ("indexed", pa.bool_()),
        ("read_bytes", pa.int64()),
        ("read_requests", pa.int32()),
        ("tokens_dense", pa.int64()),
        ("tokens_used", pa.int64()),
        *((name, pa.int32()) for name in COST),
        ("scorer", pa.string()),
        ("compressor", pa.string()),
        ("model", pa.string()),
        ("model_revision", pa.string()),
        ("decode_s", pa.float32()),
        ("score_s", pa.float32()),
        ("answer_s", pa.float32()),
        *_ERROR,
    ]
)
"""One row per (window, query).

`indexed` says that the window's frames lie in the file of frames/ that is called like this row's file: one part brought
both.

`judged` are the frames that an image router looked at before the plan was final, in time order: its probability that
the frame matters, and the visual tokens that the frame then got, 0 of one that was not shown.

The columns COST are what a language model newly computed for this answer: frames that went through its vision tower,
visual prompt heads prefilled, prompt tokens (visual ones and the question's) that went through it, steps of decoding,
batches that ran out of memory and were halved, tokens that went through its first layers for an image router. What an
earlier answer of the same call paid for is not counted again, so sums over answers are what was really computed; all
but `decode_steps`: those are the steps the answer took part in, and answers of one call share steps. `decode_passes`
counts each step once. All are 0 where no language model was asked.

`decode_s`, `score_s` and `answer_s` are seconds that a worker was busy. What is done once for all questions of a window
(decoding, evidence included, and scoring) is split evenly between them, so that sums over answers are what was really
spent. `frames_*` and `read_*` are the window's, the same in each of its answers."""

VERDICTS = pa.schema(
    [
        ("run_id", pa.string()),
        *_KEY,
        ("query_id", pa.string()),
        ("query", pa.string()),
        ("kind", pa.string()),
        ("answer", pa.string()),
        ("confidence", pa.float32()),
        ("spans", pa.list_(SPAN)),
        ("evidence", pa.list_(EVIDENCE)),
        ("num_windows", pa.int32()),
        ("num_failed_windows", pa.int32()),
        ("tokens_dense", pa.int64()),
        ("tokens_used", pa.int64()),
        *_ERROR,
    ]
)
"""One row per (video, query)."""

TABLES = {"videos": VIDEOS, "frames": FRAMES, "answers": ANSWERS, "verdicts": VERDICTS}

# --- between stages ----------------------------------------------------------------------------------

PROBED = pa.schema(
    [
        *list(VIDEOS)[: -len(_ERROR)],
        ("probe_cpu_s", pa.float32()), ("probe_bytes", pa.int64()), ("probe_requests", pa.int32()), *_ERROR,
    ]
)  # fmt: skip
"""A row of VIDEOS and what probing it took; bytes and requests of a bucket."""

FILE = pa.schema([*_KEY, ("size_bytes", pa.int64()), ("etag", pa.string()), *_ERROR])
"""One object or file found by listing."""

_WINDOW = [
    ("window_id", pa.string()),
    *_KEY,
    ("size_bytes", pa.int64()),
    ("etag", pa.string()),
    *_SPAN_OF_WINDOW,
    ("key_gap_s", pa.float64()),
    ("clock_restarts", pa.bool_()),
    ("query_ids", pa.list_(pa.string())),
    ("write_frames", pa.bool_()),
    ("frames_uri", pa.string()),
]
WINDOW = pa.schema([*_WINDOW, *_ERROR])
"""One span of one video, no pixels. `key_gap_s` is the longest time between the video's key pictures, 0 when that is
not known; `query_ids` are the queries still to be answered here; `frames_uri` is the file of frames/ that
already holds this window's frames, empty where they are to be decoded; `write_frames` says whether they are to be
written down then."""

_SAMPLED = [
    ("frames_planned", pa.int32()),
    ("samples", pa.list_(SAMPLE)),
    ("pts_s", pa.list_(pa.float64())),
    ("novelty", pa.list_(pa.float32())),
    ("slow", pa.list_(pa.bool_())),
    ("read_bytes", pa.int64()),
    ("read_requests", pa.int32()),
    ("decode_s", pa.float32()),
    ("decode_cpu_s", pa.float32()),
    ("recall_s", pa.float32()),
    ("recall_cpu_s", pa.float32()),
]
DECODED = pa.schema([*_WINDOW, *_SAMPLED, ("pixels", ARRAY), ("embedding", ARRAY), *_ERROR])
"""A window with its sampled frames: where they were decoded, `pixels`, uint8 [N, H, W, 3] at the scorer's size, and an
empty `frames_uri`; where they came back from frames/, `embedding`, float32 [N, E]. `samples` has one entry per sampled
time, `frame` of it points into `pts_s` or is -1; `pts_s` are the frames' times inside the window: a picture that came
up before the window counts from the window's start. `slow` says which frames differ from the last such one; all do
where no selector asks for it. What frames/ was read for counts as `recall_s`, of videos nothing was read then."""

_SCORED = [
    ("embedding", ARRAY),
    ("relevance", ARRAY),
    ("score_s", pa.float32()),
    ("score_cpu_s", pa.float32()),
]
SCORED = pa.schema([*_WINDOW, *_SAMPLED, *_SCORED, *_ERROR])
"""Pixels are gone; float32 embedding [N, E] and relevance [N, P], P texts as `queries.texts` orders them."""

_PLANNED = [("plans", pa.list_(PLAN))]
PLANNED = pa.schema([*_WINDOW, *_SAMPLED, *_SCORED, *_PLANNED, *_ERROR])
"""One plan per query of the window; `tokens` has one entry per sampled frame, `candidates` are the frames an image
router looks at before the plan is final, `fallback` those of the global plan that is final if it chooses none."""

EVIDENCE_FRAMES = pa.schema(
    [
        *_WINDOW, *_SAMPLED, *_SCORED, *_PLANNED,
        ("evidence_index", pa.list_(pa.int32())), ("evidence_pixels", ARRAY),
        ("evidence_s", pa.float32()), ("evidence_cpu_s", pa.float32()), *_ERROR,
    ]
)  # fmt: skip
"""Frames any plan spends tokens on, has for candidates or may fall back to, decoded again at the answerer's size;
`evidence_index` points into `pts_s`."""

ANSWERED = pa.schema(
    [
        *_WINDOW,
        *_SAMPLED,
        ("embedding", ARRAY),
        ("score_s", pa.float32()),
        ("score_cpu_s", pa.float32()),
        ("evidence_s", pa.float32()),
        ("evidence_cpu_s", pa.float32()),
        ("answer_cpu_s", pa.float32()),
        ("answers", pa.list_(pa.struct(list(ANSWERS)))),
        *_ERROR,
    ]
)
"""A window with one complete answer row per query."""

PART = pa.schema(
    [
        ("part_id", pa.string()),
        ("files", pa.list_(pa.struct([("table", pa.string()), ("staged", pa.string())]))),
        ("counters", pa.string()),
    ]
)
"""What a writer hands to the driver: where its staged files lie and what they hold. `counters` is JSON."""


def pack(array: np.ndarray) -> Row:
    """Return an array as a value of the struct ARRAY, without copying a contiguous one."""
    array = np.ascontiguousarray(array)
    return {
        "shape": list(array.shape),
        "dtype": array.dtype.str,
        "data": array.data.cast("B") if array.size else b"",
    }


def unpack(value: Row) -> np.ndarray:
    """Return the read-only array that `pack` stored."""
    return np.frombuffer(value["data"], dtype=np.dtype(value["dtype"])).reshape(value["shape"])


def default(kind: pa.DataType) -> Any:
    """Return the value a column has in a row that failed before it was filled."""
    if pa.types.is_string(kind):
        return ""
    if pa.types.is_list(kind):
        return []
    if pa.types.is_boolean(kind):
        return False
    if kind == ARRAY:
        return pack(np.zeros((0,), np.float32))
    return 0


def fill(row: Row, schema: pa.Schema) -> Row:
    """Return the row with exactly the columns of a schema: extra ones dropped, missing ones at their default."""
    return {field.name: row[field.name] if field.name in row else default(field.type) for field in schema}


def to_table(rows: Iterable[Row], schema: pa.Schema) -> pa.Table:
    """Return rows as a table of exactly this schema.

    Raises:
        pyarrow.ArrowInvalid: a value does not fit its column.
    """
    filled = [fill(row, schema) for row in rows]
    for name in (field.name for field in schema if field.type == ARRAY):
        for row in filled:
            # pyarrow 26 never lets go of a memoryview that it converts: a worker would grow with every window
            row[name] = {**row[name], "data": bytes(row[name]["data"])}
    return pa.Table.from_pylist(filled, schema=schema)


def to_rows(table: pa.Table) -> Iterator[Row]:
    """Yield a table's rows as dicts; ARRAY columns keep pointing into the table's memory."""
    columns: dict[str, Any] = {}
    for field in table.schema:
        column = table.column(field.name)
        columns[field.name] = _views(column) if field.type == ARRAY else column.to_pylist()
    for index in range(table.num_rows):
        yield {name: values[index] for name, values in columns.items()}


def _views(column: pa.ChunkedArray) -> list[Row]:
    """Return an ARRAY column as structs whose data is a view, not a copy."""
    found: list[Row] = []
    for value in column:
        struct = cast("pa.StructScalar", value)
        data = struct["data"].as_buffer()
        found.append(
            {
                "shape": struct["shape"].as_py(),
                "dtype": struct["dtype"].as_py(),
                "data": memoryview(data) if data else b"",
            }
        )
    return found
