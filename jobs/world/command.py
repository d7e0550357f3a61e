"""`reelsift world`: generated videos as files, with questions whose answers and evidence are known.

    OUT/videos/world-3000000.mp4   one per scene
    OUT/queries.jsonl              a few questions that can be asked of every video, for `reelsift answer`
    OUT/questions.jsonl            each video's own questions, answers and evidence, for `reelsift train label`

The last stdout line is one JSON document.
"""

import json
import multiprocessing
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import tyro

from jobs.command_line import parse, require
from jobs.world.questions import YES_NO, Asked, ask
from jobs.world.scenes import make_scene
from jobs.world.splits import FIRST_SEED, Split, seeds
from jobs.world.videos import write_video
from pipeline import store
from pipeline.errors import ConfigError

QUERIES: tuple[dict[str, Any], ...] = (
    {"query_id": "star", "kind": "ask", "text": "does a star ever come ?"},
    {"query_id": "moon", "kind": "choose", "text": "does a moon ever come ?", "choices": list(YES_NO)},
    {"query_id": "collision", "kind": "flag", "text": "do any things ever collide ?"},
    {"query_id": "heart", "kind": "find", "text": "the heart"},
    {"query_id": "bag", "kind": "find", "text": "the bag"},
)
"""What can be asked of every video, whoever comes in it."""


@dataclass(frozen=True)
class Arguments:
    """Generate videos whose truth is exact: who comes, when, in which colour, with which digit.

    OUT gets videos/, queries.jsonl for `reelsift answer` and questions.jsonl for `reelsift train label`. The same
    split and number give the same files; videos that are there already are kept.
    """

    out: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="OUT")]]
    """Where videos and questions go."""
    split: Split = "test"
    """Which scenes; the model that comes with the package was trained on `train`."""
    videos: Annotated[int, tyro.conf.arg(metavar="N")] = 10
    """How many videos."""
    held_out: bool = False
    """Ask in the ways that the model that comes with the package never saw."""
    open: bool = False
    """Put every question as `ask`, without the list of answers."""
    processes: int = 2
    """Videos drawn side by side."""


def main(argv: list[str]) -> int:
    """Write videos and questions.

    Raises:
        ConfigError: a number is out of its range, or the folder cannot be written.
    """
    args = parse(Arguments, argv, "reelsift world", Arguments.__doc__)
    require("--videos", args.videos, at_least=1)
    require("--processes", args.processes, at_least=1)
    most = min(
        abs(one - other) for one in FIRST_SEED.values() for other in FIRST_SEED.values() if one != other
    )
    if args.videos > most:
        msg = f"--videos {args.videos}: the splits have {most} scenes each; take fewer"
        raise ConfigError(msg)
    own = seeds(args.split, args.videos)
    folder = args.out / "videos"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _draw(folder, own, args.processes)
        questions = [row for seed in own for row in rows_of(seed, args.split, args.held_out, args.open)]
        _write(args.out / "queries.jsonl", QUERIES)
        _write(args.out / "questions.jsonl", questions)
    except OSError as error:
        msg = f"{args.out}: cannot write the world there: {error}; name a folder that can be written"
        raise ConfigError(msg) from error
    counts = {"videos": len(own), "queries": len(QUERIES), "questions": len(questions)}
    print(json.dumps({"out": str(args.out), "split": args.split, **counts}))
    return 0


def video_name(seed: int) -> str:
    """Return the file name of a scene."""
    return f"world-{seed}.mp4"


def rows_of(seed: int, split: Split, held_out: bool, plainly: bool) -> Iterator[dict[str, Any]]:
    """Yield a video's own questions as `reelsift train label` reads them."""
    for number, one in enumerate(ask(make_scene(seed), held_out=held_out)):
        kind = "ask" if plainly else "choose" if one.choices else "flag"
        yield {
            "id": f"{seed}-{number}-{one.category}",
            "video": video_name(seed),
            "question": one.text,
            "kind": kind,
            "answer": one.answer,
            **_choices(one, kind),
            "category": one.category,
            "split": split,
            "evidence_s": [list(span) for span in one.evidence_s],
        }


def _choices(one: Asked, kind: str) -> dict[str, list[str]]:
    return {"choices": list(one.choices)} if kind == "choose" else {}


def _draw(folder: Path, own: range, processes: int) -> None:
    """Write the videos that are not there yet."""
    missing = [seed for seed in own if not (folder / video_name(seed)).exists()]
    if missing:
        with multiprocessing.get_context("spawn").Pool(min(processes, len(missing))) as pool:
            for _ in pool.imap_unordered(partial(_draw_one, folder), missing):
                pass


def _draw_one(folder: Path, seed: int) -> None:
    write_video(folder / video_name(seed), seed)


def _write(path: Path, values: Any) -> None:
    store.write_bytes(str(path), "".join(json.dumps(one) + "\n" for one in values).encode())
