"""From the answers of a video's windows to one verdict per query; only answers are brought together, never pixels.

Work is cut by ranges of video_id (a hash, so ranges are even), one range at a time in memory.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import ledger, rows, sink
from pipeline.ledger import Run
from pipeline.queries import Query
from pipeline.reduce import ReduceFn
from pipeline.rows import Row
from pipeline.windows import Keys, holds, key

ID_SPACE = 16**16


def shards(count: int) -> list[Row]:
    """Return `count` ranges [low, high) of video_id that tile all ids; the last one is open."""
    edges = [f"{ID_SPACE * index // count:016x}" for index in range(count)]
    return [{"low": low, "high": high} for low, high in zip(edges, [*edges[1:], "g"], strict=True)]


def judge(
    out: str, shard: Row, queries: Sequence[Query], aggregate: ReduceFn, *, found: Keys, judged: Keys
) -> Iterator[Row]:
    """Yield rows.VERDICTS rows for every (video, query) of a shard that has none yet.

    A video that could not be opened gets a failed verdict per query, so that nobody takes silence for a "no".

    Args:
        out: output folder; reads committed videos/ and answers/.
        shard: range of video ids.
        queries: what was asked.
        aggregate: entry of AGGREGATORS.
        found: keys (video_id, version) of this run's listing.
        judged: keys (video_id, version, query_id) that have a verdict.
    """
    inside = (pc.field("video_id") >= shard["low"]) & (pc.field("video_id") < shard["high"])
    answers: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for row in ledger.scan(out, "answers", rows.ANSWERS.names, inside):
        answers[row["video_id"], row["version"], row["query_id"]].append(row)
    columns = ["video_id", "version", "uri", "error_type", "error_message"]
    for video in ledger.scan(out, "videos", columns, inside):
        name = (video["video_id"], video["version"])
        if not holds(found, key(*name)):
            continue
        for query in queries:
            if holds(judged, key(*name, query.query_id)):
                continue
            head = {"query_id": query.query_id, "query": query.text, "kind": query.kind}
            if video["error_type"]:
                yield {**video, **head}
            else:
                yield {**video, **head, **aggregate(answers[*name, query.query_id])}


def judge_shards(
    run: Run, queries: Sequence[Query], aggregate: ReduceFn, found: Keys, judged: Keys, table: pa.Table
) -> pa.Table:
    """Judge and stage each shard of a table; return the parts (rows.PART)."""
    parts: list[Row] = []
    for shard in table.to_pylist():
        judgements = list(judge(run.out, shard, queries, aggregate, found=found, judged=judged))
        if judgements:
            parts.append(sink.stage_verdicts(run.staging, run.run_id, judgements))
    return rows.to_table(parts, rows.PART)
