"""The whole comparison of plans at equal budgets, on two videos, with a model and heads that have learnt nothing."""

import json
from dataclasses import replace

import pytest
import torch

from actors.models import video_llm
from actors.models.heads import Heads, ImageHead, SemanticHead, save_heads
from actors.models.tables import describe_proposer
from jobs import bench, bench_route
from jobs.bench_route import Arguments, both_routers, measure
from jobs.bench_route_plans import PAPER_SCALES, TRAINED, UNTRAINED, cap_tokens
from jobs.bench_route_report import lines
from jobs.world.model import HIDDEN, make_model, save
from jobs.world.questions import ask
from pipeline import isolation
from pipeline.config import AnswerConfig, CompressConfig, JobConfig, PlanConfig, ScoreConfig

FRAMES, TOKENS = 32, 16
DENSE = FRAMES * TOKENS


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Return the folder of an untrained model of the world's architecture, and that of untrained heads."""
    model, heads = tmp_path_factory.mktemp("model"), tmp_path_factory.mktemp("heads")
    save(make_model(0).eval(), str(model))
    torch.manual_seed(0)
    save_heads(heads, Heads(HIDDEN, 2, 64, SemanticHead(HIDDEN), ImageHead(HIDDEN), model="untrained"))
    return model, heads


@pytest.fixture(scope="module")
def args(folders):
    model, heads = folders
    # 100 % is among the budgets whatever is asked for
    return Arguments(
        model=str(model), heads=str(heads), videos=2, budgets=(32.1,), timed=1, score=ScoreConfig()
    )


@pytest.fixture(scope="module")
def found(args):
    with pytest.MonkeyPatch.context() as patch:
        # every third question: of both routes, and the first of all
        patch.setattr("jobs.bench_route_videos.ask", lambda scene: ask(scene)[::3])
        patch.setattr("jobs.bench_route_ask.TIMED_TWICE", 1)
        patch.setattr("jobs.bench_route_routers.ASKED", (1,))
        patch.setattr("jobs.bench_route_routers.REPEATS", 1)
        yield measure(args)
    isolation.drop_child()


def test_every_method_at_every_budget(found):
    document = found.document()
    assert (document["bench"], document["pass"]) == ("route", False), "two videos are too few"
    assert list(document["figures"]) == [
        "dense_accuracy", "videorouter_32_accuracy", "uniform_pool_32_accuracy", "ci95", "semantic_accuracy",
        "image_accuracy", "image_ap", "router_share_of_saved", "router_share_of_saved_together",
    ]  # fmt: skip
    rows = {(row["method"], row["budget_pct"]): row for row in document["rows"]}
    routed = ("dual-encoder pooling", UNTRAINED, TRAINED, "oracle")
    assert set(rows) == {
        ("dense", 100),
        *((name, pct) for name in ("uniform frames", "uniform pooling", *routed) for pct in (100, 32.1)),
        *((f"{name} ({a},{b})", 75) for name in routed for a, b in PAPER_SCALES),
    }
    for (name, pct), row in rows.items():
        assert set(row) == {"method", "budget_pct", "accuracy", "ci95", "tokens_mean", "prefill_s"}
        assert 0 < row["tokens_mean"] <= cap_tokens(DENSE, pct)
        assert row["prefill_s"] > 0
        if pct == 100:
            assert (row["accuracy"], row["tokens_mean"]) == (rows["dense", 100]["accuracy"], DENSE), name
    assert rows["uniform pooling", 32.1]["tokens_mean"] == 164
    assert found.wrong == []


def test_the_oracle_shows_the_true_frames_whole_and_takes_the_true_routes(found):
    tried = found.find("oracle", 32.1)
    assert [one.route for one in found.asked] == tried.routes
    [plan, *_] = tried.method.asks(found.videos[0], tried.setting.plan)
    whole = [frame for frame, size in enumerate(plan.plan.tokens_N) if size == TOKENS]
    [(start_s, end_s)] = found.asked[0].evidence_s
    assert found.videos[0].window.pts_s_N[whole].tolist() == list(range(start_s, end_s))


def test_every_frame_proposed_is_no_frame_lost(found):
    for (_, num), cascade in found.measures.cascades.items():
        assert cascade.found <= cascade.named <= cascade.true
        assert num < FRAMES or cascade.named == cascade.true


def test_the_report_says_what_was_met_and_what_was_not(found, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(bench_route, "measure", lambda _: found)
    report = tmp_path / "route.md"
    assert bench.main(["route", "--videos", "2", "--report", str(report)]) == 1
    assert json.loads(capsys.readouterr().out.strip().splitlines()[-1])["bench"] == "route"
    written = report.read_text()
    assert "- met: equal where all must be equal, and no budget exceeded" in written
    assert "- MISSED: at least 500 questions" in written
    assert "| all fragment |" in written
    assert f"proposed by `{describe_proposer(ScoreConfig()).name}`" in written


def test_without_heads_the_trained_rows_are_left_out(found, args, tmp_path):
    answer = AnswerConfig(model=args.model, frame_px=64, dtype="float32")
    config = JobConfig(answer=answer, plan=PlanConfig(early_layers=2))
    llm = video_llm.make(answer, CompressConfig(), "cpu")
    pairs, note = both_routers(replace(args, heads=str(tmp_path)), config, llm)
    assert list(pairs) == [UNTRAINED]
    assert f"There are no heads in {tmp_path}" in note
    without = replace(found, note=note, tried=[one for one in found.tried if one.method.name != TRAINED])
    without.semantic = {UNTRAINED: found.semantic[UNTRAINED]}
    without.costs = {UNTRAINED: found.costs[UNTRAINED]}
    document = without.document()
    assert document["pass"] is False
    assert document["figures"]["videorouter_32_accuracy"] is document["figures"]["semantic_accuracy"] is None
    assert document["figures"]["dense_accuracy"] is not None
    written = "\n".join(lines("command", without))
    assert note in written
    assert f"MISSED: {TRAINED} measured at 32.1 %" in written
