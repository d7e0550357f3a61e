"""Reading videos in a child process: what a file does to its decoder costs one row, never the worker.

Each worker keeps one child (child.py) and hands it the bytes of one video after the other. The child has a memory
limit, and from its first foreign byte on neither files, network nor other processes; the worker keeps the
credentials, reads the store, ends a child that takes too long, and believes nothing that it says unchecked. A child
that breaks is replaced and the video tried once more; the second time it is put in quarantine. So Ray never sees a
worker die of a video, which it would answer by trying it again for ever.
"""

import atexit
import logging
import math
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import TypeVar

import numpy as np
import pyarrow as pa
from pydantic import TypeAdapter

from pipeline import quarantine, rows
from pipeline.child_process import Answers, BrokenChildError, Child, FailedError, ShortageError
from pipeline.config import MAX_FRAMES, DecodeConfig, WindowConfig
from pipeline.errors import ClusterError, ConfigError, DecodeError, ProbeError, RowError
from pipeline.frames import Frames, FrameSize, Policy, Sample, Shot, gather
from pipeline.origin import Origin, open_origin
from pipeline.ranges import Pinned
from pipeline.rows import Row
from pipeline.wire import Message

logger = logging.getLogger(__name__)

TRIES = 2
"""Times a video may break its decoder."""
SHORTAGES = 4
"""Times in all that a child may be killed over one video, or not be started, for want of memory or processes."""
FIRST_WAIT_S = 0.5
"""Wait after a shortage; twice as long after each further one."""
LONGEST_S = 31 * 86400.0
"""A video that claims to be longer is damaged: its windows alone would fill the memory."""
MAX_REASON = 1000
"""Characters of a sample's reason."""
USABLE = ("ok", "truncated", "damaged")
"""Statuses of a video that a probe has not refused."""
PROBED = (
    "container", "codec", "width_px", "height_px", "rotation_deg", "fps", "start_s", "duration_s", "num_packets",
    "key_times_s", "clock_restarts", "status", "note",
)  # fmt: skip
"""Columns of rows.VIDEOS that a child tells, all of them and no other: it must not rename its file."""
MAX_KEYS = 100_000
MAX_TEXT = 10_000
"""Characters of a text column."""
ROUNDING_S = 1e-6
"""Two sums of one clock may differ by less."""

Collected = TypeVar("Collected")


@dataclass(frozen=True, slots=True)
class Reader:
    """How the videos of a job are read: plain values, shipped to the stages."""

    config: DecodeConfig
    window: WindowConfig
    quarantine: str = ""
    """Folder of the run in which videos are written down that are not opened again."""

    def probe(self, file: Row) -> Row:
        """Return what `probe_from` finds, wherever it was read."""
        return self.probe_from(file)[0]

    def probe_from(self, file: Row) -> tuple[Row, Origin]:
        """Return the probe columns of rows.VIDEOS for one rows.FILE row, and where they were read from.

        Raises:
            ProbeError: nothing in the file can be decoded, or it breaks the decoder.
            StoreError: the object store is out of reach.
        """
        columns, origin = self._ask(file, {"is": "probe"}, 0, ProbeError, _columns)
        if not 0 < columns["duration_s"] <= LONGEST_S:
            msg = (
                f"{file['uri']}: its times say that it lasts {columns['duration_s']:g} s, expected at most"
                f" {LONGEST_S:g} s; they are damaged, write the file anew"
            )
            raise ProbeError(msg)
        return columns, origin

    def sample(self, window: Row, size: FrameSize, policy: Policy) -> tuple[Frames, Origin]:
        """Return the pictures that the sampler chooses of a rows.WINDOW row, and where they were read from.

        Raises:
            DecodeError: the video is gone, changed, or breaks the decoder.
            StoreError: the object store is out of reach.
        """
        request = {"is": "sample", "start_s": window["start_s"], "end_s": window["end_s"]}
        return self._pictures(window, request, size, policy, MAX_FRAMES)

    def look(self, video: Row, times_s: Sequence[float], size: FrameSize) -> tuple[Frames, Origin]:
        """Return the pictures shown at given times of a rows.WINDOW row, and where they were read from.

        Raises:
            DecodeError: the video is gone, changed, or breaks the decoder.
            StoreError: the object store is out of reach.
        """
        times_s = sorted(set(times_s))
        return self._pictures(video, {"is": "look", "times_s": times_s}, size, Policy(), len(times_s))

    def _pictures(
        self, video: Row, request: Message, size: FrameSize, policy: Policy, capacity: int
    ) -> tuple[Frames, Origin]:
        """Return at most `capacity` pictures."""
        in_order = bool(video.get("clock_restarts"))
        request = {**request, "size": asdict(size), "policy": asdict(policy), "in_order": in_order}
        most_bytes = size.height_px * size.width_px * 3
        return self._ask(
            video, request, most_bytes, DecodeError, lambda answers: _frames(answers, size, capacity)
        )

    def _ask(
        self,
        file: Row,
        request: Message,
        most_bytes: int,
        error: type[RowError],
        collect: Callable[[Answers], Collected],
    ) -> tuple[Collected, Origin]:
        """Return what `collect` makes of the child's answers; a child that breaks is replaced, a few times."""
        uri, name = file["uri"], f"{file['video_id']}-{file['version']}"
        why = BrokenChildError()
        with _lock:
            if known := quarantine.reason(self.quarantine, name):
                msg = f"{uri}: {known}"  # the words of the first time: rows do not tell who tried before whom
                raise error(msg)
            num_broken = num_killed = 0
            while num_broken < TRIES and num_killed < SHORTAGES:
                try:
                    with open_origin(Pinned(uri, file["size_bytes"], file["etag"]), name, error) as origin:
                        return _answer(_child_of(self), request, origin, most_bytes, collect), origin
                except ShortageError as shortage:
                    why, num_killed = shortage, num_killed + 1
                    logger.warning("%s: its decoder was killed: %s", uri, why)
                    _wait(num_killed)
                except BrokenChildError as broken:
                    why, num_broken = broken, num_broken + 1
                    logger.warning("%s: its decoder broke: %s", uri, why)
                except FailedError as failed:
                    raise _error_of(failed, uri, error) from None
            if num_broken == TRIES:
                known = f"broke its decoder {TRIES} times, {why}; {why.advice}"
                quarantine.add(self.quarantine, name, uri, known)
        if num_broken == TRIES:
            msg = f"{uri}: {known}"
        else:
            msg = (
                f"{uri}: its decoder was killed {SHORTAGES} times ({why}), not by us: host {socket.gethostname()} is"
                " short of memory; give it more, or run fewer processes on it, and try this video again"
            )
        raise error(msg)


def _answer(
    child: Child, request: Message, origin: Origin, most_bytes: int, collect: Callable[[Answers], Collected]
) -> Collected:
    """Return what `collect` makes of a child's answers; end a child that cannot be given another request."""
    try:
        return collect(child.answers(request, origin, most_bytes))
    except BrokenChildError:
        drop_child()
        raise
    finally:
        if child.is_busy or child.has_grown():
            drop_child()


def _wait(num_shortages: int) -> None:
    """Wait for others to give back memory or processes; not all of those who wait come back at once."""
    if num_shortages < SHORTAGES:
        time.sleep(FIRST_WAIT_S * 2 ** (num_shortages - 1) * random.uniform(1.0, 1.5))


def _columns(answers: Answers) -> Row:
    """Return the columns that a child found for rows.VIDEOS.

    Raises:
        BrokenChildError: it did not send what such columns can hold.
    """
    columns: Row = {}
    try:
        for message, _ in answers:
            found = message["columns"]
            if set(found) != set(PROBED):
                msg = f"columns {sorted(found)}, expected {sorted(PROBED)}"
                raise ValueError(msg)
            columns = {name: pa.scalar(found[name], rows.VIDEOS.field(name).type).as_py() for name in PROBED}
            _check(columns)
    except (LookupError, TypeError, ValueError, OverflowError, pa.ArrowException) as error:
        raise _nonsense(error) from error
    if not columns:
        raise _nonsense("no columns")
    return columns


def _check(columns: Row) -> None:
    """Raise ValueError or TypeError where columns of the right types hold what no video has."""
    if columns["status"] not in USABLE or None in columns.values():
        msg = f"columns {columns}"
        raise ValueError(msg)
    numbers, texts = (
        [value for value in columns.values() if isinstance(value, float)],
        [value for value in columns.values() if isinstance(value, str)],
    )
    if not all(map(math.isfinite, numbers)) or max(map(len, texts)) > MAX_TEXT:
        msg = f"a number that is none, or a text of more than {MAX_TEXT} characters in {columns}"
        raise ValueError(msg)
    if min(columns["width_px"], columns["height_px"]) <= 0 or columns["num_packets"] < 0:
        msg = f"{columns['num_packets']} packets of {columns['width_px']} x {columns['height_px']} pixels"
        raise ValueError(msg)
    keys_s, most_s = columns["key_times_s"], columns["duration_s"] + ROUNDING_S
    if len(keys_s) > MAX_KEYS or not all(a <= b for a, b in pairwise([0.0, *keys_s, most_s])):
        msg = f"{len(keys_s)} times of key pictures that do not increase from 0 to {most_s:g} s: {keys_s[:5]}"
        raise ValueError(msg)


def _frames(answers: Answers, size: FrameSize, capacity: int) -> Frames:
    """Return the pictures that a child sends.

    Raises:
        BrokenChildError: it did not send at most `capacity` pictures of that size in the order of their times.
    """
    try:
        return gather(_shots(answers, size, capacity), capacity)
    except (LookupError, TypeError, ValueError, OverflowError) as error:
        raise _nonsense(error) from error


_SAMPLE = TypeAdapter(Sample)


def _shots(answers: Answers, size: FrameSize, capacity: int) -> Iterator[Shot]:
    """Yield what a child sends as shots; raises ValueError and its like where they are none."""
    for number, (message, data) in enumerate(answers):
        sample, shape = _SAMPLE.validate_python(message["sample"]), message["shape"]
        if number >= capacity or len(sample.reason) > MAX_REASON:
            msg = f"more than {capacity} samples, or a reason of {len(sample.reason)} characters"
            raise ValueError(msg)
        sample.reason.encode()  # lone surrogates cannot be stored
        if shape is None:
            yield sample, None
            continue
        height_px, width_px, depth = shape
        fits = 0 < height_px <= size.height_px and 0 < width_px <= size.width_px and depth == 3
        if not fits or (size.fit == "stretch" and (height_px, width_px) != (size.height_px, size.width_px)):
            msg = f"a picture of {shape}, expected {asdict(size)}"
            raise ValueError(msg)
        if not math.isfinite(sample.pts_s):
            msg = "a picture without a time"
            raise ValueError(msg)
        yield sample, np.frombuffer(data, np.uint8).reshape(shape)


def _nonsense(found: object) -> BrokenChildError:
    return BrokenChildError(f"it sent what makes no sense: {str(found)[:300]}")


def _error_of(failed: FailedError, uri: str, error: type[RowError]) -> RowError:
    """Return what a child reports as an error of this process.

    A file may lead our own code astray, too; that costs its row and is told with its trace.
    """
    if failed.type not in ("ProbeError", "DecodeError"):
        logger.error("%s: unexpected error in the decoding child\n%s", uri, failed.trace)
        return error(f"{uri}: unexpected {failed.type} while reading ({failed}); please report it")
    found = error(str(failed) if uri in str(failed) else f"{uri}: {failed}")
    if isinstance(found, ProbeError):
        found.status = "no_video" if failed.status == "no_video" else "unreadable"
    return found


_Settings = tuple[DecodeConfig, WindowConfig]
_current: "tuple[_Settings, Child] | None" = None
_ended_cpu_s = 0.0
"""What the children before the current one took."""
_lock = threading.Lock()
"""One child per process: its threads take turns."""


def _child_of(reader: Reader) -> Child:
    """Return this process's child, a new one if there is none or it serves other settings.

    Raises:
        ClusterError: this machine has no room for one.
        ConfigError: none can be started with these settings.
    """
    global _current  # noqa: PLW0603
    settings = reader.config, reader.window
    if _current is not None and _current[0] == settings:
        return _current[1]
    drop_child()
    child = _new_child(*settings)
    for line in child.open:
        logger.warning("decoding is less isolated than it should be: %s", line)
    _current = settings, child
    return child


def _new_child(config: DecodeConfig, window: WindowConfig) -> Child:
    """Start a child; try again where it does not start."""
    why = ""
    num_broken = num_short = 0
    while num_broken < TRIES and num_short < SHORTAGES:
        try:
            return Child(config.decoder, asdict(window), config.memory_mb * 2**20, config.timeout_s)
        except ShortageError as shortage:
            why, num_short = str(shortage), num_short + 1
            _wait(num_short)
        except BrokenChildError as broken:
            why, num_broken = str(broken), num_broken + 1
    if num_short == SHORTAGES:
        msg = (
            f"host {socket.gethostname()} cannot start a process that decodes: {why} (tried {SHORTAGES} times); look"
            " whether it is out of memory or processes (ulimit -u, the container's pids limit), or run fewer workers"
            " on it, and run the same command again to go on"
        )
        raise ClusterError(msg)
    msg = (
        f"the process that decodes cannot be started with decoder {config.decoder!r} and {config.memory_mb} MB: {why};"
        " give it more with --decode.memory-mb, or look whether this machine is out of memory"
    )
    raise ConfigError(msg)


def cpu_s() -> float:
    """Return the CPU seconds that this process and its decoding children have taken so far, without their start."""
    running_s = _current[1].cpu_s() if _current is not None else 0.0
    return time.process_time() + _ended_cpu_s + running_s


def drop_child() -> None:
    """End this process's child, if it has one."""
    global _current, _ended_cpu_s  # noqa: PLW0603
    if _current is not None:
        _ended_cpu_s += _current[1].cpu_s()
        _current[1].close()
        _current = None


def _forget_child() -> None:
    """Begin without a child after a fork: the other process goes on talking to it."""
    global _current, _lock  # noqa: PLW0603
    if _current is not None:
        _current[1].let_go()
        _current = None
    _lock = threading.Lock()


atexit.register(drop_child)
os.register_at_fork(after_in_child=_forget_child)
