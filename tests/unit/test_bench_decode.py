import json
import sys
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from jobs import bench, bench_decode, bench_decode_s3, bench_decode_speed, decode_peers
from jobs.bench_decode import LONG, SHORT
from jobs.bench_decode_clips import CLIPS, Clip, make_clips
from jobs.bench_decode_corpus import Checked, judge
from jobs.bench_decode_pieces import Measured, read_earlier
from jobs.bench_decode_report import lines
from jobs.bench_decode_s3 import Read
from jobs.bench_decode_speed import CELLS, FLOOR, Cell, Judged, Result, Truth
from jobs.corpus import CASES, Case
from jobs.corpus_truth import picture, timeline
from jobs.decode_peers import Order, measured, thumb
from pipeline.errors import ConfigError
from pipeline.frames import Sample

SECONDS, FPS = 4, 10
HEIGHT_PX, WIDTH_PX = 96, 160
PEERS = ["ours exact", "ours auto", FLOOR, "decord get_batch", "ray read_videos"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four seconds of noise, another one in every picture; a key picture every second."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"g": str(FPS), "crf": "18"})
        stream.width, stream.height, stream.pix_fmt = WIDTH_PX, HEIGHT_PX, "yuv420p"
        for _ in range(SECONDS * FPS):
            coarse = rng.integers(0, 255, (HEIGHT_PX // 16, WIDTH_PX // 16, 3), np.uint8)
            container.mux(
                stream.encode(av.VideoFrame.from_ndarray(coarse.repeat(16, 0).repeat(16, 1), "rgb24"))
            )
        container.mux(stream.encode(None))
    return path


def order(path: Path, *times_s: float) -> Order:
    return Order(str(path), times_s, 1.0, HEIGHT_PX, WIDTH_PX)


@pytest.mark.parametrize("peer", ["ours exact", "PyAV decode all", "decord get_batch"])
def test_peers_deliver_the_pictures_shown_at_the_times(clip: Path, peer: str) -> None:
    times_s = (0.0, 1.0, 2.0, 3.0)
    found, cpu_s, wall_s = measured(decode_peers.PEERS[peer](), order(clip, *times_s))
    thumbs_N = decode_peers.thumbs([picture_HWC for _, picture_HWC in found])
    judged = bench_decode_speed.judge(times_s, [pts_s for pts_s, _ in found], thumbs_N, truth_of(clip), 0.0)
    assert judged == Judged(4, 4, 0, 0)
    assert cpu_s > 0
    assert wall_s > 0


def truth_of(path: Path) -> Truth:
    with av.open(str(path)) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return Truth(np.arange(len(pictures)) / FPS, np.stack([thumb(picture_HWC) for picture_HWC in pictures]))


def a_truth(num: int = 40) -> Truth:
    rng = np.random.default_rng(1)
    return Truth(np.arange(num) / 10, rng.integers(0, 255, (num, 6, 10, 3), np.uint8))


def test_a_picture_of_another_time_is_wrong_whatever_its_peer_says() -> None:
    truth = a_truth()
    times_s = [0.0, 1.0, 2.05]
    right = truth.thumbs_N[[0, 10, 20]]
    assert bench_decode_speed.judge(times_s, [0.0, 1.0, 2.0], right, truth, 0.0) == Judged(3, 3, 0, 0)
    shifted = truth.thumbs_N[[0, 11, 20]]
    assert bench_decode_speed.judge(times_s, [0.0, 1.0, 2.0], shifted, truth, 0.0).num_wrong == 1
    # it says so itself
    assert bench_decode_speed.judge(times_s, [0.0, 1.1, 2.0], shifted, truth, 0.0).num_wrong == 1
    assert bench_decode_speed.judge(times_s, [0.0, 1.1, 2.0], shifted, truth, 0.1) == Judged(3, 3, 0, 1)
    # a resizer's grain is no other picture
    grain = (right.astype(int) + 3).clip(0, 255).astype(np.uint8)
    assert bench_decode_speed.judge(times_s, [0.0, 1.0, 2.0], grain, truth, 0.0).num_wrong == 0
    none = truth.thumbs_N[:0]
    assert bench_decode_speed.judge(times_s, [], none, truth, 0.0) == Judged(3, 0, 3, 0)


def test_only_our_own_policies_may_be_off() -> None:
    often, seldom = Cell(SHORT, 1.0), Cell(LONG, 1.0)
    assert bench_decode_speed.allowed_s("ours near", seldom) == 0.1
    assert bench_decode_speed.allowed_s("ours auto", often) == 1.0
    assert bench_decode_speed.allowed_s("ours auto", seldom) == 0.0
    assert bench_decode_speed.allowed_s("ours auto", Cell(SHORT, 2.0)) == 0.0
    assert bench_decode_speed.allowed_s("ray read_videos", often) == 0.0


def results(ours: float = 6.0, auto: float = 1.0, ray: float = 16.0, decord: float = 10.0) -> dict:
    found = {}
    for cell in (Cell(LONG, 1.0), Cell(SHORT, 1.0)):
        for name, cost in zip(PEERS, (ours, auto, 9.0, decord, ray), strict=True):
            # the median of three
            found[cell, name] = Result([cost, 99.0, cost / 2], [cost] * 3, Judged(60, 60, 0, 0))
    return found


READS = [
    Read("mp4 moov at end", "one group", state, gets, 0, num_bytes, 65_000_000, 100_000)
    for state, gets, num_bytes in (("cold", 3, 1_300_000), ("warm", 1, 107_000))
]
CHECKED = [Checked("a.mp4", "intact", "in order", 100, 100, 0, 0, 0, 0, "", False, 101.2)]


def found(**changes: object) -> Measured:
    return Measured(**{"speed": results(), "corpus": CHECKED, "s3": READS, **changes})


def test_figures_and_verdict() -> None:
    document = bench_decode.summary(found())
    assert document["figures"] == {
        "wrong_frames": 0,
        "exact_vs_decord_gop250_1fps": 0.6,
        "exact_vs_ray_read_videos_gop250_1fps": 0.375,
        "auto_vs_decord_gop30_1fps": 0.1,
        "range_gets_one_gop": 1,
        "range_bytes_ratio": 1.07,
        "worker_peak_mb": 101,
        "worker_peak_heavy_mb": None,
    }
    assert document["pass"]
    assert json.loads(json.dumps(document)) == document


@pytest.mark.parametrize(
    ("changes", "missed"),
    [
        ({"speed": results(ours=7.1)}, "exact_vs_decord"),
        ({"speed": results(auto=4.1)}, "auto_vs_decord"),
        ({"speed": results(ray=11.9)}, "read_videos"),
        ({"speed": results(ours=10.4)}, "costs 1.04 x decord"),
        (
            {"corpus": [Checked("a.mp4", "intact", "in order", 100, 100, 1, 0, 0, 0, "", False, 101.2)]},
            "wrong_frames",
        ),
        (
            {"corpus": [Checked("a.mp4", "intact", "in order", 100, 99, 0, 0, 0, 1, "", False, 101.2)]},
            "lacking",
        ),
        (
            {"corpus": [Checked("a.mp4", "intact", "in order", 100, 100, 0, 0, 0, 0, "", False, 200.0)]},
            "worker_peak_mb",
        ),
        ({"s3": [Read("mp4 moov at end", "one group", "warm", 2, 0, 100, 999, 100)]}, "range_gets"),
        ({"s3": [Read("mp4 moov at end", "one group", "warm", 1, 0, 120, 999, 100)]}, "range_bytes"),
    ],
)
def test_every_missed_aim_fails_and_is_named(changes: dict[str, object], missed: str) -> None:
    document = bench_decode.summary(found(**changes))
    assert not document["pass"]
    assert any(missed in line for line in document["missed"])


def test_wrong_pictures_of_ours_fail_and_those_of_others_are_told() -> None:
    for name, is_fine in (("ours exact", False), ("decord get_batch", True)):
        speed = results()
        speed[Cell(LONG, 1.0), name].judged = Judged(60, 60, 7, 0)
        document = bench_decode.summary(found(speed=speed))
        assert document["pass"] is is_fine
        assert sum(row["judged"]["num_wrong"] for row in document["rows"] if row["part"] == "speed") == 7


def test_parts_that_were_not_run_are_none_and_fail_nothing() -> None:
    document = bench_decode.summary(Measured(s3_skipped="not measured: no --s3"))
    assert set(document["figures"].values()) == {None}
    assert document["pass"]
    text = "\n".join(
        lines("reelsift bench decode", 60, Measured(s3_skipped="not measured: no --s3"), document)
    )
    assert "not measured: no --s3" in text


def test_report_names_peers_that_gave_nothing() -> None:
    speed = results()
    for cell in (Cell(LONG, 1.0), Cell(SHORT, 1.0)):
        speed[cell, "ray read_videos"] = Result(
            unable="not installed (ModuleNotFoundError: No module named 'x')"
        )
    document = bench_decode.summary(found(speed=speed))
    text = "\n".join(lines("reelsift bench decode", 60, found(speed=speed), document))
    assert "No module named 'x'" in text
    assert document["figures"]["exact_vs_ray_read_videos_gop250_1fps"] is None
    assert "| 1080p_h264_gop250 | 1 | 6.00 | 1.00 | 9.00 | 10.00 | - |" in text


def test_a_measurement_in_pieces_is_that_of_all(tmp_path: Path) -> None:
    whole = found(s3=[])
    halves = [
        Measured(
            speed={key: Result(r.cpu_s[part], r.wall_s[part], r.judged) for key, r in whole.speed.items()}
        )
        for part in (slice(0, 1), slice(1, 3))
    ]
    halves[1].corpus = CHECKED
    paths = []
    for index, half in enumerate(halves):
        paths.append(tmp_path / f"{index}.json")
        paths[-1].write_text("a line before\n" + json.dumps(bench_decode.summary(half)) + "\n")
    joined = Measured()
    read_earlier(joined, paths)
    assert bench_decode.summary(joined) == bench_decode.summary(whole)
    (tmp_path / "other").write_text("{}")
    with pytest.raises(ConfigError, match="other"):
        read_earlier(Measured(), [tmp_path / "other"])


def test_a_program_that_is_not_there_is_told(clip: Path) -> None:
    peer = bench_decode_speed.Peer("daft read_video_frames", sys.executable)
    try:
        if peer.trouble:
            assert "not installed" in peer.trouble
            assert peer.ask(order(clip, 0.0)) == {"unable": peer.trouble}
        else:
            assert len(peer.ask(order(clip, 0.0, 1.0, 2.0, 3.0))["pts_s"]) == 4
    finally:
        peer.close()


CASE = Case("x.mp4", lambda _find, _path: None, timeline(range(60)))
DAMAGED = Case("y.mp4", lambda _find, _path: None, timeline(range(60)), "damaged", twin="x.mp4")


def rgb(number: int) -> np.ndarray:
    return picture(number)[..., None].repeat(3, axis=2)


def a_sample(wanted_s: float, pts_s: float, quality: str = "ok") -> Sample:
    return Sample(wanted_s, pts_s, 0.0, is_key=False, quality=quality, reason="")


def test_pictures_of_the_corpus_are_judged_by_number_and_pixel() -> None:
    twins = {number: rgb(number) for number in range(60)}
    ok = a_sample(1.01, 1.0)
    assert judge(CASE, ok, rgb(30), {}) == "right"
    assert judge(CASE, ok, rgb(29), {}) == "wrong"
    assert judge(CASE, a_sample(2.4, 2 - 1 / 30), rgb(59), {}) == "right"  # the last one, for a moment
    assert judge(DAMAGED, ok, rgb(30), twins) == "right"
    smeared = rgb(30)
    smeared[-1, -1] += 1
    assert judge(DAMAGED, ok, smeared, twins) == "wrong"
    assert judge(DAMAGED, a_sample(1.01, 0.5), rgb(15), twins) == "late"
    assert judge(DAMAGED, a_sample(1.01, 0.5, "stale"), rgb(15), twins) == "right"
    assert judge(DAMAGED, a_sample(1.01, 0.5, "stale"), rgb(16), twins) == "wrong"


def test_the_middle_group_of_a_clip(clip: Path) -> None:
    start_s, end_s, num_bytes = bench_decode_s3.middle_group(clip)
    assert (start_s, end_s) == (pytest.approx(2.0), pytest.approx(3.0))
    assert 0 < num_bytes < clip.stat().st_size


def test_clips_differ_in_name_and_need_footage(tmp_path: Path) -> None:
    assert len({clip.name for clip in CLIPS}) == len(CLIPS) == 8
    assert len({cell.name for cell in CELLS}) == 24
    (tmp_path / "notes.md").write_text("no video")
    with pytest.raises(ConfigError, match="holds no video"):
        make_clips(tmp_path, tmp_path / "clips", [Clip(360, 30, "h264")], 1)


@pytest.mark.parametrize("arguments", [["--only", "sped"], ["--only", "speed", "--cells", "720p"]])
def test_arguments_that_do_not_fit_are_usage_errors(tmp_path: Path, arguments: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"--only|--cells"):
        bench.main(["decode", "--media", str(tmp_path), *arguments])


def test_command_without_a_store_skips_s3_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "report.md"
    arguments = ["--media", str(tmp_path), "--only", "s3", "--report", str(report)]
    assert bench.main(["decode", *arguments]) == 0
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (document["bench"], document["pass"], document["rows"]) == ("decode", True, [])
    assert "no --s3" in report.read_text()
    assert str(tmp_path) not in report.read_text()


def test_a_run_of_a_part_keeps_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert bench.main(["decode", "--media", ".", "--only", "s3"]) == 0
    assert not list(tmp_path.iterdir())


def test_a_measurement_is_whole_with_every_cell_peer_file_and_s3() -> None:
    everything = Measured(
        speed={(cell, name): Result([1.0], [1.0]) for cell in CELLS for name in decode_peers.PEERS},
        corpus=[
            Checked(case.name, case.group, "in order", 1, 1, 0, 0, 0, 0, "", False, 1.0)
            for case in CASES
            if case.truth
        ],
        s3=READS,
    )
    assert everything.lacking() == []
    without_a_cell = {key: result for key, result in everything.speed.items() if key[0] != CELLS[0]}
    without_a_peer = {key: result for key, result in everything.speed.items() if "decord" not in key[1]}
    unmeasured = {key: Result() for key in everything.speed}  # it was interrupted before the first one
    for speed in ({}, without_a_cell, without_a_peer, unmeasured):
        assert replace(everything, speed=speed).lacking() == ["speed is not measured in full"]
    assert replace(everything, corpus=everything.corpus[1:]).lacking() == ["corpus is not measured in full"]
    assert replace(everything, s3=[]).lacking() == ["s3 is not measured in full"]
