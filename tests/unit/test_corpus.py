"""The corpus of awkward videos: numbers that survive, files made once, truth at the borders."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import Interpolation

from jobs.corpus import CASES, Case, losses_of, make_corpus, number_in, shown_at
from jobs.corpus_truth import BITS, UNREADABLE, picture
from pipeline.errors import ConfigError

MASTER = "h264_faststart.mp4"


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder for the few files that these tests make."""
    return tmp_path_factory.mktemp("corpus")


def case_of(name: str) -> Case:
    return next(case for case in CASES if case.name == name)


def numbers_and_times(path: Path) -> list[tuple[int, Fraction]]:
    """Return the numbers a plain decode shows at 448x252, with their times from the stream's start."""
    found = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        for frame in container.decode(stream):
            small = frame.reformat(448, 252, "rgb24", interpolation=Interpolation.AREA)
            found.append((number_in(small.to_ndarray()), (frame.pts - stream.start_time) * stream.time_base))
    return found


def rgb(number: int) -> np.ndarray:
    return np.repeat(picture(number)[..., None], 3, axis=2)


class TestNumbers:
    @pytest.mark.parametrize("number", [0, 1, 2**BITS - 1, 0b10101010101010101010, 123456])
    def test_a_picture_shows_its_number(self, number):
        assert number_in(rgb(number)) == number

    @pytest.mark.parametrize("size", [(448, 252), (320, 180), (448, 448), (853, 360), (3840, 2160)])
    def test_a_picture_shows_its_number_at_any_size(self, size):
        frame = av.VideoFrame.from_ndarray(picture(123456), "gray")
        resized = frame.reformat(*size, "rgb24", interpolation=Interpolation.AREA)
        assert number_in(resized.to_ndarray()) == 123456

    def test_black_turned_and_smeared_pictures_show_none(self):
        assert number_in(np.zeros((360, 640, 3), np.uint8)) == UNREADABLE
        assert number_in(np.rot90(rgb(77), 2)) == UNREADABLE
        assert number_in(np.rot90(rgb(77))) == UNREADABLE
        two_at_once = (rgb(77) // 2 + rgb(300) // 2).astype(np.uint8)
        assert number_in(two_at_once) == UNREADABLE


class TestMaking:
    def test_files_are_made_once(self, corpus):
        names = ["empty.mp4", "cut.mp4", MASTER]
        cases = make_corpus(corpus, names=names)
        assert {case.name for case in cases} == set(names)
        before = {path.name: path.stat().st_mtime_ns for path in corpus.iterdir()}
        assert before.keys() >= set(names)
        assert not any(name.startswith(".") for name in before)  # nothing half-written stays
        assert make_corpus(corpus, names=names) == cases
        assert {path.name: path.stat().st_mtime_ns for path in corpus.iterdir()} == before

    def test_what_is_there_needs_no_ffmpeg(self, corpus, monkeypatch):
        make_corpus(corpus, names=[MASTER])
        monkeypatch.setenv("PATH", str(corpus))
        make_corpus(corpus, names=[MASTER])

    def test_missing_ffmpeg_says_what_to_install(self, tmp_path, monkeypatch):
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(ConfigError, match=r"ffmpeg.*none on PATH.*apt-get install ffmpeg"):
            make_corpus(tmp_path, names=[MASTER])
        assert list(tmp_path.iterdir()) == []

    def test_unknown_name_is_refused(self, tmp_path):
        with pytest.raises(ConfigError, match=r"h265\.mp4"):
            make_corpus(tmp_path, names=["h265.mp4"])

    def test_cases_fit_together(self):
        names = [case.name for case in CASES]
        assert len(set(names)) == len(names)
        assert max(len(name.encode()) for name in names) <= 255
        small = [case for case in CASES if case.is_small]
        assert {case.group for case in small} == {"intact", "damaged", "unusable"}
        for case in CASES:
            assert (case.group == "damaged") == bool(case.twin)
            assert (case.group == "unusable") == (case.truth is None)
            assert case.group != "damaged" or case_of(case.twin).group == "intact"


class TestTruth:
    @pytest.mark.parametrize("name", ["vfr.mkv", "edit_list.mp4", "h264_29.97_fps.mp4"])
    def test_every_number_survives_coding_and_comes_when_it_should(self, corpus, name):
        (case,) = make_corpus(corpus, names=[name])
        found = numbers_and_times(corpus / name)
        hidden = [number for number, start_s in found if start_s < 0]
        assert hidden == []
        assert tuple(number for number, _ in found) == case.truth.numbers
        for (number, start_s), after in zip(found, [*case.truth.numbers[1:], None], strict=True):
            assert shown_at(case, float(start_s)) == number
            assert after is None or shown_at(case, float(start_s) + 0.02) == number

    def test_borders(self):
        mp4, mkv = case_of("h264_gop60.mp4"), case_of("h264.mkv")
        assert [shown_at(mp4, t_s) for t_s in (-0.01, 0.0, 1 / 30 - 1e-4, 1 / 30, 299 / 30)] == [
            None,
            0,
            0,
            1,
            299,
        ]
        assert [shown_at(mp4, t_s) for t_s in (9.9999, 10.0, 11.0)] == [299, None, None]
        # Matroska rounds 2/30 s up to 0.067 s
        assert (shown_at(mp4, 2 / 30), shown_at(mkv, 2 / 30), shown_at(mkv, 0.067)) == (2, 1, 2)

    def test_numbers_left_out_are_not_shown(self):
        vfr = case_of("vfr.mp4")
        first, second = next(
            pair
            for pair in zip(vfr.truth.numbers, vfr.truth.numbers[1:], strict=False)
            if pair[1] - pair[0] > 1
        )
        assert shown_at(vfr, (second - 0.5) / 30) == first
        assert shown_at(vfr, second / 30) == second

    def test_edit_list_and_late_start_count_from_what_is_there(self):
        assert [shown_at(case_of("edit_list.mp4"), t_s) for t_s in (0.0, 4.79, 4.8)] == [156, 299, None]
        assert shown_at(case_of("late_start.ts"), 1.0) == 40

    def test_useless_files_show_nothing(self):
        assert shown_at(case_of("text.mp4"), 0.0) is None


class TestLosses:
    def test_a_cut_loses_what_comes_after_it(self, corpus):
        (case,) = make_corpus(corpus, names=["cut.mp4"])
        make_corpus(corpus, names=[case.twin])
        losses = losses_of(corpus, case)
        assert max(losses.whole) < min(losses.lost)
        assert losses.whole == frozenset(range(max(losses.whole) + 1))
        assert (max(losses.whole) + 1) % 60 == 0
        assert 299 in losses.lost

    def test_a_hole_that_no_counter_tells(self, corpus):
        (case,) = make_corpus(corpus, names=["hole.ts"])
        with av.open(str(corpus / case.name)) as container:
            packets = [packet for packet in container.demux(video=0) if packet.size]
        losses = losses_of(corpus, case)
        assert not any(packet.is_corrupt for packet in packets)
        assert len(packets) == 300 - len(losses.lost)
        assert 180 in losses.lost  # a key picture
        assert losses.whole == {*range(120), *range(240, 300)}

    def test_random_bytes_leave_other_groups_alone(self, corpus):
        (case,) = make_corpus(corpus, names=["noise.ts"])
        losses = losses_of(corpus, case)
        assert losses.lost
        assert losses.lost < set(range(120, 180))
        assert losses.whole == set(range(300)) - set(range(120, 180))

    def test_an_intact_copy_loses_nothing(self, corpus):
        make_corpus(corpus, names=["h264.ts", "h264.mkv"])
        for name in ("h264.ts", "h264.mkv"):
            itself = Case(name, lambda *_: None, None, twin=name)
            assert losses_of(corpus, itself).whole == set(range(300))
