"""Figures of the retrieval bench against slow references, and the bench itself on a made-up video."""

import itertools
import json
from pathlib import Path

import av
import numpy as np
import pytest

from jobs import bench, bench_retrieval
from jobs.__main__ import run_command
from jobs.bench_report import write_report
from jobs.bench_retrieval import Label, chance_precision, evidence_recall, judge, read_labels
from jobs.training.measures import average_precision
from pipeline.errors import ConfigError


@pytest.mark.parametrize(("items", "hits"), [(1, 1), (2, 1), (5, 2), (6, 3), (6, 6)])
def test_chance_is_the_mean_over_all_orders(items: int, hits: int) -> None:
    is_hit_N = np.arange(items) < hits
    found = [average_precision(np.asarray(order), is_hit_N) for order in itertools.permutations(range(items))]
    assert chance_precision(items, hits) == pytest.approx(np.mean(found))


def test_evidence_recall_is_half_open() -> None:
    spans_s = [(0.0, 1.0), (2.0, 3.0)]
    assert evidence_recall([1.0, 3.0], spans_s) == 0
    assert evidence_recall([0.0, 0.5], spans_s) == 0.5
    assert evidence_recall([0.999, 2.0], spans_s) == 1


def test_judge_counts_spans_without_a_frame_as_missed() -> None:
    label = Label("a.mp4", "a dog", ((1.0, 2.0), (2.2, 2.8)))
    relevance_N = np.asarray([0.1, 0.9, 0.2, 0.3], np.float32)
    result = judge(label, np.arange(4.0), relevance_N, relevance_N)
    assert (result.prevalence, result.ap, result.recall[1], result.recall[10]) == (0.25, 1.0, 0.5, 0.5)
    assert result.recall_uniform[1] == 0  # the middle frame, at 2 s
    assert result.ap_chance == pytest.approx(chance_precision(4, 1))


def test_equal_frames_gain_nothing_by_coming_first() -> None:
    label, same_N = Label("a.mp4", "a dog", ((0.0, 1.0),)), np.full(4, 0.5, np.float32)
    assert judge(label, np.arange(4.0), same_N, same_N).ap == pytest.approx(1 / 4)


def test_a_question_without_a_frame_is_none_and_leaves_the_mean_alone() -> None:
    relevance_N = np.asarray([0.1, 0.9], np.float32)
    results = [
        judge(Label("a", "x", (span,)), np.arange(2.0), relevance_N, relevance_N)
        for span in ((0.2, 0.8), (1, 2))
    ]
    assert results[0].ap is None
    assert results[0].recall[10] == 0
    found = bench_retrieval.summary(results)
    assert (found["num_without_a_frame"], found["map"], found["recall"][10]) == (1, 1.0, 0.5)
    assert "NaN" not in json.dumps(found)


@pytest.mark.parametrize(
    "line",
    [
        "not json",
        '{"file": "a.mp4", "query": "x"}',
        '{"file": "a.mp4", "query": "x", "spans_s": []}',
        '{"file": "a.mp4", "query": "x", "spans_s": [[3, 3]]}',
        '{"file": "a.mp4", "query": "x", "spans_s": [[1, 2, 3]]}',
        "[1, 2]",
    ],
)
def test_bad_labels_name_their_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_text('{"file": "a.mp4", "query": "x", "spans_s": [[0, 1]]}\n\n' + line + "\n")
    with pytest.raises(ConfigError, match="line 3"):
        read_labels(path)


def test_labels_that_ship_can_be_read() -> None:
    labels = read_labels(Path(__file__).parents[2] / "examples" / "labels" / "clips.jsonl")
    assert len({(label.file, label.query) for label in labels}) == len(labels) >= 13


def test_missing_video_is_named(tmp_path: Path) -> None:
    labels = tmp_path / "labels.jsonl"
    labels.write_text('{"file": "gone.mp4", "query": "x", "spans_s": [[0, 1]]}\n')
    with pytest.raises(ConfigError, match=r"gone\.mp4"):
        bench_retrieval.main(["--media", str(tmp_path), "--labels", str(labels)])


def test_unknown_bench_is_a_usage_error() -> None:
    with pytest.raises(ConfigError, match=r"known: .*retrieval"):
        bench.main(["retrival"])


def test_finds_when_a_picture_changes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Grass-like noise, then a checkerboard: the bench ranks the board's seconds first and says so in JSON."""
    rng = np.random.default_rng(0)
    rows, columns = np.indices((240, 320)) // 30
    board = np.where((rows + columns) % 2, 255, 0).astype(np.uint8)[..., None].repeat(3, axis=2)
    with av.open(str(tmp_path / "clip.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=2)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for index in range(24):
            grass = np.stack([rng.integers(0, high, (240, 320)) for high in (60, 200, 60)], axis=2).astype(
                np.uint8
            )
            container.mux(stream.encode(av.VideoFrame.from_ndarray(board if index >= 16 else grass, "rgb24")))
        container.mux(stream.encode(None))
    labels = tmp_path / "labels.jsonl"
    labels.write_text(
        '{"file": "clip.mp4", "query": "When is a crossword puzzle visible?", "spans_s": [[8, 12]]}\n'
    )
    report = tmp_path / "report.md"
    arguments = ["retrieval", "--media", str(tmp_path), "--labels", str(labels), "--report", str(report)]
    assert bench.main(arguments) == 0
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert document["questions"][0]["num_frames"] == 12
    assert document["questions"][0]["prevalence"] == pytest.approx(1 / 3)
    assert document["map"] == 1.0 > document["map_chance"]
    assert "crossword" in report.read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("decode --media /no/such/folder", "--media /no/such/folder: cannot be listed"),
        ("decode --media . --long /no/such/file", "--long /no/such/file: no such file"),
        ("decode --media . --seconds 0", "--seconds 0: expected at least 1"),
        ("decode --media . --repeats -1", "--repeats -1: expected at least 1"),
        ("decode --media . --s3 /folder", "expected s3://bucket/prefix"),
        ("mutate --files 0", "--files 0: expected at least 1"),
        ("mutate --workers 0", "--workers 0: expected at least 1"),
        ("mutate --one -1", "--one -1: expected at least 0"),
        ("mutate --timeout-s nan", "--timeout-s nan: expected a finite number above 0"),
        ("mutate --memory-mb 5", "--memory-mb 5: expected at least 128"),
        ("scale --media /no/such/folder", "--media /no/such/folder: cannot be listed"),
        ("cost --media jobs", "--media jobs: found no video, expected files in .mp4"),
        ("scale --media . --copies 0", "--copies 0: expected at least 2"),
        ("scale --media . --files 0", "--files 0: expected at least 1000"),
        ("overhead --media . --turns 0", "--turns 0: expected at least 1"),
        ("overhead --media /no/such/folder", "--media /no/such/folder: cannot be listed"),
        ("scale --media . --window-s -1", "--window-s -1: expected a finite number above 0"),
        ("retrieval --media . --labels /no/such/file", "--labels /no/such/file: cannot be read"),
        ("retrieval --media . --labels x --sample-fps 0", "--sample-fps 0: expected a finite number above 0"),
        ("retrieval --media . --labels x --threshold 2", "--threshold 2: expected at least 0 and at most 1"),
    ],
)
def test_arguments_that_do_not_fit_are_one_line(
    arguments: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(bench.main, arguments.split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_a_video_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no video")
    labels = tmp_path / "labels.jsonl"
    labels.write_text('{"file": "a.mp4", "query": "x", "spans_s": [[0, 1]]}\n')
    with pytest.raises(ConfigError, match=r"a\.mp4 cannot be opened"):
        bench_retrieval.main(["--media", str(tmp_path), "--labels", str(labels)])


def test_only_a_whole_measurement_takes_the_place_of_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_report("decode", ["a part"], None, ["s3 is not measured in full"])
    assert not list(tmp_path.iterdir())
    printed = capsys.readouterr().err
    assert printed.startswith("a part\n")
    assert "not written: s3 is not measured in full" in printed
    write_report("decode", ["a part"], tmp_path / "part.md", ["s3 is not measured in full"])
    assert (tmp_path / "part.md").read_text() == "a part\n"
    write_report("decode", ["the whole"], None)
    (written,) = (tmp_path / "docs" / "benchmarks").iterdir()
    assert written.read_text() == "the whole\n"
