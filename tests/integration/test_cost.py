"""The bill before and after a real run: counts agree; seconds depend on the machine and are only there."""

import json
import math
import shutil

import pytest

from jobs import costs, estimate
from jobs.costs import CostOptions
from jobs.resolve import resolve
from pipeline import stages, store
from pipeline.answered import plan_windows
from pipeline.config import JobConfig, WindowConfig
from pipeline.isolation import Reader
from pipeline.listing import list_videos
from pipeline.queries import load_queries, one_query
from pipeline.windows import key, sorted_keys
from tests.integration.results import read

QUERIES = [
    {"query_id": "rabbit", "kind": "find", "text": "a rabbit"},
    {"query_id": "car", "kind": "flag", "text": "a car"},
]
CONFIG = JobConfig(window=WindowConfig(length_s=4.0, sample_fps=2.0))
SETTINGS = ("--window.length-s", "4", "--window.sample-fps", "2")
LATER = {"query_id": "dog", "kind": "find", "text": "a dog"}
COPIES = 4


def estimated(videos, out, queries, config):
    """What a dry run tells, in this process."""
    listing = estimate.list_new(videos, out)
    return estimate.estimate(out, listing, queries, config, resolve(config, queries), CostOptions())


def near(truth):
    return pytest.approx(truth, rel=0.3)


@pytest.fixture
def archive(clips):
    for path in list(clips.iterdir()):
        for copy in range(1, COPIES if path.name != "broken.mp4" else 1):
            shutil.copy(path, clips / f"{copy}-{path.name}")
    return clips


def test_the_bill_is_known_before_and_written_after(reelsift, archive, ask, tmp_path, monkeypatch):
    out = tmp_path / "out"
    command = ("answer", archive, ask(*QUERIES), out, *SETTINGS)
    guessed = reelsift(*command, "--dry-run")
    assert guessed.code == 0, guessed.err
    assert not out.exists()
    done = reelsift(*command)
    assert done.code == 0, done.err
    after = done.json["cost"]
    monkeypatch.setattr(estimate, "MOST_S", math.inf)  # on a slow machine the command's is of some files only
    before = estimated(str(archive), str(tmp_path / "other"), load_queries(str(ask(*QUERIES))), CONFIG)
    assert guessed.json["estimate"]["counts"].keys() == before["counts"].keys()
    _counts_agree(before, after)
    _every_stage_is_on_the_bill(out, done.json)
    _seconds_of_answers_add_up(out, done.json["this_run"])
    assert f"cost      {costs.line(after)}" in done.err
    _what_is_done_is_not_counted_again(reelsift, archive, ask, out, done.json)


def _counts_agree(before, after):
    expected, real = before["counts"], after["counts"]
    for name in ("windows", "answers", "frames_planned"):
        assert expected[name] == dict.fromkeys(("low", "mid", "high"), real[name])
    for name in ("frames_seen", "written_bytes", "video_h"):
        assert expected[name]["mid"] == near(real[name]), name
    for stage in ("decode", "score"):
        ratio = before["stages"][stage]["cpu_s"]["mid"] / after["stages"][stage]["cpu_s"]
        print(f"{stage}: expected / real {ratio:.2f}")


def _every_stage_is_on_the_bill(out, told):
    bill = json.loads((out / "_run" / told["run_id"] / "cost.json").read_text())
    assert bill == told["cost"]
    for name in ("probe", "decode", "score", "answer", "write"):
        assert bill["stages"][name]["cpu_s"] > 0, name
        assert bill["stages"][name]["busy_s"] > 0, name
    spent = sum(stage["dollars"]["high"] for stage in bill["stages"].values())
    assert bill["total"]["high"] == pytest.approx(spent)
    assert 0 < bill["total"]["low"] < bill["total"]["high"] < bill["held"]["dollars"]["high"]
    assert bill["counts"]["written_bytes"] == sum(path.stat().st_size for path in out.glob("*/*.parquet"))
    assert bill["prices"]["machines"]


def _seconds_of_answers_add_up(out, spent):
    answers = read(out, "answers")
    sums = {name: sum(answer[name] for answer in answers) for name in ("decode_s", "score_s", "answer_s")}
    assert sums["decode_s"] == pytest.approx(spent["decode_s"] + spent["evidence_s"], rel=0.01)
    assert sums["score_s"] == pytest.approx(spent["score_s"], rel=0.01)
    assert sums["answer_s"] == pytest.approx(spent["answer_s"], rel=0.01)


def _what_is_done_is_not_counted_again(reelsift, archive, ask, out, told):
    plan = (out, *SETTINGS, "--dry-run")
    nothing = reelsift("answer", archive, ask(*QUERIES), *plan).json["estimate"]
    assert nothing["total"]["high"] == 0
    more = reelsift("answer", archive, ask(*QUERIES, LATER), *plan).json["estimate"]
    assert more["counts"]["answers"]["mid"] == told["windows"]
    assert more["files"]["new"] == more["files"]["probed"] == 0
    both = costs.of_runs(str(out))
    assert both is not None
    assert both["total"] == pytest.approx(told["cost"]["total"])


@pytest.mark.needs_ceph
def test_what_a_bucket_is_asked_for_is_foreseen(s3, clips, monkeypatch):
    monkeypatch.setattr(estimate, "MOST_S", math.inf)
    source = store.join(s3.uri, "in")
    for path in clips.iterdir():
        store.write_bytes(store.join(source, path.name), path.read_bytes())
    config, queries = JobConfig(window=WindowConfig(length_s=4.0)), [one_query("a dog")]
    plan, out = resolve(config, queries), store.join(s3.uri, "out")
    counts = estimated(source, out, queries, config)["counts"]
    num_bytes = num_requests = 0
    reader = Reader(config.decode, config.window)
    for file in list_videos(source):
        if file["uri"].endswith("broken.mp4"):
            continue
        video = {**file, "error_type": "", **stages.probe(reader, file)}
        own = sorted_keys([key(video["video_id"], video["version"])])
        windows = plan_windows([video], queries, found=own, answered=estimate.NOTHING)
        looks = [stages.sample_window(reader, plan.scorer_facts.frame_size, window) for window in windows]
        num_bytes += video["probe_bytes"] + sum(look["read_bytes"] for look in looks)
        num_requests += video["probe_requests"] + sum(look["read_requests"] for look in looks)
    assert counts["read_bytes"]["mid"] == near(num_bytes)
    assert counts["read_requests"]["mid"] == near(num_requests)
