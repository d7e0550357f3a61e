"""What the decode comparison has measured, as plain values and back: a long measurement can be run in pieces."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from jobs.bench_decode_clips import Clip
from jobs.bench_decode_corpus import Checked
from jobs.bench_decode_s3 import Read
from jobs.bench_decode_speed import CELLS, Cell, Judged, Result, Results
from jobs.corpus import CASES
from jobs.decode_peers import PEERS
from pipeline.errors import ConfigError


@dataclass(slots=True)
class Measured:
    """What the parts have found; a part that was not run is empty."""

    speed: Results = field(default_factory=Results)
    corpus: list[Checked] = field(default_factory=list[Checked])
    s3: list[Read] = field(default_factory=list[Read])
    s3_skipped: str = ""

    @property
    def peers(self) -> list[str]:
        """Return the peers that were asked, in the order of PEERS."""
        asked = {name for _, name in self.speed}
        return [name for name in PEERS if name in asked]

    @property
    def cells(self) -> list[Cell]:
        """Return the cells that were measured."""
        return sorted({cell for cell, _ in self.speed}, key=lambda cell: (cell.clip.name, cell.fps))

    def lacking(self) -> list[str]:
        """Return what a whole measurement has more than this."""
        ours = {cell for (cell, name), result in self.speed.items() if name == "ours exact" and result.cpu_s}
        shown = {case.name for case in CASES if case.truth is not None}
        is_whole = {
            "speed": ours.issuperset(CELLS) and self.peers == list(PEERS),
            "corpus": shown.issubset(checked.name for checked in self.corpus),
            "s3": bool(self.s3),
        }
        return [f"{part} is not measured in full" for part, is_it in is_whole.items() if not is_it]

    def of(self, cell: Cell, peer: str) -> Result:
        """Return what a peer did in a cell, nothing where it was not asked."""
        return self.speed.get((cell, peer), Result())


def rows(found: Measured) -> list[dict[str, Any]]:
    """Return every measurement as plain values."""
    lines: list[dict[str, Any]] = []
    for (cell, name), result in found.speed.items():
        judged = asdict(result.judged) if result.judged else None
        lines.append(
            {"part": "speed", "clip": asdict(cell.clip), "fps": cell.fps, "peer": name, "unable": result.unable,
             "judged": judged, "cpu_s": [round(s, 4) for s in result.cpu_s],
             "wall_s": [round(s, 3) for s in result.wall_s]}
        )  # fmt: skip
    lines += [{"part": "corpus", **asdict(checked)} for checked in found.corpus]
    lines += [{"part": "s3", **asdict(read)} for read in found.s3]
    return lines


def take_in(found: Measured, lines: Sequence[dict[str, Any]]) -> None:
    """Add measurements that `rows` gave to others; more repeats of a cell join those that are there."""
    for line in lines:
        values = {name: value for name, value in line.items() if name != "part"}
        if line["part"] == "corpus":
            found.corpus.append(Checked(**values))
        elif line["part"] == "s3":
            found.s3.append(Read(**values))
        else:
            key = Cell(Clip(**line["clip"]), line["fps"]), line["peer"]
            result = found.speed.setdefault(key, Result())
            result.cpu_s += line["cpu_s"]
            result.wall_s += line["wall_s"]
            result.unable = line["unable"]
            result.judged = Judged(**line["judged"]) if line["judged"] else result.judged


def read_earlier(found: Measured, paths: Sequence[Path]) -> None:
    """Add what earlier runs printed on standard output.

    Raises:
        ConfigError: a file is not what this comparison prints.
    """
    for path in paths:
        try:
            document = json.loads(path.read_text(encoding="utf-8").strip().rpartition("\n")[2])
            take_in(found, document["rows"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            msg = f"--earlier: {path} does not end in the JSON line of `reelsift bench decode`: {error!r}"
            raise ConfigError(msg) from error
