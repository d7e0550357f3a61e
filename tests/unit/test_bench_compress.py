"""Methods at equal budgets, what they take, and the front; the whole is in tests/integration/test_bench_compress.py."""

import sys

import numpy as np
import pytest
import torch

from jobs.bench_compress import Arguments, chosen, command, main
from jobs.bench_compress_clips import Clips, Left, inside, share
from jobs.bench_compress_report import Found, draw, front, lines
from jobs.bench_compress_speed import Cost, Speed, allocated_bytes, draw_asked, measure_speed
from jobs.bench_compress_ways import COMPRESS, DENSE, SELECT, draw_clip, every_way, throws_shares
from jobs.bench_compress_world import Tried, World, frames_shown
from jobs.bench_route_statistics import Bootstrap
from pipeline.compress import TOKEN_COMPRESSORS
from pipeline.compress.policy import KeepPolicy
from pipeline.errors import ConfigError, ModelError
from pipeline.frames import FrameSize
from pipeline.select import FRAME_SELECTORS

FRAMES, TOKENS = 32, 16


def test_by_default_every_entry_is_compared_and_dense_comes_first():
    ways = chosen(Arguments())
    assert (ways[0].name, ways[0].settings.compressor) == (DENSE, "none")
    found = {(way.table, way.name) for way in ways[1:]}
    assert found == {(COMPRESS, name) for name in TOKEN_COMPRESSORS} | {
        (SELECT, name) for name in FRAME_SELECTORS
    }
    assert len(ways) == 1 + 3 * len(found)
    assert [way.name for way in chosen(Arguments(compressors=("dycoke",), budgets=(25.0,)))] == [
        DENSE,
        "dycoke",
    ]


def test_a_trained_policy_is_a_row_beside_the_tables_entries(tmp_path):
    folder = tmp_path / "mine"
    args = Arguments(compressors=("uniform",), budgets=(25.0,), policies=(folder,))
    with pytest.raises(ModelError, match="mine"):
        chosen(args)
    KeepPolicy().save(folder)
    *_, trained = chosen(args)
    assert (trained.name, trained.settings.policy) == ("policy mine", str(folder))
    assert trained.settings.prune_ratio == 0.75


def test_who_throws_shares_away_and_who_follows_its_plan():
    told = {name: throws_shares(compress) for name, compress in TOKEN_COMPRESSORS.items()}
    assert told == {name: name not in ("none", "uniform") for name in TOKEN_COMPRESSORS}


@pytest.mark.parametrize("budget_pct", [50.0, 25.0, 12.5])
def test_budgets_are_equal(budget_pct):
    asked = draw_asked(FRAMES)
    dense, none, uniform, dycoke, *selected = every_way(
        ("none", "uniform", "dycoke"), tuple(FRAME_SELECTORS), [budget_pct]
    )
    most = FRAMES * TOKENS * budget_pct / 100
    assert [plan.tokens_N for plan in dense.plans(asked, TOKENS)] == [(TOKENS,) * FRAMES]
    [plan] = none.plans(asked, TOKENS)
    assert sum(plan.tokens_N) == most
    assert set(plan.tokens_N) == {0, TOKENS}, "whole frames or none"
    assert uniform.plans(asked, TOKENS)[0].tokens_N == (int(TOKENS * budget_pct / 100),) * FRAMES
    assert dycoke.plans(asked, TOKENS)[0].tokens_N == (TOKENS,) * FRAMES
    assert dycoke.settings.prune_ratio == 1 - budget_pct / 100
    for way in selected:
        [plan] = way.plans(asked, TOKENS)
        assert 0 < sum(plan.tokens_N) <= most, way.name


def test_a_drawn_clip_moves_in_half_of_its_places():
    clip = draw_clip(8, (8, 8), 64, FrameSize(32, 48))
    values_TND = clip.values_ND.view(8, 64, 64)
    alike_TN = torch.cosine_similarity(values_TND[1:], values_TND[:-1], dim=-1)
    assert 0.35 < (alike_TN > 0.6).float().mean() < 0.65
    assert clip.pixels_THWC is not None
    assert clip.pixels_THWC.shape == (8, 32, 48, 3)
    assert torch.equal(clip.values_ND, draw_clip(8, (8, 8), 64, FrameSize(32, 48)).values_ND)


def test_what_is_allocated_is_counted_and_what_was_there_is_not():
    held = torch.ones(1_000_000)

    def tensors() -> None:
        first = held + 1
        second = first + 1
        del first
        second.add_(1)

    def arrays() -> None:
        np.ones(500_000).sum()

    assert allocated_bytes(tensors, "cpu") == pytest.approx(8e6, rel=0.01)
    assert allocated_bytes(arrays, "cpu") == pytest.approx(4e6, rel=0.01)


def test_a_prefill_between_those_measured():
    speed = Speed("tiny", "cpu", 1, 8, 400, [(n, 3e-3 * n + 5e-6 * n**2) for n in (400, 200, 100, 50)])
    assert speed.prefill_at_s(300) == pytest.approx(0.9 + 0.45)
    assert speed.max_share == 0.0
    speed.costs = {(COMPRESS, name, 50.0): Cost(1.0, 1.0, 1, of) for name, of in (("a", 0.1), ("b", None))}
    assert speed.max_share == 0.1


def test_every_method_is_timed_at_the_size_of_a_model():
    ways = every_way(("uniform", "dycoke"), ("uniform",), [50.0])
    speed = measure_speed(ways, 1, "cpu", "tiny", 8)
    assert (speed.num_tokens, len(speed.prefill_s)) == (32, 4)
    assert speed.of(ways[0]) is None, "there is nothing to time"
    uniform, dycoke, selected = (speed.of(way) for way in ways[1:])
    assert uniform is not None
    assert dycoke is not None
    assert selected is not None
    assert (uniform.kept, dycoke.kept, selected.kept) == (16, 20, 16)
    assert selected.share is None
    assert uniform.compress_s > 0
    assert uniform.peak_mb > 0


def test_frames_that_an_answer_rests_on():
    shown_N = frames_shown(np.array([0.0, 1.0, 2.0]), [(1.0, 0.5, 4), (2.0, 0.5, 0)])
    assert shown_N.tolist() == [False, True, False]


def test_labelled_seconds():
    assert inside(np.array([0.0, 1.0, 2.0, 3.0]), [(1, 2), (3, 9)]).tolist() == [False, True, False, True]
    assert not inside(np.array([0.0]), []).any()
    assert (share(1, 4), share(0, 0)) == (0.25, None)


def test_the_front():
    points = [(1.0, 0.9), (0.5, 0.9), (0.5, 0.7), (0.25, 0.8), (0.3, 0.8), (0.1, 0.1)]
    assert front(points) == {1, 3, 5}
    assert front([(0.5, 0.7), (0.5, 0.7)]) == {0, 1}


@pytest.fixture
def found():
    """Return a comparison made up: dense, pooling at two budgets, and dycoke between them."""
    ways = [*every_way(("uniform", "dycoke"), (), [50.0]), *every_way(("uniform",), (), [25.0])[1:]]
    reached = [(1.0, 9), (0.5, 8), (0.5, 9), (0.25, 4)]
    tried = [
        Tried(way, [True] * right + [False] * (10 - right), [""] * 10, [int(100 * kept)] * 10, 20, 10)
        for way, (kept, right) in zip(ways, reached, strict=True)
    ]
    tried[1].refused = {"no text": 2}
    world = World(2, 100, tried, Bootstrap(np.repeat([0, 1], 5)), [])
    speed = Speed("tiny", "cpu", 1, 8, 400, [(400, 4.0), (200, 2.0), (100, 1.0)])
    speed.costs = {(way.table, way.name, way.budget_pct): Cost(0.002, 1.5, 200, 0.001) for way in ways[1:]}
    return Found(ways, world, speed, None)


def test_the_document(found):
    document = found.document()
    assert (document["bench"], document["pass"]) == ("compress", True)
    assert document["figures"] == {"entries": 2, "max_cost_share": 0.001}
    dense, uniform, *_ = document["rows"]
    assert dense["compress_ms"] is None
    del uniform["ci95"]
    assert uniform == {
        "table": COMPRESS, "method": "uniform", "budget_pct": 50.0, "retention": 0.5, "accuracy": 0.8,
        "evidence_recall": None, "clip_retention": None, "compress_ms": 2.0, "peak_mb": 1.5,
    }  # fmt: skip


def test_what_does_not_pass(found):
    found.world.wrong = ["uniform told to keep everything: 1 of 10 answers"]
    assert not found.passes
    found.world.wrong = []
    assert found.passes
    found.speed.costs[COMPRESS, "dycoke", 50.0].share = 0.021
    assert not found.passes
    assert "MISSED: no compressor takes more than 2 %" in "\n".join(lines("command", found, ""))


def test_the_report(found, tmp_path):
    clips = Clips(["a.mp4"], 1, "DIR", 4, {})
    clips.left = {
        (way.table, way.name, way.budget_pct): Left([way.budget_pct / 100], 8, 6, 16, [])
        for way in found.ways
    }
    found.clips = clips
    written = "\n".join(lines("the command", found, "compress.png"))
    assert "![Accuracy by retention](compress.png)" in written
    # dycoke at 50 % is right in 9 of 10, pooling in 8: ten points more
    assert "| compressor | dycoke | 50 | 50.0 | 90.0 ± 10.0 | +10.0 | 50.0 | 0 | yes |" in written
    assert "| compressor | uniform | 50 | 50.0 | 80.0 ± " in written
    assert "refused: no text" in written
    assert "| compressor | dycoke | 50 | 50.0 | 75.0 | 50.0 | 0 |" in written
    assert "1 labelled questions" in written
    pytest.importorskip("matplotlib")
    assert draw(found, tmp_path / "plots" / "compress.png")
    assert (tmp_path / "plots" / "compress.png").read_bytes().startswith(b"\x89PNG")


def test_without_the_extra_there_is_no_plot(found, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert not draw(found, tmp_path / "compress.png")
    assert not list(tmp_path.iterdir())


def test_the_command_repeats_the_run(tmp_path):
    assert command(Arguments()) == "reelsift bench compress"
    args = Arguments(videos=2, budgets=(25.0, 12.5), compressors=("dtd", "evs"), media=tmp_path)
    assert command(args) == (
        "reelsift bench compress --videos 2 --budgets 25 12.5 --compressors dtd evs --media DIR"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--videos", "1"], "--videos 1: expected at least 2"),
        (["--budgets", "0"], "--budgets 0: expected a finite number above 0"),
        (["--budgets", "100"], "expected percentages below 100"),
        (["--labels", "a.jsonl"], "give their folder with --media"),
        (["--shape", "huge"], "shape 'huge' is not known"),
        (["--compressors", "nothing"], "--compressors: no entry nothing; known: none, uniform"),
        (["--selectors", "nothing"], "--selectors: no entry nothing; known: relevance"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(words, message):
    with pytest.raises(ConfigError, match=message):
        main(words)
