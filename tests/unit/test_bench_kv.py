"""The bench of cache policies: what it says of made-up rows, and one small run."""

import json

import pytest

from jobs import bench_kv
from jobs.bench_kv import Row, figures
from pipeline.errors import ConfigError


def rows(policy, *held):
    return [
        Row(policy, frames, peak, 0.0, 0.0, 1.0, 0.1) for frames, peak in zip((10, 100), held, strict=True)
    ]


@pytest.mark.parametrize(
    ("policy", "held", "holds"),
    [("streaming-vlm", (5.0, 5.1), True), ("streaming-vlm", (5.0, 6.0), False), ("rekv", (5.0, 6.0), False),
     ("quick-prefill", (0.6, 6.0), True), ("quick-prefill", (1.0, 10.0), False), ("none", (1.0, 10.0), True),
     ("dycoke-dp", (1.0, 10.0), True), ("dycoke-dp", (0.6, 6.0), False), ("livevlm", (5.0, 5.0), True),
     ("livevlm", (5.0, 6.8), True), ("livevlm", (5.0, 7.0), False), ("livevlm", (1.0, 100.0), False)],
)  # fmt: skip
def test_memory_grows_as_a_policy_claims(policy, held, holds):
    found = figures(
        [*rows("none", 1.0, 10.0), *rows(policy, *held)] if policy != "none" else rows("none", *held),
        0.8,
        20.0,
    )
    assert found[policy]["holds"] == holds


def test_one_small_run(tmp_path, capsys):
    policies = ("none", "dycoke-dp", "streaming-vlm", "rekv", "livevlm")
    arguments = [
        "--frames",
        "80",
        "--frames",
        "160",
        *(word for one in policies for word in ("--policies", one)),
    ]
    assert bench_kv.main([*arguments, "--report", str(tmp_path / "report.md")]) == 0
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (document["bench"], document["pass"]) == ("kv", True)
    assert [(row["policy"], row["frames"]) for row in document["rows"]] == [
        (policy, frames) for policy in policies for frames in (80, 160)
    ]
    live = document["figures"]["livevlm"]
    assert 0.4 * live["most_kb_per_frame"] < live["kb_per_frame"] <= live["most_kb_per_frame"]
    assert all(row["peak_mb"] > 0 and row["ttft_s"] > 0 for row in document["rows"])
    assert "as claimed" in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize("policy", ["quick-prefill", "dycoke-dp"])
def test_shares_are_not_judged_without_what_they_are_shares_of(policy):
    with pytest.raises(ConfigError, match="add --policies none"):
        bench_kv.main(["--policies", policy])


def test_one_length_says_nothing_of_growth():
    with pytest.raises(ConfigError, match="two different lengths"):
        bench_kv.main(["--frames", "64"])


def test_the_report_names_the_command_that_repeats_it():
    asked = bench_kv.Arguments(frames=(64, 4096), policies=("none", "rekv"), model="/some/folder")
    assert bench_kv.command(bench_kv.Arguments()) == "reelsift bench kv"
    assert bench_kv.command(asked) == (
        "reelsift bench kv --frames 64 --frames 4096 --policies none --policies rekv --model DIR"
    )
