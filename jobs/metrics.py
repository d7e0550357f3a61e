"""Numbers of a run for Prometheus, through Ray's own metrics: the port that serves Ray's serves these.

Counters grow by what the counters of a committed part say, in the moment of the commit, so they add up to the run's
own statistics. Gauges say how far the stages are. Ray puts `ray_` before a name, and `_total` behind that of a counter.
docs/grafana.json draws them.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from jobs.progress import Pool, View

TAGS = ("run_id", "job")
"""Of every metric: the run, and the Ray job that drives it."""
MAX_REASONS = 30
"""Types of errors that have a series each; further ones share `other`."""


@dataclass(frozen=True, slots=True)
class Spec:
    """One metric."""

    description: str
    tags: tuple[str, ...] = ()
    counters: Mapping[str, str] = field(default_factory=dict[str, str])
    """Counters of a part that it adds up, and the value of its tag for each."""


COUNTERS = {
    "reelsift_videos": Spec("Files probed", counters={"videos": ""}),
    "reelsift_windows": Spec("Windows answered", counters={"windows": ""}),
    "reelsift_answers": Spec("Answers written", counters={"answers": ""}),
    "reelsift_verdicts": Spec("Verdicts written", counters={"verdicts": ""}),
    "reelsift_frames": Spec("Different pictures looked at", counters={"frames_seen": ""}),
    "reelsift_tokens_dense": Spec(
        "Visual tokens of all frames, had none been left out", counters={"tokens_dense": ""}
    ),
    "reelsift_tokens_used": Spec(
        "Visual tokens that the language model was shown", counters={"tokens_used": ""}
    ),
    "reelsift_tokens_prefilled": Spec(
        "Tokens that the language model read: questions and frames", counters={"prefill_tokens": ""}
    ),
    "reelsift_tokens_generated": Spec("Tokens of answers", counters={"decode_steps": ""}),
    "reelsift_read_bytes": Spec("Bytes read from a bucket", counters={"read_bytes": ""}),
    "reelsift_stage_seconds": Spec(
        "Seconds of work by stage, of all workers",
        ("stage",),
        {
            "probe_s": "probe",
            "decode_s": "sample",
            "recall_s": "recall",
            "score_s": "score",
            "evidence_s": "fetch",
            "answer_s": "answer",
            "write_s": "write",
        },
    ),
    "reelsift_commits": Spec("Parts committed"),
    "reelsift_failures": Spec("Failed rows by table and type of error", ("table", "reason")),
}
GAUGES = {
    "reelsift_stage_rows": Spec("Rows a stage has put out", ("stage",)),
    "reelsift_stage_rows_expected": Spec("Rows a stage is to put out", ("stage",)),
    "reelsift_stage_tasks": Spec("Tasks of a stage that run now", ("stage",)),
    "reelsift_stage_actors": Spec("Actors of a stage: running or pending", ("stage", "state")),
    "reelsift_nodes": Spec("Machines that are alive, by their label role", ("role",)),
}


def exported() -> dict[str, tuple[str, ...]]:
    """Return the names that Prometheus sees, with their tags."""
    named = {f"ray_{name}_total": spec for name, spec in COUNTERS.items()}
    named |= {f"ray_{name}": spec for name, spec in GAUGES.items()}
    return {name: (*TAGS, *spec.tags) for name, spec in named.items()}


def increments(counters: Mapping[str, float]) -> Iterator[tuple[str, float, dict[str, str]]]:
    """Yield what a committed part adds: a name of COUNTERS, how much (never 0), and the metric's own tags."""
    yield "reelsift_commits", 1, {}
    for name, spec in COUNTERS.items():
        for counter, tag in spec.counters.items():
            if counters.get(counter, 0) > 0:
                yield name, counters[counter], dict.fromkeys(spec.tags, tag)
    for counter, amount in counters.items():
        table, _, reason = counter.removeprefix("failed_").partition("/")
        if reason and counter.startswith("failed_"):
            yield "reelsift_failures", amount, {"table": table, "reason": reason}


def bounded(reason: str, known: set[str]) -> str:
    """Return a reason as a tag: its name, if it is among the first MAX_REASONS, which are noted in `known`."""
    if len(known) < MAX_REASONS:
        known.add(reason)
    return reason if reason in known else "other"


@dataclass(slots=True)
class Seen:
    """What has been shown and may be gone: a gauge keeps its last value until it is set to 0."""

    pools: set[str] = field(default_factory=set[str])
    """Stages that had actors."""
    roles: set[str] = field(default_factory=set[str])
    """Labels of machines."""


def levels(view: View, seen: Seen) -> Iterator[tuple[str, float, dict[str, str]]]:
    """Yield what a view says of gauges: a name of GAUGES, its value, and the metric's own tags."""
    for stage in view.stages:
        tags = {"stage": stage.name}
        yield "reelsift_stage_rows", stage.done, tags
        yield "reelsift_stage_tasks", stage.num_tasks, tags
        if stage.total is not None:
            yield "reelsift_stage_rows_expected", stage.total, tags
    pools = {stage.name: stage.pool for stage in view.stages if stage.pool is not None}
    seen.pools |= pools.keys()
    for name in seen.pools:
        pool = pools.get(name, Pool(0, 0))
        yield "reelsift_stage_actors", pool.num_running, {"stage": name, "state": "running"}
        yield "reelsift_stage_actors", pool.num_pending, {"stage": name, "state": "pending"}
    if view.cluster is not None:
        seen.roles |= view.cluster.nodes.keys()
        for role in seen.roles:
            yield "reelsift_nodes", view.cluster.nodes.get(role, 0), {"role": role or "other"}


class Metrics:
    """The metrics of one run; needs a connected Ray."""

    def __init__(self, run_id: str) -> None:
        import ray
        from ray.util.metrics import Counter, Gauge

        tags = dict(zip(TAGS, (run_id, ray.get_runtime_context().get_job_id()), strict=True))
        self.counters: dict[str, Any] = {
            n: Counter(n, s.description, (*TAGS, *s.tags)) for n, s in COUNTERS.items()
        }
        self.gauges: dict[str, Any] = {
            n: Gauge(n, s.description, (*TAGS, *s.tags)) for n, s in GAUGES.items()
        }
        for metric in (*self.counters.values(), *self.gauges.values()):
            metric.set_default_tags(tags)
        self.reasons: set[str] = set()
        self.seen = Seen()

    def count(self, counters: Mapping[str, float]) -> None:
        """Count a committed part."""
        for name, amount, tags in increments(counters):
            if "reason" in tags:
                tags["reason"] = bounded(tags["reason"], self.reasons)
            self.counters[name].inc(amount, tags)

    def show(self, view: View) -> None:
        """Set how far the stages of a stream are."""
        for name, value, tags in levels(view, self.seen):
            self.gauges[name].set(value, tags)
