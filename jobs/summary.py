"""The last word of a run: what went in, what came out, what failed and why, what it cost."""

import json
import shlex
import sys
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from jobs import costs, estimate_bill
from jobs.model_work import model_work
from jobs.placement import scores_in_tasks
from jobs.printable import printable
from pipeline import config as settings
from pipeline import ledger
from pipeline.config import JobConfig, PoolConfig
from pipeline.errors import JobError
from pipeline.queries import Query
from pipeline.reasons import count_reason
from pipeline.reopen import Reopened
from pipeline.windows import Keys, holds, key, sorted_keys

REASONS = 5
COUNTED = (
    *(
        "found",
        "queries",
        "videos",
        "failed_videos",
        "windows",
        "answers",
        "failed_answers",
        "verdicts",
        "cut_short",
    ),
    *(
        "failed_verdicts",
        "tokens_dense",
        "tokens_used",
        "distinct_videos",
        "distinct_answers",
        "distinct_verdicts",
    ),
)


def count(out: str, queries: Sequence[Query], found: Keys) -> dict[str, Any]:
    """Count the committed rows of this run's videos and queries, by streaming over the tables."""
    asked = {query.query_id for query in queries}
    reasons: Counter[str] = Counter()
    examples: dict[str, str] = {}
    counts: Counter[str] = Counter(found=len(found), queries=len(asked))
    tables = {
        "videos": ("num_windows", "uri", "error_message", "status"),
        "answers": ("query_id", "window_id", "tokens_dense", "tokens_used", "uri", "error_message"),
        "verdicts": ("query_id",),
    }
    for table, columns in tables.items():
        names = array("Q")
        for row in ledger.scan(out, table, ["video_id", "version", "error_type", *columns]):
            if not holds(found, key(row["video_id"], row["version"])) or row.get("query_id", "") not in {
                "",
                *asked,
            }:
                continue
            names.append(
                key(row["video_id"], row["version"], row.get("window_id", ""), row.get("query_id", ""))
            )
            counts["windows"] += row.get("num_windows", 0)
            counts["tokens_dense"] += row.get("tokens_dense", 0)
            counts["tokens_used"] += row.get("tokens_used", 0)
            if row["error_type"]:
                counts[f"failed_{table}"] += 1
                if table != "verdicts":
                    reason = count_reason(reasons, table[:-1], row)
                    examples.setdefault(reason, reason.replace("<file>", row["uri"]))
            elif row.get("status", "ok") != "ok":
                counts["cut_short"] += 1
        counts[table] = len(names)
        counts[f"distinct_{table}"] = len(sorted_keys(names))
    return {
        **{name: counts[name] for name in COUNTED},
        "reasons": {examples[reason]: n for reason, n in reasons.most_common(REASONS)},
    }


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
        f"{name}: expected {n}, found {counts[name]}, {counts[f'distinct_{name}']} of them distinct"
        for name, n in expected.items()
        if not n == counts[name] == counts[f"distinct_{name}"]
    ]
    if wrong:
        msg = f"rows were lost or doubled ({'; '.join(wrong)}); the output cannot be trusted, please report this"
        raise JobError(msg)


def failed_fraction(counts: dict[str, Any]) -> float:
    """Return the largest of the shares that failed of videos, of answers and of verdicts.

    One share over all rows would hide unreadable videos: each is one row, where a good one has windows x queries.
    """
    tables = ("videos", "answers", "verdicts")
    return max(counts[f"failed_{table}"] / counts[table] if counts[table] else 0.0 for table in tables)


def print_end(stats: dict[str, Any]) -> None:
    """Print the closing table on stderr and the JSON line on stdout."""
    spent = stats["this_run"]
    lines = [
        ("videos", f"{stats['videos']} of {stats['found']} found ({stats['failed_videos']} failed{_cut_short(stats)})"),
        ("windows", f"{stats['windows']}{_seen(spent)}"),
        ("answers", f"{stats['answers']} = {stats['windows']} windows x {stats['queries']} queries"
                    f" ({stats['failed_answers']} failed)"),
        ("verdicts", f"{stats['verdicts']} = {stats['found']} videos x {stats['queries']} queries"
                     f" ({stats['failed_verdicts']} failed)"),
        ("tokens", _tokens(stats)),
    ]  # fmt: skip
    if spent:
        stages = ("probe_s", "decode_s", "recall_s", "score_s", "evidence_s", "answer_s")
        seconds = [f"{name[:-2]} {spent[name]:.1f}" for name in stages if spent.get(name)]
        if spent.get("windows"):
            lines.append(("pictures", _pictures(spent)))
        if work := model_work(spent):
            lines.append(("model", work))
        lines.append(("seconds", f"{', '.join(seconds)} (busy, all workers); wall {stats['wall_s']:.1f}"))
    if "cost" in stats:
        lines.append(("cost", costs.line(stats["cost"])))
    lines += [("failed", f"{n} x {reason}") for reason, n in stats["reasons"].items()]
    if others := stats["failed_videos"] + stats["failed_answers"] - sum(stats["reasons"].values()):
        lines.append(("failed", f"{others} more; see: {_show_failed(stats['out'])}"))
    lines.append(("output", stats["out"]))
    print(file=sys.stderr)
    for name, text in lines:
        print(f"  {name:9} {printable(text)}", file=sys.stderr)
    print(json.dumps(stats), flush=True)


def print_reopened(done: Reopened) -> None:
    """Say on stderr what failed before and is done again."""
    if not done.videos + done.answers + done.verdicts:
        print("no failed rows to try again", file=sys.stderr)
        return
    print(
        f"tried again: {done.videos} failed videos, {done.answers} failed answers; {done.verdicts} verdicts are judged"
        " again",
        file=sys.stderr,
    )
    for reason, count in done.reasons.most_common(REASONS):
        print(f"  {count} x {printable(reason)}", file=sys.stderr)
    if others := done.reasons.total() - sum(n for _, n in done.reasons.most_common(REASONS)):
        print(f"  {others} for other reasons", file=sys.stderr)


def print_nothing_to_do(out: str, counts: dict[str, Any]) -> None:
    """Say on stderr that a run adds nothing, and what becomes of the failures that stand."""
    print(f"nothing to do: {out} already answers these questions on these videos", file=sys.stderr)
    num_failed = counts["failed_videos"] + counts["failed_answers"]
    if num_failed:
        print(
            f"failed rows that stand and are not tried again: {num_failed}; --retry-failed does them again; see:"
            f" {_show_failed(out)}",
            file=sys.stderr,
        )


def _show_failed(out: str) -> str:
    """Return the command that shows every failed row."""
    failed = " UNION ALL ".join(
        f"SELECT uri, error_message FROM {table} WHERE error_type <> ''" for table in ("videos", "answers")
    )
    return f'reelsift show {shlex.quote(out)} "{failed}" --format csv'


def _cut_short(stats: dict[str, Any]) -> str:
    num = stats["cut_short"]
    return f", {num} truncated or damaged, answered as far as they go" if num else ""


def _seen(spent: Mapping[str, float]) -> str:
    """Return how many of the windows that this run answered it had to look at anew; "" where it was all of them."""
    recalled = spent.get("windows_from_index", 0)
    return f" ({recalled} from the index, {spent['windows'] - recalled} decoded)" if recalled else ""


def _pictures(spent: Mapping[str, float]) -> str:
    """Return what came of the sampled times of this run's windows, and what they cost of a bucket."""
    text = f"{spent.get('frames_planned', 0)} times sampled"
    text += f", {spent.get('frames_stale', 0)} got an older or doubtful picture"
    text += f", {spent.get('frames_missing', 0)} none"
    if num_failed := spent.get("failed_windows", 0):
        text += f"; {num_failed} of {spent['windows']} windows not looked at"
    if spent.get("read_bytes"):
        megabytes, num_requests = spent["read_bytes"] / 1e6, spent.get("read_requests", 0)
        text += f"; {megabytes:.1f} MB read from the bucket in {num_requests} requests"
    return text


def _tokens(stats: dict[str, Any]) -> str:
    dense, used = stats["tokens_dense"], stats["tokens_used"]
    if not dense:
        return "none: answered from frame relevance, no language model"
    return f"{dense} dense -> {used} used ({100 * (1 - used / dense):.1f} % saved)"


def print_plan(
    out: str,
    config: JobConfig,
    queries: Sequence[Query],
    plan: Any,
    *,
    found: int,
    known: int,
    estimate: Mapping[str, Any],
) -> None:
    """Print what a run would do and cost, without starting anything."""
    resolved = {
        "videos": f"{found} found, {found - known} of them new to {out}",
        "out": out,
        "queries": _routed(config, queries, plan),
        "scorer": plan.scorer_facts.name,
        "model": plan.answerer_facts.name or "none: answers from frame relevance",
        "pools": {"score": _scoring(config, plan)}
        | ({"answer": _pool(config.answer.pool)} if config.answer.model else {}),
        "fingerprint": settings.fingerprint(config),
        "settings": settings.dump(config),
    }
    print(json.dumps(resolved, indent=1), file=sys.stderr)
    print(file=sys.stderr)
    for name, text in estimate_bill.lines(estimate):
        print(f"  {name:9} {text}", file=sys.stderr)
    told = {"found": found, "new": found - known, "fingerprint": resolved["fingerprint"]}
    print(json.dumps({"dry_run": True, **told, "estimate": estimate}))


def _routed(config: JobConfig, queries: Sequence[Query], plan: Any) -> list[str]:
    """Return one line per question with its route, or with who will decide it: nothing loads a model here."""
    if plan.router_facts.needs_model:
        who = f"route decided by {config.answer.model} when the run starts: router {plan.router_facts.name}"
        return [f"{query.query_id} ({query.kind}, {who})" for query in queries]
    return [f"{query.query_id} ({query.kind}, {plan.routes[query.query_id].route})" for query in queries]


def _scoring(config: JobConfig, plan: Any) -> str:
    if scores_in_tasks(config, uses_gpu=plan.scorer_facts.uses_gpu):
        return "none: scored in the tasks that decode"
    return _pool(config.score.pool)


def _pool(pool: PoolConfig) -> str:
    return (
        f"{pool.min_size} to {pool.max_size} actors, device {pool.device}: {pool.num_gpus:g} GPU each where GPUs are"
        f" used, else {pool.num_cpus:g} CPU"
    )
