"""Comparing and timing an answerer beside itself and beside the library, on tiny models; what counts as passed."""

import dataclasses
import json

import numpy as np
import pytest

from jobs import bench, bench_questions
from jobs.bench_models import build_shape
from jobs.bench_questions import Arguments, command, lacking, load, load_loop, main, measure_memory
from jobs.bench_questions_report import AIMS, Measured, lines, meets
from jobs.bench_questions_time import compare, replaced, time_each
from jobs.bench_windows import THINGS, draw_frames, draw_queries, make_windows, request
from jobs.library_loop import race
from pipeline.errors import ConfigError
from pipeline.frames import FrameSize

ARGS = Arguments(shape="tiny", frames=2, max_new_tokens=4)
SIZE = FrameSize(56, 56)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build_shape("tiny", tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def llm(folder):
    return load(ARGS, folder, "float32")


def asked(llm, num, window=0, kinds=("flag", "choose", "ask")):
    [*_, seen] = make_windows(None, window + 1, 2, llm.parts.frame_size)
    return request(seen, draw_queries(num, kinds), llm.parts.tokens_per_frame)


def test_questions_come_in_turn_and_none_twice():
    queries = draw_queries(64, ("flag", "choose", "ask"))
    assert [query.kind for query in queries[:4]] == ["flag", "choose", "ask", "flag"]
    assert len({query.query_id for query in queries}) == 64
    for kinds in (("ask",), ("flag", "ask", "choose", "ask")):
        assert len({(query.text, query.kind) for query in draw_queries(64, kinds)}) == 64
    with pytest.raises(ConfigError, match="65 questions: expected at most 64"):
        draw_queries(2 * len(THINGS) + 1)


def test_drawn_frames_follow_from_the_seed_and_change():
    first, again, other = (draw_frames(seed, 3, SIZE).data_NHWC for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first[0], first[1])


def test_windows_are_taken_from_the_videos_in_turn(ten_seconds, tmp_path):
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).symlink_to(ten_seconds("mp4"))
    windows = make_windows(tmp_path, 3, 4, SIZE)
    starts_s = [window.start_s for window in windows]
    assert [len(window.evidence) for window in windows] == [4, 4, 4]
    assert starts_s[0] == starts_s[1] < 1 < starts_s[2] < 9
    assert windows[0].evidence_index == (0, 1, 2, 3)
    with pytest.raises(ConfigError, match="2 videos give 0 windows of 400 frames, expected 1"):
        make_windows(tmp_path, 1, 400, SIZE)


def test_together_is_as_alone(llm):
    row = compare(llm, asked(llm, 5))
    assert row["equal"]
    assert row["questions"] == row["same_answers"] == 5
    assert 0 <= row["label_log_error"] < 1e-5


def test_an_answerer_whose_labels_depend_on_the_company_is_found_out(llm):
    def meddle(put):
        def meddled(tree, questions):
            heard = put(tree, questions)
            return [
                dataclasses.replace(one, label_logs=one.label_logs + 2e-4 * len(questions)) for one in heard
            ]

        return meddled

    with replaced(llm.language, "put", meddle):
        row = compare(llm, asked(llm, 5))
    assert row["same_answers"] == 5
    assert row["label_log_error"] > 1e-4
    assert not row["equal"]


def test_rows_say_what_was_computed_and_where_the_time_went(llm):
    requests = {("mix", num): asked(llm, num) for num in (1, 6)}
    one, six = time_each(llm, requests, 2)
    assert (one["questions"], six["questions"]) == (1, 6)
    for row in (one, six):
        assert (row["vision_frames"], row["prefills"]) == (2, 1)
        assert sum(row["stages_s"].values()) == pytest.approx(row["wall_s"], abs=0.01)
        assert all(row["stages_s"][stage] >= 0 for stage in ("encode", "show", "put", "decode"))
    assert one["decode_steps"] == 0
    assert six["decode_steps"] > 0
    assert six["prefill_tokens"] > one["prefill_tokens"]
    assert "encode" not in vars(llm), "the clocks are taken off again"


def test_a_method_wrapped_twice_is_unwrapped_once_each_time():
    class Owner:
        def name(self):
            return "a"

    owner = Owner()
    with replaced(owner, "name", lambda name: lambda: name() + "b"):
        with replaced(owner, "name", lambda name: lambda: name() + "c"):
            assert owner.name() == "abc"
        assert owner.name() == "ab"
    assert owner.name() == "a"


def test_the_loop_over_the_library_gives_the_same_answers(llm, folder):
    loop = load_loop(ARGS, folder, "float32")
    kinds = ("flag", "ask", "choose", "ask")
    requests = [asked(llm, 4, window, kinds) for window in (0, 1)]
    row = race(llm, loop, requests, 1)
    assert (row["windows"], row["questions"], row["same_answers"]) == (2, 8, 8)
    assert row["decode_steps"] == row["loop_decode_steps"] > 0
    # seconds are rounded to milliseconds, and a small model takes some tens of them
    assert row["ratio"] == pytest.approx(row["loop_s"] / row["ours_s"], rel=0.1)


def test_another_answer_is_counted_as_another(llm, folder):
    loop = load_loop(ARGS, folder, "float32")

    def garble(answer):
        return lambda requests: [
            [dataclasses.replace(one, answer=one.answer + "!") for one in found] for found in answer(requests)
        ]

    with replaced(llm, "answer", garble):
        assert race(llm, loop, [asked(llm, 3)], 1)["same_answers"] == 0


def test_figures_pass_within_their_aims_and_never_unmeasured():
    good = {"q16_vs_1": 1.9, "q64_vs_1": 4.0, "batched_vs_loop": 3.0, "estimator_error": 0.05}
    assert set(good) == set(AIMS)
    assert Measured(figures=dict(good), is_equal=[True]).passes
    assert not Measured(figures=dict(good), is_equal=[True, False]).passes
    assert not Measured(figures=dict(good), is_equal=[True], holds=False).passes
    for name in AIMS:
        assert not Measured(figures={**good, name: None}, is_equal=[True]).passes
    assert meets("q16_vs_1", 2.0)
    assert not meets("q16_vs_1", 2.1)
    assert not meets("batched_vs_loop", 2.9)


def test_only_a_run_of_everything_on_videos_is_written_down(tmp_path):
    whole = Arguments(media=tmp_path)
    assert lacking(whole) == []
    assert lacking(dataclasses.replace(whole, skip_memory=True)) == ["--skip-memory"]
    assert lacking(dataclasses.replace(whole, repeats=1)) == ["--repeats not as usual"]
    assert lacking(dataclasses.replace(whole, repeats=9)) == []
    assert lacking(Arguments()) == ["no --media"]
    assert lacking(dataclasses.replace(whole, frames=4, questions=(1,))) == [
        "--questions and --frames not as usual"
    ]


def test_a_short_run_ends_with_one_line_and_leaves_no_report(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["--shape", "tiny", "--questions", "1", "16", "--frames", "2", "--windows", "2"]
    words += ["--max-new-tokens", "3", "--repeats", "1", "--skip-memory"]
    assert bench.main(["questions", *words]) == 1
    printed = capsys.readouterr()
    document = json.loads(printed.out.strip().splitlines()[-1])
    assert document["bench"] == "questions"
    assert document["pass"] is False
    figures = document["figures"]
    assert set(figures) == {"q16_vs_1", "q64_vs_1", "batched_vs_loop", "estimator_error"}
    assert figures["q64_vs_1"] is figures["estimator_error"] is None
    assert figures["q16_vs_1"] > 0
    assert figures["batched_vs_loop"] > 0
    parts = [row["part"] for row in document["rows"]]
    assert parts == ["equality", *["questions"] * 4, "loop equality", "loop"]
    assert [row["equal"] for row in document["rows"] if "equal" in row] == [True, True]
    assert "| mix | 16 |" in printed.err
    assert "not written:" in printed.err
    assert not list(tmp_path.iterdir())


def test_the_largest_error_of_the_estimator_counts_and_so_does_the_budget(monkeypatch):
    errors = {"a": 0.03, "b": -0.07, "c": 0.01}
    sizes = {"weights_bytes": 1e9, "reckoned_bytes": 2e9, "taken_bytes": 2.1e9}
    monkeypatch.setattr("jobs.bench_memory.MEASURED_SHAPES", tuple(errors))
    monkeypatch.setattr(
        "jobs.bench_memory.measure_shape", lambda name, _: {"shape": name, "error": errors[name], **sizes}
    )
    budget = {"budget_bytes": 1.5e9, "tight": sizes, "roomy": sizes, "same_answers": True, "holds": False}
    for refused in (0, 2):
        found = Measured()
        monkeypatch.setattr(
            "jobs.bench_memory.measure_budget", lambda _, refused=refused: {**budget, "refused": refused}
        )
        measure_memory(found)
        assert found.figures["estimator_error"] == 0.07
        assert [row["part"] for row in found.rows] == ["memory"] * 3 + ["budget"]
        assert not found.holds
        report = "\n".join(lines("command", [], 1, found))
        assert "| b | 1.000 | 2.000 | 2.100 | -7.0% |" in report
        assert f"{refused} questions were refused, the answers are the same" in report


def test_the_command_repeats_the_run(tmp_path):
    args = Arguments(media=tmp_path, questions=(1, 16), repeats=5, skip_memory=True)
    assert command(args) == "reelsift bench questions --media DIR --questions 1 16 --repeats 5 --skip-memory"
    assert command(Arguments()) == "reelsift bench questions"


def test_arguments_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="--frames 1: expected at least 2"):
        main(["--frames", "1"])
    with pytest.raises(ConfigError, match=r"--questions \(0,\): expected numbers of at least 1"):
        main(["--questions", "0"])
    with pytest.raises(ConfigError, match="shape 'huge' is not known"):
        main(["--shape", "huge"])


def test_without_the_language_model_weights_are_random_and_said_to_be(monkeypatch, tmp_path):
    from pipeline.errors import ModelError

    built = []
    monkeypatch.setattr(
        "jobs.bench_models.build_shape", lambda _, folder, language: built.append(language) or folder
    )

    def unreachable():
        msg = "no network"
        raise ModelError(msg)

    monkeypatch.setattr("jobs.smollm2.language_model", unreachable)
    found = Measured()
    bench_questions.build(Arguments(), tmp_path, found)
    assert built == [None]
    assert found.language == "random weights, since no network"
