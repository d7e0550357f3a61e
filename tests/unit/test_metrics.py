"""What a commit adds to the metrics, and a dashboard that draws only what is exported."""

import json
import re
from pathlib import Path

import pytest

from jobs import metrics
from jobs.progress import Cluster, Pool, Stage, View
from pipeline import rows, sink

DASHBOARD = Path(__file__).parents[2] / "docs" / "grafana.json"
OF_RAY = {"ray_node_cpu_utilization": {"ip"}, "ray_node_mem_used": {"ip"}, "ray_node_mem_total": {"ip"}}
"""Ray's own metrics that a head of 2.60 serves, and their labels that are drawn."""


def staged(tmp_path, *videos):
    table = rows.to_table(
        ({"probe_s": 0.5, "video_id": "v", "version": "1"} | video for video in videos), rows.PROBED
    )
    [part] = rows.to_rows(sink.stage_videos(str(tmp_path), "run", table))
    return json.loads(part["counters"])


def test_a_part_adds_what_its_counters_say(tmp_path):
    counters = staged(tmp_path, {}, {"error_type": "ProbeError"}, {"error_type": "ProbeError"})
    found = [added for added in metrics.increments(counters) if added[2].get("stage") != "write"]
    assert found == [
        ("reelsift_commits", 1, {}),
        ("reelsift_videos", 3, {}),
        ("reelsift_stage_seconds", 1.5, {"stage": "probe"}),
        ("reelsift_failures", 2, {"table": "videos", "reason": "ProbeError"}),
    ]


def test_every_counter_of_the_table_is_one_that_parts_have():
    named = {counter for spec in metrics.COUNTERS.values() for counter in spec.counters}
    source = Path(sink.__file__).read_text()
    assert [counter for counter in named - {*rows.COST} if f'"{counter}"' not in source] == []


def test_every_counter_counts_what_its_name_says():
    seconds = metrics.COUNTERS["reelsift_stage_seconds"].counters
    others = {
        name: [*spec.counters] for name, spec in metrics.COUNTERS.items() if spec.counters is not seconds
    }
    assert others == {
        "reelsift_videos": ["videos"], "reelsift_windows": ["windows"], "reelsift_answers": ["answers"],
        "reelsift_verdicts": ["verdicts"], "reelsift_frames": ["frames_seen"],
        "reelsift_tokens_dense": ["tokens_dense"], "reelsift_tokens_used": ["tokens_used"],
        "reelsift_tokens_prefilled": ["prefill_tokens"], "reelsift_tokens_generated": ["decode_steps"],
        "reelsift_read_bytes": ["read_bytes"], "reelsift_commits": [], "reelsift_failures": [],
    }  # fmt: skip
    renamed = {"decode_s": "sample", "evidence_s": "fetch"}
    assert seconds == {name: renamed.get(name, name.removesuffix("_s")) for name in seconds}


def test_what_a_model_reads_and_says_and_frames_that_are_read_again_are_counted():
    counters = {"prefill_tokens": 700, "decode_steps": 9, "recall_s": 0.5}
    assert [added for added in metrics.increments(counters) if added[0] != "reelsift_commits"] == [
        ("reelsift_tokens_prefilled", 700, {}),
        ("reelsift_tokens_generated", 9, {}),
        ("reelsift_stage_seconds", 0.5, {"stage": "recall"}),
    ]


def test_reasons_are_bounded():
    known: set[str] = set()
    names = [metrics.bounded(f"E{number}", known) for number in range(metrics.MAX_REASONS + 5)]
    assert names[metrics.MAX_REASONS :] == ["other"] * 5
    assert metrics.bounded("E3", known) == "E3"
    assert len(known) == metrics.MAX_REASONS


def test_what_is_gone_is_set_to_nothing():
    seen = metrics.Seen()

    def shown(stages, nodes):
        view = View("answer", 1.0, stages, Cluster(nodes))
        return {(name, *tags.values()): value for name, value, tags in metrics.levels(view, seen)}

    first = shown([Stage("score", 3, 9, pool=Pool(2, 1))], {"gpu": 1, "": 1})
    assert first["reelsift_stage_actors", "score", "running"] == 2
    assert first["reelsift_stage_actors", "score", "pending"] == 1
    assert (first["reelsift_stage_rows", "score"], first["reelsift_stage_rows_expected", "score"]) == (3, 9)
    # the pool ends with its stage, a machine leaves, and the next stream has other stages
    last = shown([Stage("verdicts", 1)], {"": 1})
    assert last["reelsift_stage_actors", "score", "running"] == 0
    assert last["reelsift_stage_actors", "score", "pending"] == 0
    assert (last["reelsift_nodes", "gpu"], last["reelsift_nodes", "other"]) == (0, 1)
    assert {name for name, *_ in first} == set(metrics.GAUGES)


def queries():
    dashboard = json.loads(DASHBOARD.read_text())
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"], target["legendFormat"]
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], variable["query"]["query"], ""


@pytest.mark.parametrize(("title", "expr", "legend"), list(queries()))
def test_a_panel_asks_for_what_is_exported(title, expr, legend):
    exported = {name: set(tags) for name, tags in metrics.exported().items()} | OF_RAY
    names = set(re.findall(r"\bray_\w+", expr))
    assert names, title
    assert names <= exported.keys(), f"{title}: not exported: {names - exported.keys()}"
    grouped = re.findall(r"by \(([^)]*)\)", expr)
    labels = {label.strip() for group in grouped for label in group.split(",")}
    labels |= set(re.findall(r"(\w+)=~?\"", expr)) | set(re.findall(r"{{(\w+)}}", legend))
    for name in names:
        assert labels <= exported[name], f"{title}: {name} has no label {labels - exported[name]}"


def test_the_dashboard_draws_every_metric():
    drawn = {name for _, expr, _ in queries() for name in re.findall(r"\bray_\w+", expr)}
    assert metrics.exported().keys() <= drawn


def test_panels_do_not_overlap():
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
