"""Is every picture the one asked for? The corpus of awkward files through the product's reader, in two orders.

`in order` asks for all times at once; `at random` opens the file anew for one time after the other, as evidence does.
A picture of an intact file is judged by the number it shows; of a damaged one also pixel by pixel, against the intact
file it was made from. Beside that, the highest memory the decoding child came to.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from jobs.corpus import CASES, Case, make_corpus, number_in, shown_at
from pipeline.config import DecodeConfig, WindowConfig
from pipeline.errors import DecodeError
from pipeline.frames import Frames, FrameSize, Sample
from pipeline.isolation import Reader
from pipeline.listing import list_videos
from pipeline.rows import Row

SIZE = FrameSize(180, 320)
"""Numbers can be read from 320 pixels width on."""
STEP_S = 0.1
RANDOM_TIMES = 12
BEYOND_S = 0.5
"""Times this long after the end are asked for, too: there is no picture to be made up."""

Picture = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Checked:
    """What came of one file in one order."""

    name: str
    group: str
    order: str
    num_asked: int
    num_shown: int
    """Times with a picture."""
    num_wrong: int
    """Pictures that are not what they are said to be: another number than at their time, or other pixels."""
    num_wrong_stale: int
    """How many of these say that they are stale."""
    num_late: int
    """Pictures of a damaged file that are right for their own time, but stand for a later one whose picture is lost,
    and are not called stale."""
    num_lacking: int
    """Times of an intact file within its length that have no picture."""
    error: str
    """What the reader said of a file that it cannot read."""
    is_heavy: bool
    child_mb: float
    """Highest memory of the decoding child until then."""


def check_corpus(folder: Path, *, small: bool, tell: Callable[[str], None]) -> list[Checked]:
    """Make the corpus if it is not there, and ask for the pictures of every file that has some."""
    reader = Reader(DecodeConfig(), WindowConfig())
    random_ = random.Random(0)
    checked: list[Checked] = []
    # a peak is the highest until then, so those that need the most come last
    for case in sorted(make_corpus(folder, small=small), key=lambda case: case.is_heavy):
        if case.truth is None:
            continue
        file = next(list_videos(str(folder / case.name).translate(str.maketrans({"*": "?", "[": "?"}))))
        file |= reader.probe(file)
        twins = _twins(reader, folder, case)
        times_s = _times(case)
        spots_s = random_.sample(times_s, min(RANDOM_TIMES, len(times_s)))
        for order, groups in (("in order", [times_s]), ("at random", [[time_s] for time_s in spots_s])):
            checked.append(_check(reader, file, case, order, groups, twins))
        listed, spotted = checked[-2:]
        num_wrong = listed.num_wrong + spotted.num_wrong
        tell(
            f"{case.name}: {listed.num_shown} of {listed.num_asked} shown, {num_wrong} wrong, {spotted.child_mb:.0f} MB"
        )
    return checked


def _check(
    reader: Reader, file: Row, case: Case, order: str, groups: list[list[float]], twins: dict[int, Picture]
) -> Checked:
    """Ask for the pictures of one file and judge them."""
    num_shown = num_wrong = num_wrong_stale = num_late = num_lacking = 0
    error = ""
    for times_s in groups:
        try:
            frames, _ = reader.look(file, times_s, SIZE)
        except DecodeError as found:
            error = str(found)
            num_lacking += len(times_s) if case.group == "intact" else 0
            continue
        for sample, picture in _pairs(frames):
            num_shown += picture is not None
            if picture is not None:
                verdict = judge(case, sample, picture, twins)
                num_wrong += verdict == "wrong"
                num_wrong_stale += verdict == "wrong" and sample.quality == "stale"
                num_late += verdict == "late"
            elif case.group == "intact" and shown_at(case, sample.wanted_s + 2 * case.off_s) is not None:
                num_lacking += 1
    num_asked = sum(map(len, groups))
    counts = num_asked, num_shown, num_wrong, num_wrong_stale, num_late, num_lacking
    return Checked(case.name, case.group, order, *counts, error, case.is_heavy, child_peak_mb())


def judge(
    case: Case, sample: Sample, picture: Picture, twins: dict[int, Picture]
) -> Literal["right", "late", "wrong"]:
    """Return whether a delivered picture is what its sample says it is.

    Quality ok says: the one shown at the wanted time. Stale says: the one of its own presentation time. Before the
    first picture and after the last one, these may stand in for a moment.
    """
    number = number_in(picture)
    if case.group == "damaged" and not (number in twins and np.array_equal(twins[number], picture)):
        return "wrong"
    if number in _allowed(case, sample.wanted_s if sample.quality == "ok" else sample.pts_s):
        return "right"
    is_late = (
        case.group == "damaged" and number in _allowed(case, sample.pts_s) and sample.pts_s <= sample.wanted_s
    )
    return "late" if is_late else "wrong"


def _allowed(case: Case, at_s: float) -> set[int | None]:
    """Return the numbers that a picture of a time may show."""
    assert case.truth is not None
    allowed = {
        shown_at(case, at_s + share * case.off_s) for share in (-1, -0.75, -0.5, -0.25, 0, 0.25, 0.5, 0.75, 1)
    }
    if None in allowed:
        allowed.add(case.truth.numbers[0] if at_s <= 0 else case.truth.numbers[-1])
    return allowed


def _pairs(frames: Frames) -> Iterator[tuple[Sample, Picture | None]]:
    """Yield every sample with its picture."""
    place = {pts_s: index for index, pts_s in enumerate(frames.pts_s_N.tolist())}
    for sample in frames.samples:
        index = place.get(sample.pts_s)
        yield sample, None if index is None else frames.data_NHWC[index]


def _times(case: Case) -> list[float]:
    """Return times all over a file, some past its end."""
    assert case.truth is not None
    end_s = float(case.truth.end_s) + BEYOND_S
    return [round(k * STEP_S + 0.01, 3) for k in range(int(end_s / STEP_S))]


def _twins(reader: Reader, folder: Path, case: Case) -> dict[int, Picture]:
    """Return the pictures of the intact file that a damaged one was made from, by number."""
    twin = next((other for other in CASES if other.name == case.twin), None)
    if twin is None or twin.truth is None:
        return {}
    file = next(list_videos(str(folder / twin.name)))
    frames, _ = reader.look(file, [float(start_s) + 1e-4 for start_s in twin.truth.starts_s], SIZE)
    return {number_in(picture): picture for picture in frames.data_NHWC}


def child_peak_mb() -> float:
    """Return the highest memory (RSS) of this process's decoding child, 0 when there is none.

    The child cannot open files, its own statistics included, so they are read from outside.
    """
    import psutil

    peaks = [0.0]
    for process in psutil.Process().children():
        try:
            if any("pipeline.child" in word for word in process.cmdline()):
                status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
                peaks.append(
                    next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
                    / 1000
                )
        except (psutil.NoSuchProcess, OSError, StopIteration):
            continue
    return max(peaks)
