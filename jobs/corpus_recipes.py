"""Recipes of the corpus: how one awkward video file is written.

A recipe is a function that writes one file. Pictures are coded, and coded pictures put into other containers, by the
ffmpeg program; damage is done to the bytes of an intact file.
"""

import random
import shutil
import subprocess
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TypeAlias

from jobs.corpus_truth import HEIGHT_PX, TS_PACKET_BYTES, WIDTH_PX, picture, ts_pictures
from pipeline.errors import ConfigError

Find: TypeAlias = Callable[[str], Path]
"""Returns the path of another file of the corpus, which is made first if it is missing."""
Make: TypeAlias = Callable[[Find, Path], None]
"""Writes one file."""

FPS = Fraction(30)
USUAL = range(300)
"""The numbers of the pictures of most files: ten seconds."""
SOME = [n for n in USUAL if (n**3 + 7 * n) % 31 < 12]
"""About 40 % of the numbers: a variable rate."""
KEEP_SOME = ("-vf", r"select=lt(mod(n*n*n+7*n\,31)\,12)", "-fps_mode", "passthrough")
COPY = ("-c", "copy")
TONE = ("-f", "lavfi", "-i", "sine=440:d=15")
UPRIGHT = (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
QUARTER_TURN = (0, 1 << 16, 0, -1 << 16 & 0xFFFFFFFF, 0, 0, 0, 0, 1 << 30)
"""Matrices of a track header: as it is, and turned 90 degrees clockwise (ISO/IEC 14496-12, 8.3.2)."""
CLUSTER = b"\x1f\x43\xb6\x75"
"""The id by which a Matroska cluster begins (RFC 9559, 5.1.3)."""


def encode(*arguments: str, numbers: Iterable[int] = USUAL, fps: Fraction = FPS) -> Make:
    """Return a recipe that encodes numbered pictures with ffmpeg's arguments."""

    def make(_: Find, target: Path) -> None:
        data = b"".join(picture(number).tobytes() for number in numbers)
        shape = ("-pix_fmt", "gray", "-s", f"{WIDTH_PX}x{HEIGHT_PX}", "-r", str(fps))
        run_ffmpeg(target, "-f", "rawvideo", *shape, "-i", "-", *arguments, data=data)

    return make


def remux(source: str, *arguments: str, before: Sequence[str] = ()) -> Make:
    """Return a recipe that runs ffmpeg on another file of the corpus; `before` are options of that input."""
    return lambda find, target: run_ffmpeg(target, *before, "-i", str(find(source)), *arguments)


def change(source: str, edit: Callable[[bytes], bytes]) -> Make:
    """Return a recipe that changes the bytes of another file of the corpus."""

    def make(find: Find, target: Path) -> None:
        target.write_bytes(edit(find(source).read_bytes()))

    return make


def content(data: bytes) -> Make:
    """Return a recipe for a file of given bytes."""

    def make(_: Find, target: Path) -> None:
        target.write_bytes(data)

    return make


def run_ffmpeg(target: Path, *arguments: str, data: bytes = b"") -> None:
    """Write a file with the ffmpeg program, which reads `data` as its standard input.

    Raises:
        ConfigError: the program is missing, or fails.
    """
    program = shutil.which("ffmpeg")
    if program is None:
        msg = (
            "the corpus of awkward videos is made with the program ffmpeg, and there is none on PATH; install it"
            " (Debian: apt-get install ffmpeg)"
        )
        raise ConfigError(msg)
    command = [program, "-v", "error", "-y", *arguments, str(target)]
    done = subprocess.run(command, input=data, capture_output=True, check=False)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()[-500:]
        msg = (
            f"ffmpeg ended with {done.returncode} for {' '.join(command)}: {said}; 5.1 or later with libx264, libx265,"
            " libvpx, libsvtav1 and libxvid is needed, as Debian 12 has it"
        )
        raise ConfigError(msg)


def x264(gop: int = 60, b_frames: int = 3, pix_fmt: str = "yuv420p", extra: str = "") -> tuple[str, ...]:
    """Return arguments for H.264 with key pictures at multiples of `gop` only."""
    parameters = f"keyint={gop}:min-keyint={gop}:scenecut=0:bframes={b_frames}:ref=2{extra}"
    coder = ("-c:v", "libx264", "-preset", "ultrafast", "-crf", "23", "-pix_fmt", pix_fmt)
    return (*coder, "-x264-params", parameters)


def x265(gop: int = 60, pix_fmt: str = "yuv420p", extra: str = "") -> tuple[str, ...]:
    """Return arguments for H.265 with key pictures at multiples of `gop` only."""
    parameters = f"log-level=error:keyint={gop}:min-keyint={gop}:scenecut=0:bframes=3{extra}"
    return ("-c:v", "libx265", "-preset", "ultrafast", "-pix_fmt", pix_fmt, "-x265-params", parameters)


def vpx(codec: str) -> tuple[str, ...]:
    """Return arguments for VP8 or VP9."""
    speed = ("-deadline", "realtime", "-cpu-used", "8")
    return ("-c:v", codec, *speed, "-g", "60", "-b:v", "2M", "-pix_fmt", "yuv420p")


def noise(data: bytes) -> bytes:
    """Fill a twentieth from the middle on with random bytes."""
    first, length = len(data) // 2, len(data) // 20
    return data[:first] + random.Random(1).randbytes(length) + data[first + length :]


def zeros(data: bytes) -> bytes:
    """Fill a fifth in the middle with zeros."""
    first, length = len(data) * 2 // 5, len(data) // 5
    return data[:first] + bytes(length) + data[first + length :]


def cut(data: bytes) -> bytes:
    """Keep the first 60 %, which in a transport stream ends between two packets."""
    return data[: len(data) * 3 // 5 // TS_PACKET_BYTES * TS_PACKET_BYTES]


def ragged_cut(data: bytes) -> bytes:
    """Keep the first 60 %, which in a transport stream ends inside a packet."""
    return data[: len(cut(data)) + TS_PACKET_BYTES // 2]


def ragged_hole(data: bytes) -> bytes:
    """Take a fifth out of the middle, wherever that begins and ends."""
    first, length = len(data) * 9 // 20, len(data) // 5 // TS_PACKET_BYTES * TS_PACKET_BYTES + 77
    return data[:first] + data[first + length :]


def cluster_hole(data: bytes) -> bytes:
    """Take the third Matroska cluster out: one group of pictures, and no trace of it but a jump in time."""
    parts = data.split(CLUSTER)
    del parts[3]
    return CLUSTER.join(parts)


def quiet_hole(data: bytes) -> bytes:
    """Take two seconds out of a transport stream so that its continuity counters go on as if nothing were missing.

    A key picture is taken as well: what follows the hole refers to pictures of another group.
    """
    positions = [coded.position for coded in ts_pictures(data)]
    counters = [data[position + 3] & 15 for position in positions]
    fitting = [
        (first, after)
        for first in range(130, 150)
        for after in range(first + 45, first + 75)
        if counters[first] == counters[after]
    ]
    first, after = min(fitting, key=lambda hole: abs(hole[1] - hole[0] - 60))
    return data[: positions[first]] + data[positions[after] :]


def late_start(data: bytes) -> bytes:
    """Cut the beginning of a transport stream off, up to the middle of picture 9."""
    return data[[coded.position for coded in ts_pictures(data)][9] + TS_PACKET_BYTES :]


def broken_moov(data: bytes) -> bytes:
    """Fill an mp4 file's table of positions with random bytes."""
    first = data.index(b"stco") + 8
    return data[:first] + random.Random(1).randbytes(192) + data[first + 192 :]


def clock_restart(find: Find, target: Path) -> None:
    """Join pictures 0 to 119 and 120 to 299, each part beginning at the same time."""
    first = find("h264.ts").read_bytes()
    border = [coded.position for coded in ts_pictures(first)][120]
    run_ffmpeg(target, "-ss", "4", "-i", str(find("h264_gop60.mp4")), *COPY)
    target.write_bytes(first[:border] + target.read_bytes())


def size_change(find: Find, target: Path) -> None:
    """Join 150 pictures of 640x360 and 150 of 320x180 as a splicer does: the clock goes on."""
    later = ("-vf", "scale=320:180", "-output_ts_offset", "5", "-mpegts_flags", "+initial_discontinuity")
    parts: list[bytes] = []
    for numbers, options in ((range(150), ()), (range(150, 300), later)):
        encode(*x264(), *options, "-avoid_negative_ts", "disabled", numbers=numbers)(find, target)
        parts.append(target.read_bytes())
    target.write_bytes(b"".join(parts))


def rotated(find: Find, target: Path) -> None:
    """Store pictures lying on their side, and tell players to turn them 90 degrees clockwise."""
    encode(*x264(), "-vf", "transpose=cclock")(find, target)
    upright, turned = (b"".join(value.to_bytes(4) for value in matrix) for matrix in (UPRIGHT, QUARTER_TURN))
    data = target.read_bytes()
    header = data.index(b"tkhd")
    target.write_bytes(data[:header] + data[header:].replace(upright, turned, 1))


def audio_only(_: Find, target: Path) -> None:
    """Write a tone without pictures."""
    run_ffmpeg(target, *TONE, "-c:a", "aac")
