"""The last word of a run: what went in, what came out, what failed and why, what it cost."""

import json
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

from pipeline import config as settings
from pipeline import ledger
from pipeline.config import JobConfig
from pipeline.errors import JobError
from pipeline.queries import Query
from pipeline.windows import Keys, holds, key

REASONS = 5


def count(out: str, queries: Sequence[Query], found: Keys) -> dict[str, Any]:
    """Count the committed rows of this run's videos and queries, by streaming over the tables."""
    asked = {query.query_id for query in queries}
    reasons: Counter[str] = Counter()
    counts: Counter[str] = Counter(found=len(found), queries=len(asked))
    columns = ["video_id", "version", "error_type", "error_message", "num_windows"]
    for row in _of(out, "videos", columns, found):
        counts["videos"] += 1
        counts["windows"] += row["num_windows"]
        _note_failure(row, "videos", counts, reasons)
    columns = [
        "video_id",
        "version",
        "query_id",
        "error_type",
        "error_message",
        "tokens_dense",
        "tokens_used",
    ]
    for row in _of(out, "answers", columns, found):
        if row["query_id"] in asked:
            counts["answers"] += 1
            counts["tokens_dense"] += row["tokens_dense"]
            counts["tokens_used"] += row["tokens_used"]
            _note_failure(row, "answers", counts, reasons)
    for row in _of(out, "verdicts", ["video_id", "version", "query_id", "error_type"], found):
        if row["query_id"] in asked:
            counts["verdicts"] += 1
            counts["failed_verdicts"] += bool(row["error_type"])
    names = ("videos", "failed_videos", "windows", "answers", "failed_answers", "verdicts", "failed_verdicts")
    plain = {name: counts[name] for name in ("found", "queries", *names, "tokens_dense", "tokens_used")}
    return {**plain, "reasons": dict(reasons.most_common(REASONS))}


def _of(out: str, table: str, columns: list[str], found: Keys) -> Any:
    """Yield the rows of a table that belong to this run's listing."""
    for row in ledger.scan(out, table, columns):
        if holds(found, key(row["video_id"], row["version"])):
            yield row


def _note_failure(row: dict[str, Any], table: str, counts: "Counter[str]", reasons: "Counter[str]") -> None:
    if row["error_type"]:
        counts[f"failed_{table}"] += 1
        reasons[f"{table[:-1]}: {row['error_type']}: {row['error_message']}"] += 1


def check_conservation(counts: dict[str, Any]) -> None:
    """Check that every row that went in came out, good or failed.

    Raises:
        JobError: rows are missing or stand twice.
    """
    expected = {
        "videos": counts["found"],
        "answers": counts["windows"] * counts["queries"],
        "verdicts": counts["found"] * counts["queries"],
    }
    wrong = [
        f"{name}: expected {n}, found {counts[name]}" for name, n in expected.items() if counts[name] != n
    ]
    if wrong:
        msg = f"rows were lost or doubled ({'; '.join(wrong)}); the output cannot be trusted, please report this"
        raise JobError(msg)


def failed_fraction(counts: dict[str, Any]) -> float:
    """Return the share of videos and answers that failed."""
    rows = counts["videos"] + counts["answers"]
    return (counts["failed_videos"] + counts["failed_answers"]) / rows if rows else 0.0


def print_end(stats: dict[str, Any]) -> None:
    """Print the closing table on stderr and the JSON line on stdout."""
    spent = stats["this_run"]
    lines = [
        ("videos", f"{stats['videos']} ({stats['failed_videos']} failed)"),
        ("windows", str(stats["windows"])),
        ("answers", f"{stats['answers']} = {stats['windows']} windows x {stats['queries']} queries"
                    f" ({stats['failed_answers']} failed)"),
        ("verdicts", f"{stats['verdicts']} = {stats['found']} videos x {stats['queries']} queries"),
        ("tokens", _tokens(stats)),
    ]  # fmt: skip
    if spent:
        stages = ("probe_s", "decode_s", "score_s", "evidence_s", "answer_s")
        seconds = [f"{name[:-2]} {spent[name]:.1f}" for name in stages if spent.get(name)]
        lines.append(("seconds", f"{', '.join(seconds)} (busy, all workers); wall {stats['wall_s']:.1f}"))
    lines += [("failed", f"{n} x {reason}") for reason, n in stats["reasons"].items()]
    lines.append(("output", stats["out"]))
    print(file=sys.stderr)
    for name, text in lines:
        print(f"  {name:9} {text}", file=sys.stderr)
    print(json.dumps(stats), flush=True)


def _tokens(stats: dict[str, Any]) -> str:
    dense, used = stats["tokens_dense"], stats["tokens_used"]
    if not dense:
        return "none: answered from frame relevance, no language model"
    return f"{dense} dense -> {used} used ({100 * (1 - used / dense):.1f} % saved)"


def print_plan(videos: str, out: str, config: JobConfig, queries: Sequence[Query], plan: Any) -> int:
    """Print what a run would do, without starting anything; return exit code 0."""
    resolved = {
        "videos": videos,
        "out": out,
        "queries": [
            f"{query.query_id} ({query.kind}, {plan.routes[query.query_id].route})" for query in queries
        ],
        "scorer": plan.scorer_facts.name,
        "model": plan.answerer_facts.name or "none: answers from frame relevance",
        "fingerprint": settings.fingerprint(config),
        "settings": settings.dump(config),
    }
    print(json.dumps(resolved, indent=1), file=sys.stderr)
    print(json.dumps({"dry_run": True, "fingerprint": resolved["fingerprint"]}))
    return 0
