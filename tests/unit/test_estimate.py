"""The estimate before a run: real videos, the real stages, no Ray. Seconds are not asserted, counts are."""

import json
import math

import pytest

from actors.models import video_llm
from jobs import calibrate, costs, estimate
from jobs.costs import CostOptions
from jobs.resolve import resolve
from pipeline import ledger, rows, sink, stages
from pipeline.answered import open_windows
from pipeline.config import AnswerConfig, JobConfig, PlanConfig, ScoreConfig, WindowConfig
from pipeline.cost import STAGES
from pipeline.errors import ConfigError
from pipeline.isolation import Reader
from pipeline.ledger import Run
from pipeline.listing import list_videos
from pipeline.queries import Query
from tests import tiny_models, videos

SECONDS = (4, 5, 6, 9)
CONFIG = JobConfig(window=WindowConfig(length_s=4.0, sample_fps=2.0))
QUERIES = [Query("dog", "a dog", "find"), Query("car", "a car", "flag")]
NUM_WINDOWS = 1 + 2 + 2 + 3
NUM_FRAMES = 2 * sum(SECONDS)


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    folder = tmp_path_factory.mktemp("archive")
    for seconds in SECONDS:
        # one long group of pictures: windows are not moved to key pictures
        videos.write_video(folder / f"{seconds}.mp4", numbers=range(seconds * 30), gop=1000)
    (folder / "broken.mp4").write_bytes(b"no video")
    return str(folder)


@pytest.fixture(autouse=True)
def one_scorer(monkeypatch):
    """The real scorer, loaded once per set of questions and not once per test; all files and pieces, however slow."""
    monkeypatch.setattr(estimate, "MOST_S", math.inf)
    monkeypatch.setattr(calibrate, "MOST_WALL_S", math.inf)
    monkeypatch.setattr(calibrate, "MOST_CPU_S", math.inf)
    monkeypatch.setattr(calibrate, "_scorer", _scorer)


def _scorer(config, queries, plan, *, loads):
    if str(queries) not in _scorers:
        _scorers[str(queries)] = LOAD(config, queries, plan, loads=loads)
    return _scorers[str(queries)]


LOAD = calibrate._scorer
_scorers = {}


def estimated(archive, out, config=CONFIG, costing=None, queries=QUERIES, earlier=None):
    plan = resolve(config, list(queries))
    listing = estimate.list_new(archive, str(out))
    costing = costing or CostOptions()
    return estimate.estimate(str(out), listing, queries, config, plan, costing, earlier)


def test_what_is_probed_whole_is_counted_exactly(archive, tmp_path):
    made = estimated(archive, tmp_path / "out")
    assert made["files"] == {"found": 5, "new": 5, "probed": 5, "unusable": 1}
    expected = {
        "windows": NUM_WINDOWS,
        "answers": 2 * NUM_WINDOWS,
        "frames_planned": NUM_FRAMES,
        "read_bytes": 0,
    }
    for name, value in expected.items():
        assert made["counts"][name] == {"low": value, "mid": value, "high": value}, name
    assert made["counts"]["video_h"]["mid"] == pytest.approx(sum(SECONDS) / 3600, rel=1e-3)
    assert made["counts"]["tokens_dense"]["mid"] == 0
    for name in ("probe", "decode", "score", "answer", "write"):
        assert made["stages"][name]["source"] == "measured here"
        assert made["stages"][name]["cpu_s"]["mid"] > 0
    assert made["stages"]["evidence"]["source"] == "not needed"
    assert 0 < made["total"]["low"] < made["total"]["expected_spot"] < made["total"]["expected_on_demand"]
    assert made["total"]["expected_on_demand"] < made["total"]["high"]
    assert not list(tmp_path.iterdir()), "an estimate writes nothing"


def test_a_sample_stands_for_the_rest_and_says_so(archive, tmp_path, monkeypatch):
    monkeypatch.setattr(estimate, "MOST_FILES", 3)
    made = estimated(archive, tmp_path / "out")
    assert made["files"]["probed"] == 3
    hours = made["counts"]["video_h"]
    assert hours["low"] < sum(SECONDS) / 3600 < hours["high"]
    assert estimated(archive, tmp_path / "out")["counts"]["windows"] == made["counts"]["windows"], "seeded"


def test_what_is_done_is_not_counted(archive, tmp_path):
    out = tmp_path / "out"
    run = Run(str(out), "20260101T000000-aaaaaa")
    reader = Reader(CONFIG.decode, CONFIG.window)
    done, half = (file for file in list_videos(archive) if file["uri"].endswith(("4.mp4", "9.mp4")))
    probed = [{**file, **stages.probe(reader, file)} for file in (done, half)]
    [part] = rows.to_rows(sink.stage_videos(run.staging, run.run_id, rows.to_table(probed, rows.PROBED)))
    ledger.commit(run, part)
    listing = estimate.list_new(archive, run.out)
    windows = list(open_windows(run, QUERIES, listing.keys))
    assert [window["video_id"] for window in windows].count(done["video_id"]) == 1
    answered = [
        {"window_id": window["window_id"], "query_id": query.query_id, "frames_seen": 8}
        for window in windows
        for query in QUERIES
        if window["video_id"] == done["video_id"] or (window["start_s"] == 0 and query.query_id == "dog")
    ]
    table = rows.to_table(answered, rows.ANSWERS)
    ledger.commit(run, sink.stage_part(run.staging, {"answers": table}, ["a"], {}))
    made = estimated(archive, out)
    assert made["files"] == {"found": 5, "new": 3, "probed": 3, "unusable": 1}
    assert made["counts"]["windows"]["mid"] == NUM_WINDOWS - 1
    assert made["counts"]["answers"]["mid"] == 2 * (NUM_WINDOWS - 1) - 1
    assert made["counts"]["frames_planned"]["mid"] == NUM_FRAMES - 8


def test_a_finished_archive_costs_nothing_more(tmp_path):
    listing = estimate.Listing(num_found=1)
    plan = resolve(CONFIG, QUERIES)
    made = estimate.estimate(str(tmp_path / "out"), listing, QUERIES, CONFIG, plan, CostOptions())
    assert made["total"] == {"low": 0, "high": 0, "expected_spot": 0, "expected_on_demand": 0}
    assert made["per_video_hour"] is None


def bill(**stages_s):
    """Return the bill of an earlier run over 100 windows of 10 s with 1,000 frames."""
    stage = {"busy_s": 0.0, "gpu_s": 0.0, "dollars": {}}
    return {
        "run_id": "r1",
        "counts": {"videos": 10, "video_h": 1000 / 3600, "video_decoded_s": 1000, "frames_scored": 1000,
                   "answers": 200, "prefill_tokens": 0, "windows": 100, "windows_from_index": 0},
        "stages": {name: {**stage, "cpu_s": stages_s.get(name, 0.0)} for name in STAGES},
    }  # fmt: skip


def test_an_earlier_run_goes_first_where_it_says_enough(archive, tmp_path):
    made = estimated(archive, tmp_path / "out", earlier=bill(score=50.0, decode=0.5))
    assert made["stages"]["score"]["source"] == "from run r1"
    assert made["stages"]["score"]["cpu_s"]["mid"] == pytest.approx(
        0.05 * made["counts"]["frames_seen"]["mid"], rel=0.01
    )
    assert made["stages"]["decode"]["source"] == "measured here", "half a second says nothing"


def test_what_would_have_to_be_downloaded_is_not_loaded():
    plan = resolve(CONFIG, QUERIES)
    assert LOAD(JobConfig(score=ScoreConfig(model="somebody/siglip")), QUERIES, plan, loads=False) is None


def test_a_scorer_that_is_not_there_is_guessed(archive, tmp_path, monkeypatch):
    monkeypatch.setattr(calibrate, "_scorer", lambda *_, **__: None)
    made = estimated(archive, tmp_path / "out")
    assert made["stages"]["score"]["source"] == "default, rough"
    seconds = made["stages"]["score"]["cpu_s"]
    assert seconds["high"] == pytest.approx(9 * seconds["low"], rel=0.01)
    assert made["stages"]["decode"]["source"] == "measured here"
    assert made["counts"]["written_bytes"]["mid"] > 0


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """16 visual tokens a frame."""
    return str(tiny_models.build("smolvlm", tmp_path_factory.mktemp("model")))


def with_model(model, **plan):
    answer = AnswerConfig(model=model, frame_px=96, dtype="float32", max_new_tokens=4)
    return JobConfig(window=CONFIG.window, answer=answer, plan=PlanConfig(budget_tokens=32, **plan))


def test_tokens_follow_from_plans_and_no_language_model_is_loaded(model, archive, tmp_path, monkeypatch):
    monkeypatch.setattr(video_llm, "load_model", None)
    asked = [*QUERIES, Query("why", "What happens here, and in which order?", "ask")]
    made = estimated(archive, tmp_path / "out", with_model(model), queries=asked)
    counts = made["counts"]
    assert counts["model_answers"]["mid"] == 2 * NUM_WINDOWS
    per_frame = resolve(with_model(model), asked).answerer_facts.tokens_per_frame
    assert counts["tokens_dense"]["mid"] == pytest.approx(
        2 * per_frame * counts["frames_seen"]["mid"], rel=0.01
    )
    assert 0 < counts["tokens_used"]["mid"] <= 2 * NUM_WINDOWS * 32
    assert made["stages"]["answer"]["source"] == "default, rough"
    assert made["stages"]["answer"]["unit"] == "token"
    assert made["stages"]["evidence"]["source"] == "measured here"


def test_routes_that_a_model_will_decide_leave_tokens_open(model, archive, tmp_path):
    known = estimated(archive, tmp_path / "out", with_model(model))["counts"]["tokens_used"]
    config = with_model(model, router="llm", scale_background=2)
    found = estimated(archive, tmp_path / "out", config)["counts"]["tokens_used"]
    assert found["high"] - found["low"] >= known["high"] - known["low"]


def test_calibration_loads_the_model_and_measures_it(model, archive, tmp_path):
    made = estimated(archive, tmp_path / "out", with_model(model), CostOptions(calibrate=True))
    assert made["stages"]["answer"]["source"] == "measured here"
    assert made["stages"]["answer"]["cpu_s"]["mid"] > 0
    assert made["counts"]["prefill_tokens"]["mid"] > 0


def test_a_scorer_on_gpus_is_not_measured_on_a_cpu(archive, tmp_path):
    from pipeline.config import PoolConfig

    pool = PoolConfig(device="cuda", num_gpus=0.5)
    config = JobConfig(window=CONFIG.window, score=ScoreConfig(pool=pool), answer=AnswerConfig(pool=pool))
    stages = estimated(archive, tmp_path / "out", config)["stages"]
    assert stages["score"]["source"] == "default, rough"
    assert stages["score"]["gpu_s"]["mid"] > 0
    assert "cpu_s" in stages["answer"], "without a model tasks answer"


def test_the_page_has_a_line_for_everything_that_takes_time(archive, tmp_path, capsys):
    plan = resolve(CONFIG, QUERIES)
    assert estimate.dry_run(archive, str(tmp_path / "out"), QUERIES, CONFIG, plan, CostOptions()) == 0
    told, err = capsys.readouterr()
    assert json.loads(told)["estimate"]["counts"]["windows"]["mid"] == NUM_WINDOWS
    lines = [line.split() for line in err.partition("\n}\n")[2].splitlines() if line]
    assert {"files", "video", "frames", "answers", "bytes", "decode", "score", "cost"} <= {
        line[0] for line in lines
    }


def test_rates_from_a_place_without_any_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"--rates-from .*: found no cost\.json"):
        costs.earlier(str(tmp_path), str(tmp_path / "elsewhere"))
