"""Plug-ins named by import path take part in the job, wherever they run: on the driver, in tasks, in actors."""

import pytest

from tests import tiny_models
from tests.integration.results import read

QUERIES = [
    {"query_id": "dog", "kind": "find", "text": "a dog"},
    {"query_id": "when", "kind": "flag", "text": "a red car right now"},
    {"query_id": "free", "kind": "ask", "text": "What colour is the car?"},
]
SETTINGS = ("--window.length-s", "4", "--window.sample-fps", "1", "--answer.frame-px", "96")


def test_every_plug_in_by_import_path(reelsift, clips, ask, tmp_path):
    out, model = tmp_path / "out", tiny_models.build("qwen2_5_vl", tmp_path / "model")
    sample = "tests.plugins_sample"
    done = reelsift(
        "answer", clips / "bikes.mp4", ask(*QUERIES), out, *SETTINGS,
        "--answer.model", model,
        "--decode.decoder", f"{sample}:white_frames",
        "--score.scorer", f"{sample}:BRIGHTNESS",
        "--plan.router", f"{sample}:always_global",
        "--compress.compressor", f"{sample}:first_tokens",
        "--aggregator", f"{sample}:mean_confidence",
    )  # fmt: skip
    assert done.code == 0, done.err
    answers = read(out, "answers")
    windows = len(answers) / len(QUERIES)
    assert windows > 1
    for row in answers:
        assert row["error_type"] == "", row["error_message"]
        assert row["scorer"] == "brightness"
        assert row["route_confidence"] == 0.25
        assert row["compressor"] == f"{sample}:first_tokens"
        if row["kind"] == "find":
            assert (row["answer"], row["confidence"]) == ("found", 1.0), (
                "white frames are as bright as can be"
            )
        else:
            assert row["tokens_used"] == len(row["evidence"]) == row["frames_seen"], "one token of each frame"
    for verdict in read(out, "verdicts"):
        own = [row["confidence"] for row in answers if row["query_id"] == verdict["query_id"]]
        assert verdict["confidence"] == pytest.approx(sum(own) / len(own))


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--plan.router", "tests.plugins_sample:always_globl", "ROUTERS: cannot import"),
        ("--compress.compressor", "no_such_package:f", "TOKEN_COMPRESSORS: cannot import"),
        ("--aggregator", "math:pi", "AGGREGATORS: 'math:pi' is a float, expected a function"),
        ("--score.scorer", "math:sqrt", "'math:sqrt' is a builtin_function_or_method, expected a ScorerEntry"),
    ],
)  # fmt: skip
def test_an_import_path_that_cannot_work_is_refused_before_ray(
    reelsift, clips, ask, tmp_path, option, value, message
):
    done = reelsift(
        "answer", clips, ask(*QUERIES[:2]), tmp_path / "out", option, value, RAY_ADDRESS="127.0.0.1:1"
    )
    assert done.code == 2, done.err
    assert message in done.err
    assert not (tmp_path / "out").exists()
