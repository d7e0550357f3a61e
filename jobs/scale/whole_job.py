"""A whole job over a whole archive: listing, probing, planning, answering, judging, counting, one after the other.

How work is cut comes from jobs/flow.py itself; what it costs is measured (measure.py); what cannot be measured
on one machine is assumed, and stands in Assumed with its source.
"""

from dataclasses import dataclass, field
from typing import Any

from jobs.scale.model import Cluster, Outcome, Store, Stream
from jobs.scale.simulation import simulate
from pipeline import sink
from pipeline.config import SinkConfig, WindowConfig

FOOTER_REQUESTS = 2
"""To open a Parquet file: its length and its footer."""
COMMIT_REQUESTS = {"probe": 7, "answer": 11, "judge": 7}
"""Look for the record (2), for each staged file (1), write the record (1), move each file (look, copy, delete)."""


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds, measured on one machine; CPU seconds of one core where work is meant."""

    probe_s: float
    """Per file."""
    decode_s: float
    """Per second of video, and so on."""
    score_s: float
    write_s: float
    """Of what follows scoring, per second of video."""
    ray_s: float
    """Of Ray on the machines, per window: its own processes, and what wraps the stages."""
    spread: tuple[float, ...]
    """Times of windows divided by their mean."""
    step_s: float
    """Driver's time for one block or task at one stage."""
    list_s: float
    """Driver's time to list one file and write it down."""
    plan_s: float
    """Driver's time to write down one window."""
    count_s: float
    """Driver's time to count one answer in the end."""
    judge_s: float
    """Per answer."""
    open_s: float
    """Per Parquet file that is opened and holds nothing that is wanted."""
    commit_s: float
    """Driver's time per commit, without what it waits for the store."""
    video_bytes_per_s: float
    """Bytes read per second of video."""


@dataclass(frozen=True, slots=True)
class Assumed:
    """What cannot be measured on one machine."""

    files: int = 10_000_000
    video_s: float = 300.0
    """Of each file: one window at the defaults."""
    questions: int = 10
    request_s: float = 0.03
    """From a request to S3 to its answer."""
    probe_requests: float = 4.0
    window_requests: float = 6.0
    """To read one file, one window."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How the flow cuts work; the defaults are those of jobs/flow.py and pipeline/config.py."""

    windows_per_part: int = 0
    windows_per_task: int = 0
    """0 = as the flow has it for so many; the same of those below."""
    bundle: int = 0
    """Windows that go from planning on as one where a language model answers; 0 = none does, and one task plans,
    answers and writes a part."""
    files_per_task: int = 0
    answers_per_shard: int = 0
    window_s: float = 300.0


@dataclass(slots=True)
class Whole:
    """What came of a job."""

    wall_s: float = 0.0
    paid_node_s: float = 0.0
    useful_core_s: float = 0.0
    phases_s: dict[str, float] = field(default_factory=dict)
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    cores: int = 1

    @property
    def efficiency(self) -> float:
        """Useful node seconds of those that were paid."""
        return self.useful_core_s / self.cores / self.paid_node_s


def streams(costs: Costs, assumed: Assumed, settings: Settings) -> tuple[Stream, Stream, Stream]:
    """Return what is probed, answered and judged."""
    from jobs import flow

    windows_of_file = max(1, round(assumed.video_s / settings.window_s))
    num_windows, length_s = assumed.files * windows_of_file, assumed.video_s / windows_of_file
    per_task = settings.windows_per_task or flow.windows_per_task(num_windows)
    frames = length_s * WindowConfig().sample_fps
    per_part = settings.windows_per_part or sink.grown_part(
        SinkConfig(), num_windows, frames, assumed.questions
    )
    commit_s = {
        name: costs.commit_s + requests * assumed.request_s for name, requests in COMMIT_REQUESTS.items()
    }
    probe = Stream(
        "probe",
        items=assumed.files,
        items_per_unit=settings.files_per_task or flow.files_per_task(assumed.files),
        first_s=costs.probe_s,
        unit_driver_s=2 * costs.step_s,
        first_driver_s=costs.step_s / flow.VIDEOS_PER_PART,
        item_requests=assumed.probe_requests,
        item_wait_s=assumed.probe_requests * assumed.request_s,
        items_per_part=flow.VIDEOS_PER_PART,
        commit_s=commit_s["probe"],
        commit_requests=COMMIT_REQUESTS["probe"] + 1,
    )
    answer = Stream(
        "answer",
        items=num_windows,
        items_per_unit=per_task,
        first_s=costs.decode_s * length_s,
        second_s=(costs.score_s + costs.write_s) * length_s,
        beside_s=costs.ray_s,
        spread=costs.spread,
        unit_driver_s=costs.step_s,
        # a window with its pixels is a block of its own, out of decoding and through scoring
        first_driver_s=costs.step_s,
        second_driver_s=costs.step_s * (1 + 1 / per_part + (2 / settings.bundle if settings.bundle else 0)),
        item_requests=assumed.window_requests,
        item_wait_s=assumed.window_requests * assumed.request_s,
        item_bytes=costs.video_bytes_per_s * length_s,
        items_per_part=per_part,
        commit_s=commit_s["answer"],
        commit_requests=COMMIT_REQUESTS["answer"] + 2,
    )
    num_answers = num_windows * assumed.questions
    per_shard = settings.answers_per_shard or flow.ANSWERS_PER_SHARD
    shards = num_answers // per_shard + 1
    parts = -(-num_windows // per_part)
    judge = Stream(
        "judge",
        items=shards,
        items_per_unit=1,
        # each shard opens every part to see what of it is its own
        first_s=num_answers / shards * costs.judge_s + parts * costs.open_s,
        unit_driver_s=2 * costs.step_s,
        item_requests=parts * FOOTER_REQUESTS,
        item_wait_s=parts * FOOTER_REQUESTS * assumed.request_s / READ_AHEAD,
        commit_s=commit_s["judge"],
        commit_requests=COMMIT_REQUESTS["judge"] + 1,
    )
    return probe, answer, judge


READ_AHEAD = 16
"""Files that one reader opens at the same time."""


def run(
    costs: Costs, assumed: Assumed, settings: Settings, cluster: Cluster, store: Store, seed: int = 0
) -> Whole:
    """Return what comes of a job; machines that idle through the driver's own work for too long are given back."""
    probe, answer, judge = streams(costs, assumed, settings)
    num_answers = answer.items * assumed.questions
    parts = -(-answer.items // answer.items_per_part)
    footers_s = parts * FOOTER_REQUESTS * assumed.request_s / cluster.commits_at_once
    alone_s = {
        "list": assumed.files * costs.list_s,
        "plan windows": answer.items * costs.plan_s,
        "read footers": footers_s,
        "count": num_answers * costs.count_s,
    }
    whole = Whole(cores=cluster.cores)
    nodes = 0
    for stream, before in ((probe, "list"), (answer, "plan windows"), (judge, "read footers")):
        gap_s = alone_s[before]
        whole.phases_s[before] = gap_s
        whole.paid_node_s += nodes * min(gap_s, cluster.idle_s)
        nodes = nodes if gap_s <= cluster.idle_s else 0
        outcome = simulate(stream, cluster, store, seed=seed, start_nodes=nodes)
        nodes = outcome.nodes_at_end
        whole.outcomes[stream.name] = outcome
        whole.phases_s[stream.name] = outcome.wall_s
        whole.paid_node_s += outcome.paid_node_s
    whole.useful_core_s = (
        probe.useful_s + answer.useful_s + num_answers * costs.judge_s  # opening parts is no work
    )
    whole.phases_s["count"] = alone_s["count"]
    whole.paid_node_s += nodes * min(alone_s["count"], cluster.idle_s)
    whole.wall_s = sum(whole.phases_s.values())
    return whole


def row(nodes: int, whole: Whole) -> dict[str, Any]:
    """Return a result as it is printed."""
    return {
        "nodes": nodes,
        "hours": round(whole.wall_s / 3600, 2),
        "efficiency": round(whole.efficiency, 4),
        "phases_h": {name: round(seconds / 3600, 3) for name, seconds in whole.phases_s.items()},
        "repeated": sum(one.repeated for one in whole.outcomes.values()),
        "lost_nodes": sum(one.lost_nodes for one in whole.outcomes.values()),
        "slow_downs": sum(one.slow_downs for one in whole.outcomes.values()),
    }
