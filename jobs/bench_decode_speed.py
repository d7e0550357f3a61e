"""What a minute of video costs to sample, ours beside others, and whether each delivers the pictures asked for.

Peers are kept running and take turns, cell by cell and repeat by repeat, so that what else the machine does hits all
of them alike. The pictures are compared with those of a plain decode of the whole file, at the presentation times that
each peer says they have.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from av.video.reformatter import Interpolation

from jobs.bench_decode_clips import CLIPS, FPS, Clip
from jobs.decode_peers import Order, as_request, thumb
from pipeline.times import sample_times

HEIGHT_PX, WIDTH_PX = 252, 448
RATES_FPS = (0.2, 1.0, 2.0)
NEAR_S = 0.1
SLACK_S = 1e-3
"""Presentation times of one picture may differ by so much between libraries."""
UNLIKE, CLOSER = 12.0, 0.75
"""Mean difference of grey levels from which two pictures are not the same one, and by which one is nearer than another:
resizers differ by less, wrong pictures by more."""
NEIGHBOURS = 3
FLOOR = "ffmpeg to null"
SAME = 1.03
"""Ratios of CPU seconds nearer to 1 than this are noise."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One clip, sampled at one rate."""

    clip: Clip
    fps: float

    @property
    def name(self) -> str:
        """Return what it is called in tables."""
        return f"{self.clip.name} at {self.fps:g} fps"


CELLS = tuple(Cell(clip, fps) for clip in CLIPS for fps in RATES_FPS)


@dataclass(frozen=True, slots=True)
class Judged:
    """What a peer's pictures are worth."""

    num_wanted: int
    num_delivered: int
    num_wrong: int
    """Wanted times without the picture that may stand for them."""
    num_other: int
    """Wanted times for which another picture than the one shown then was delivered, within what is allowed."""


@dataclass(slots=True)
class Result:
    """One peer in one cell."""

    cpu_s: list[float] = field(default_factory=list[float])
    """CPU seconds per minute of video, one per repeat."""
    wall_s: list[float] = field(default_factory=list[float])
    judged: Judged | None = None
    unable: str = ""
    """Why there is nothing to measure."""


@dataclass(frozen=True, slots=True)
class Truth:
    """Every picture of a clip, as a plain decode gives them."""

    pts_s_N: npt.NDArray[np.float64]
    thumbs_N: npt.NDArray[np.uint8]
    """[N, height, width, 3] uint8."""


class Peer:
    """A peer in its own process."""

    def __init__(self, name: str, python: str) -> None:
        self.name = name
        path = os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")])
        self._process = subprocess.Popen(
            [python, "-m", "jobs.decode_peers", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )
        self.trouble = str(self._answer().get("trouble", ""))

    def ask(self, order: Order, save: str = "") -> dict[str, Any]:
        """Return what an order cost and delivered."""
        if self.trouble:
            return {"unable": self.trouble}
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(as_request(order, save))
            self._process.stdin.flush()
        except BrokenPipeError:
            self.trouble = "its process died"
            return {"unable": self.trouble}
        return self._answer()

    def close(self) -> None:
        """End it."""
        self._process.communicate()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self.trouble = "its process died"
            return {"trouble": self.trouble, "unable": self.trouble}
        return json.loads(line)


Results = dict[tuple[Cell, str], Result]


def measure(
    paths: Mapping[Clip, Path],
    cells: Sequence[Cell],
    peers: Sequence[str],
    *,
    seconds: int,
    repeats: int,
    pythons: Mapping[str, str],
    warm: Path,
    tell: Callable[[str], None],
) -> Results:
    """Run every peer in every cell `repeats` times; the floor does not depend on the rate and runs once per clip.

    An interrupt ends it early, with what has been measured until then.

    Args:
        paths: where the clips lie.
        cells: what is measured.
        peers: names of PEERS.
        seconds: length of the clips.
        repeats: how often.
        pythons: interpreters of peers with an environment of their own, by the first word of their name.
        warm: a short clip that every peer reads before the clock starts.
        tell: is told what has been measured.
    """
    results: Results = {(cell, name): Result() for cell in cells for name in peers}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="reelsift-bench-")))
        running: list[Peer] = []
        for name in peers:
            peer = Peer(name, pythons.get(name.split()[0], sys.executable))
            stack.callback(peer.close)
            running.append(peer)
        for peer in running:  # whatever is made once per process, or once per file system cache
            peer.ask(_order(warm, 1.0, 1))
        try:
            for repeat in range(repeats):
                for cell in cells:
                    for peer in running:
                        if peer.name != FLOOR or cell.fps == min(c.fps for c in cells if c.clip == cell.clip):
                            _run(peer, cell, paths[cell.clip], seconds, results[cell, peer.name], folder)
                    tell(f"{repeat + 1}/{repeats} {cell.name}: {_line(cell, results, peers)}")
        except KeyboardInterrupt:
            tell("interrupted; what has been measured until now is reported")
    return results


def _run(peer: Peer, cell: Cell, path: Path, seconds: int, result: Result, folder: Path) -> None:
    """Run one peer in one cell; its pictures are looked at the first time."""
    is_first = not result.cpu_s
    saved = folder / "thumbs.npy"
    saved.unlink(missing_ok=True)
    order = _order(path, cell.fps, seconds)
    answer = peer.ask(order, str(saved) if is_first else "")
    if "unable" in answer:
        result.unable = answer["unable"]
        return
    result.cpu_s.append(answer["cpu_s"] * 60 / seconds)
    result.wall_s.append(answer["wall_s"] * 60 / seconds)
    if is_first and peer.name != FLOOR:
        thumbs_N = np.load(saved) if saved.exists() else np.empty((0, 0, 0, 3), np.uint8)
        result.judged = judge(
            order.times_s, answer["pts_s"], thumbs_N, truth_of(path), allowed_s(peer.name, cell)
        )


def _order(path: Path, fps: float, seconds: int) -> Order:
    return Order(str(path), tuple(sample_times(0.0, seconds, fps)), fps, HEIGHT_PX, WIDTH_PX)


def allowed_s(peer: str, cell: Cell) -> float:
    """Return how far from the picture shown at a time the one that stands for it may lie."""
    if peer == "ours near":
        return NEAR_S
    is_keyed = cell.clip.gop / FPS <= 1 / cell.fps
    return 1 / cell.fps if peer == "ours auto" and is_keyed else 0.0


@lru_cache(maxsize=2)
def truth_of(path: Path) -> Truth:
    """Return every picture of a clip; kept beside it."""
    kept = path.with_suffix(".truth.npz")
    if not kept.exists():
        pts_s: list[float] = []
        thumbs: list[npt.NDArray[np.uint8]] = []
        with av.open(str(path)) as container:
            for frame in container.decode(video=0):
                small: Any = frame.reformat(WIDTH_PX, HEIGHT_PX, "rgb24", interpolation=Interpolation.AREA)
                pts_s.append(float(frame.time or 0.0))
                thumbs.append(thumb(small.to_ndarray()))
        np.savez(kept, pts_s=np.asarray(pts_s), thumbs=np.stack(thumbs))
    with np.load(kept) as found:
        return Truth(found["pts_s"], found["thumbs"])


def judge(
    times_s: Sequence[float],
    pts_s: Sequence[float],
    thumbs_N: npt.NDArray[np.uint8],
    truth: Truth,
    allowed_s: float,
) -> Judged:
    """Compare delivered pictures with those shown at the wanted times.

    A picture is right when it looks like the one of the time that the peer says it has, and no less than like any
    other wanted or neighbouring one.
    """
    shown_N = np.searchsorted(truth.pts_s_N, np.asarray(times_s) + SLACK_S, "right") - 1
    places = [int(np.abs(truth.pts_s_N - at_s).argmin()) for at_s in pts_s]
    right_s = np.asarray(
        [
            at_s
            for at_s, place, thumb_HWC in zip(pts_s, places, thumbs_N, strict=True)
            if abs(truth.pts_s_N[place] - at_s) <= SLACK_S and _is_it(thumb_HWC, place, shown_N, truth)
        ]
    )
    num_wrong = num_other = 0
    for exact_s in truth.pts_s_N[shown_N]:
        off_s = np.abs(right_s - exact_s).min(initial=np.inf)
        num_wrong += bool(off_s > allowed_s + SLACK_S)
        num_other += bool(SLACK_S < off_s <= allowed_s + SLACK_S)
    return Judged(len(times_s), len(pts_s), num_wrong, num_other)


def _is_it(
    thumb_HWC: npt.NDArray[np.uint8], place: int, wanted_N: npt.NDArray[np.int64], truth: Truth
) -> bool:
    """Return whether a picture is the one at a place of the clip."""
    near = range(max(0, place - NEIGHBOURS), min(len(truth.pts_s_N), place + NEIGHBOURS + 1))
    others_N = np.unique([*near, *wanted_N.tolist()])
    own = float(np.abs(truth.thumbs_N[place].astype(np.int16) - thumb_HWC).mean())
    nearest = float(np.abs(truth.thumbs_N[others_N].astype(np.int16) - thumb_HWC).mean((1, 2, 3)).min())
    return own < UNLIKE and own <= nearest + CLOSER


def cpu_s(results: Results, cell: Cell, peer: str) -> float | None:
    """Return a peer's CPU seconds per minute of video in a cell (median), None where it was not measured."""
    if peer == FLOOR:
        measured = [
            s
            for (other, name), r in results.items()
            if name == FLOOR and other.clip == cell.clip
            for s in r.cpu_s
        ]
    else:
        measured = results[cell, peer].cpu_s if (cell, peer) in results else []
    return statistics.median(measured) if measured else None


def ratio(results: Results, cell: Cell, one: str, other: str) -> float | None:
    """Return the CPU seconds of one peer over those of another in a cell, None where one was not measured."""
    mine, theirs = cpu_s(results, cell, one), cpu_s(results, cell, other)
    return round(mine / theirs, 3) if mine is not None and theirs else None


def rivals(peers: Sequence[str]) -> list[str]:
    """Return the peers that are not ours and deliver pictures."""
    return [name for name in peers if name != FLOOR and not name.startswith("ours")]


def slower(results: Results, peers: Sequence[str]) -> Iterator[tuple[Cell, str, float]]:
    """Yield the cells where `ours exact` costs more than the best of the others, with its name and the ratio."""
    for cell in dict.fromkeys(cell for cell, _ in results):
        found = {name: s for name in rivals(peers) if (s := cpu_s(results, cell, name)) is not None}
        if not found:
            continue
        best = min(found, key=lambda name: found[name])
        times = ratio(results, cell, "ours exact", best)
        if times is not None and times > SAME:
            yield cell, best, times


def _line(cell: Cell, results: Results, peers: Sequence[str]) -> str:
    """Return a cell's figures so far."""
    parts = [f"{name} {s:.2f}" for name in peers if (s := cpu_s(results, cell, name)) is not None]
    return ", ".join(parts)
