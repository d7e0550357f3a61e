"""A corpus of awkward video files of which every picture is known: intact, damaged and useless ones.

Each file stands for one way in which containers and codecs surprise a reader. Every picture carries its number
(corpus_truth.py), so what a decoder delivers can be judged exactly, and what it may deliver from a damaged file can
be compared pixel by pixel with the intact file it was made from. The files are made with the ffmpeg program: it
writes what PyAV cannot, and is not the reader under test.
"""

import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal, TypeAlias

from jobs import corpus_recipes as made
from jobs.corpus_recipes import COPY, SOME, USUAL, Make, change, content, encode, remux, vpx, x264, x265
from jobs.corpus_truth import Losses, Timeline, losses, number_in, timeline
from pipeline.errors import ConfigError

__all__ = ["CASES", "Case", "losses_of", "make_corpus", "number_in", "shown_at"]

Verdict: TypeAlias = Literal["ok", "truncated", "damaged", "unreadable", "no_video"]

NTSC = Fraction(30000, 1001)
MILLISECOND = Fraction(1, 1000)
"""The tick of Matroska, WebM and Flash files, to which they round."""
TEN_S, ROUNDED = timeline(USUAL), timeline(USUAL, tick_s=MILLISECOND)
FIVE_S = timeline(range(150))
FEW = range(150)
H264, FAST = "h264_gop60.mp4", "h264_faststart.mp4"
"""The files that most others are made from."""


@dataclass(frozen=True, slots=True)
class Case:
    """One file of the corpus."""

    name: str
    """The file's name in the corpus folder."""
    make: Make
    truth: Timeline | None
    """What is shown when; None if there are no pictures. Of a damaged file: what may be shown, if anything is."""
    group: Literal["intact", "damaged", "unusable"] = "intact"
    verdicts: tuple[Verdict, ...] = ("ok",)
    """What a probe should say; after the first, what one that decodes next to nothing may say instead."""
    twin: str = ""
    """The intact file whose pictures a damaged one must show, pixel by pixel."""
    is_small: bool = False
    """Part of the small corpus, in which each mechanism is met at least once."""
    is_heavy: bool = False
    """Its reference pictures alone take most of the memory that decoding is to get along with."""
    off_s: float = 0.0
    """By how much a picture's time may be off, where the container does not tell better."""
    note: str = ""
    """What is awkward about it, and which exception is made for it."""


def make_corpus(folder: Path, *, names: Collection[str] | None = None, small: bool = False) -> list[Case]:
    """Make the files that are missing and return their cases in the order of CASES.

    A file that is there is kept whatever it holds: after a change of its recipe, take another folder. A file
    appears under its name only when it is complete. The files that one is made from are made as well.

    Args:
        folder: where the files lie; made if missing.
        names: only these; all of them by default.
        small: only those of the small corpus.

    Raises:
        ConfigError: there is no case of that name, or the ffmpeg program is missing or lacks an encoder.
    """
    if unknown := set(names or ()) - {case.name for case in CASES}:
        msg = f"no corpus file is called {sorted(unknown)}; known: {[case.name for case in CASES]}"
        raise ConfigError(msg)
    chosen = [
        case for case in CASES if (names is None or case.name in names) and (case.is_small or not small)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    recipes = {case.name: case.make for case in CASES}

    def find(name: str) -> Path:
        path = folder / name
        if not path.exists():
            with tempfile.TemporaryDirectory(prefix=".making-", dir=folder) as making:
                unfinished = Path(making) / f"made{path.suffix}"
                recipes[name](find, unfinished)
                unfinished.replace(path)
        return path

    for case in chosen:
        find(case.name)
    return chosen


def shown_at(case: Case, t_s: float) -> int | None:
    """Return the number shown `t_s` seconds after the stream's start; None before, after, or without pictures."""
    return case.truth.at(t_s) if case.truth else None


def losses_of(folder: Path, case: Case) -> Losses:
    """Return which pictures a damaged file has lost and which nothing touched; both files must be there."""
    return losses(folder / case.twin, folder / case.name)


def _coded() -> list[Case]:
    """Return files that differ in how pictures are coded."""
    long, still = range(600), timeline(range(20), Fraction(1))
    hvc1 = ("-tag:v", "hvc1")
    odd, large = ("-vf", "scale=641:361:flags=neighbor"), ("-vf", "scale=3840:2160:flags=neighbor")
    return [
        Case(H264, encode(*x264()), TEN_S, is_small=True, note="the moov box is the last one"),
        Case("h264_gop12.mp4", encode(*x264(12, 2)), TEN_S),
        Case("h264_gop30_no_b.mp4", encode(*x264(30, 0)), TEN_S),
        Case("h264_gop250.mp4", encode(*x264(250), numbers=long), timeline(long)),
        Case("h264_open_gop.mp4", encode(*x264(48, extra=":open-gop=1")), TEN_S, is_small=True),
        Case("h264_intra_refresh.mp4", encode(*x264(100, 0, extra=":intra-refresh=1")), TEN_S, is_small=True,
             note="one IDR picture, then recovery points only"),
        Case("h264_hi10.mp4", encode(*x264(pix_fmt="yuv420p10le")), TEN_S),
        Case("h264_422.mp4", encode(*x264(pix_fmt="yuv422p")), TEN_S),
        Case("h264_444_odd_size.mp4", encode(*x264(pix_fmt="yuv444p"), *odd), TEN_S),
        Case("h264_interlaced.mp4", encode(*x264(extra=":interlaced=1"), "-flags", "+ilme+ildct"), TEN_S),
        Case("h264_60_fps.mp4", encode(*x264(), fps=Fraction(60)), timeline(USUAL, Fraction(60))),
        Case("h264_29.97_fps.mp4", encode(*x264(), fps=NTSC), timeline(USUAL, NTSC)),
        Case("h264_rotated.mp4", made.rotated, TEN_S, is_small=True, note="stored as 360x640, shown as 640x360"),
        Case("h264_still.mp4", encode(*x264(), numbers=[0] * 20, fps=Fraction(1)),
             Timeline((0,) * 20, still.starts_s, still.end_s), note="one picture held for 20 s"),
        Case("hevc_open_gop.mp4", encode(*x265(extra=":open-gop=1"), *hvc1), TEN_S, is_small=True),
        Case("hevc_closed_gop.mkv", encode(*x265(extra=":open-gop=0")), ROUNDED),
        Case("hevc_10bit.mp4", encode(*x265(pix_fmt="yuv420p10le"), *hvc1, numbers=FEW), FIVE_S),
        Case("hevc_10bit_4k.mp4",
             encode(*x265(24, "yuv420p10le", ":bframes=0:ref=1"), *large, *hvc1, numbers=range(72), fps=Fraction(24)),
             timeline(range(72), Fraction(24)), note="as cameras write it, without reordered pictures"),
        Case("hevc_10bit_4k_reordered.mp4",
             encode(*x265(24, "yuv420p10le"), *large, *hvc1, numbers=range(72), fps=Fraction(24)),
             timeline(range(72), Fraction(24)), is_heavy=True, note="asks of any decoder to hold 5 pictures of 25 MB"
             " (sps_max_dec_pic_buffering), and their motion"),
        Case("vp8.webm", encode(*vpx("libvpx")), ROUNDED),
        Case("vp9.webm", encode(*vpx("libvpx-vp9")), ROUNDED),
        Case("vp9_odd_size.webm", encode(*vpx("libvpx-vp9"), *odd), ROUNDED),
        Case("av1.mp4", encode("-c:v", "libsvtav1", "-preset", "12", "-g", "60", "-crf", "40", numbers=FEW),
             FIVE_S, is_small=True),
        Case("mpeg4.avi", encode("-c:v", "mpeg4", "-q:v", "3", "-g", "60"), TEN_S),
        Case("xvid_b.avi", encode("-c:v", "libxvid", "-q:v", "3", "-g", "60", "-bf", "2"), TEN_S,
             is_small=True, off_s=0.134, note="AVI keeps no presentation times: pictures may be 4 places off, and the"
             " last two are missing"),
        Case("mjpeg.avi", encode("-c:v", "mjpeg", "-q:v", "3", "-pix_fmt", "yuvj420p", numbers=FEW), FIVE_S),
        Case("mpeg2.ts", encode("-c:v", "mpeg2video", "-q:v", "3", "-g", "15", "-bf", "2"), TEN_S),
        Case("prores.mov", encode("-c:v", "prores", "-pix_fmt", "yuv422p10le", numbers=range(90)),
             timeline(range(90))),
    ]  # fmt: skip


def _contained() -> list[Case]:
    """Return files that differ in how coded pictures are contained, timed and named."""
    fragments = ("-movflags", "+frag_keyframe+empty_moov+default_base_moof")
    vfr = timeline(SOME)
    long_mkv = timeline(range(600), tick_s=MILLISECOND)
    odd_names = (
        "with spaces.mp4", "up..and..down.mp4", "new\nline.mp4", "é 日本 🎥.mp4", f"{'long' * 49}.mp4"
    )  # fmt: skip
    return [
        Case(FAST, remux(H264, *COPY, "-movflags", "+faststart"), TEN_S, is_small=True),
        Case("h264_fragmented.mp4", remux(H264, *COPY, *fragments), TEN_S),
        Case("h264.mkv", remux(H264, *COPY), ROUNDED, is_small=True),
        Case("h264_gop250.mkv", remux("h264_gop250.mp4", *COPY), long_mkv),
        Case("h264.ts", remux(H264, *COPY), TEN_S, is_small=True),
        Case("h264_no_b.ts", remux("h264_gop30_no_b.mp4", *COPY), TEN_S),
        Case("h264_open_gop.ts", remux("h264_open_gop.mp4", *COPY), TEN_S, is_small=True),
        Case("h264.m2ts", remux(H264, *COPY, "-f", "mpegts", "-mpegts_m2ts_mode", "1"), TEN_S,
             note="packets of 192 bytes"),
        Case("h264.flv", remux(H264, *COPY), ROUNDED),
        Case("h264_aspect_4_3.mp4", remux(H264, *COPY, "-bsf:v", "h264_metadata=sample_aspect_ratio=4/3"), TEN_S),
        Case("edit_list.mp4", remux(H264, *COPY, before=("-ss", "5.2")), timeline(range(156, 300)),
             is_small=True, note="begins at picture 120, of which an edit list hides all before 156"),
        Case("starts_at_100_s.mkv", remux(H264, *COPY, "-output_ts_offset", "100"), ROUNDED, is_small=True),
        Case("sound_is_longer.mp4", remux(H264, *made.TONE, "-c:v", "copy", "-c:a", "aac"), TEN_S),
        Case("vfr.mp4", encode(*made.KEEP_SOME, *x264()), vfr),
        Case("vfr.mkv", encode(*made.KEEP_SOME, *x264()), timeline(SOME, tick_s=MILLISECOND), is_small=True),
        Case("vfr.ts", encode(*made.KEEP_SOME, *x264()), vfr),
        Case("size_change.ts", made.size_change, TEN_S, is_small=True, note="640x360, from 5 s on 320x180"),
        Case("one_frame.mp4", encode(*x264(), numbers=[0]), timeline([0])),
        *(Case(name, change(H264, bytes), TEN_S) for name in odd_names),
    ]  # fmt: skip


def _damaged() -> list[Case]:
    """Return files whose pictures must equal those of their intact twins, as far as they are shown at all."""

    def case(
        name: str,
        make: Make,
        twin: str,
        *verdicts: Verdict,
        truth: Timeline = TEN_S,
        small: bool = False,
        note: str = "",
    ) -> Case:
        return Case(name, make, truth, "damaged", verdicts, twin, is_small=small, note=note)

    mkv, ts = "h264.mkv", "h264.ts"
    unseen = "its ends are whole: what is missing in the middle is only met by reading all of it"
    return [
        case("cut.mp4", change(FAST, made.cut), FAST, "truncated", small=True),
        case("cut.mkv", change(mkv, made.cut), mkv, "truncated", truth=ROUNDED),
        case("cut.ts", change(ts, made.cut), ts, "truncated", "ok", note="nothing tells that more was there"),
        case("cut_ragged.ts", change(ts, made.ragged_cut), ts, "truncated", small=True,
             note="ends inside a transport packet"),
        case("noise.mp4", change(FAST, made.noise), FAST, "damaged", "ok", small=True, note=unseen),
        case("noise.mkv", change(mkv, made.noise), mkv, "damaged", "ok", truth=ROUNDED, small=True, note=unseen),
        case("noise.ts", change(ts, made.noise), ts, "damaged", "ok", small=True, note=unseen),
        case("zeros.mp4", change(FAST, made.zeros), FAST, "damaged", "ok", note=unseen),
        case("hole.mkv", change(mkv, made.cluster_hole), mkv, "damaged", "ok", truth=ROUNDED, small=True,
             note="a whole group is gone, no error anywhere: times jump, and the file is shorter than it says"),
        case("hole_ragged.mkv", change(mkv, made.ragged_hole), mkv, "damaged", "ok", truth=ROUNDED),
        case("hole.ts", change(ts, made.quiet_hole), ts, "damaged", "ok", small=True,
             note="two seconds and a key picture are gone, no error anywhere: only times jump"),
        case("hole_ragged.ts", change(ts, made.ragged_hole), ts, "damaged", "ok"),
        case("clock_restart.ts", made.clock_restart, ts, "damaged", small=True,
             note="from 4 s on its times are those of the beginning again: either missing, or shown as if the clock"
             " had gone on, but never at the times of the first four seconds"),
        case("late_start.ts", change("h264_no_b.ts", made.late_start), "h264_no_b.ts", "damaged", small=True,
             truth=timeline(range(10, 300)), note="begins inside a group: nothing can be shown before picture 30"),
    ]  # fmt: skip


def _unusable() -> list[Case]:
    """Return files without a picture that has a time."""

    def case(name: str, make: Make, *verdicts: Verdict, small: bool = False, note: str = "") -> Case:
        return Case(name, make, None, "unusable", verdicts, is_small=small, note=note)

    cover = (*made.TONE, "-map", "0", "-map", "1", "-c:v", "mjpeg", "-pix_fmt", "yuvj420p", "-c:a", "aac")
    return [
        case("cut_before_moov.mp4", change(H264, made.cut), "unreadable", small=True),
        case(
            "broken_moov.mp4", change(FAST, made.broken_moov), "unreadable", note="opens, and has no pictures"
        ),
        case("empty.mp4", content(b""), "unreadable", small=True),
        case("text.mp4", content(b"this is not a video\n" * 500), "unreadable"),
        case(
            "jpeg.mp4",
            remux(H264, "-frames:v", "1", "-f", "mjpeg"),
            "no_video",
            "unreadable",
            note="a still picture, whatever its name says",
        ),
        case("raw.h264", remux(H264, *COPY), "unreadable", note="its pictures carry no times"),
        case("audio_only.mp4", made.audio_only, "no_video"),
        case(
            "cover_art.m4a",
            encode(*cover, "-disposition:v:0", "attached_pic", numbers=[0]),
            "no_video",
            small=True,
        ),
    ]


CASES: tuple[Case, ...] = (*_coded(), *_contained(), *_damaged(), *_unusable())
"""Every file of the corpus; names are unique."""
