"""The videos that routing is measured on: a split of the generated world, written as files and read as any archive is.

Shape letters: N frames of a video.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from actors.device import pick_device
from actors.models import WindowView
from actors.models.tables import find_proposer
from actors.scorer import Scorer
from jobs.world.questions import Asked, ask
from jobs.world.scenes import SECONDS, make_scene
from jobs.world.splits import seeds
from jobs.world.videos import write_video
from pipeline import rows
from pipeline.config import DecodeConfig, ScoreConfig, WindowConfig
from pipeline.errors import DecodeError
from pipeline.frames import Frames, FrameSize
from pipeline.isolation import Reader
from pipeline.listing import list_videos
from pipeline.queries import Query
from pipeline.rows import Row
from pipeline.stages import probe, sample_window


@dataclass(frozen=True, slots=True)
class Watched:
    """One video as answerers see it, and what is asked about it."""

    asked: tuple[Asked, ...]
    queries: tuple[Query, ...]
    """The same questions, for the answerer."""
    window: WindowView
    """All sampled frames, each of them evidence."""
    row: Row
    """Columns of rows.SCORED: times, and the proposer's relevance to every question of the split."""
    score_s: float
    """What the proposer took for its frames."""

    def truth_N(self, place: int) -> npt.NDArray[np.bool_]:
        """Return in which frames the answer to a question can be seen, [N]; none for a global one."""
        pts_s_N = self.window.pts_s_N
        found_N = np.zeros(len(pts_s_N), bool)
        for start_s, end_s in self.asked[place].evidence_s:
            found_N |= (pts_s_N >= start_s) & (pts_s_N < end_s)
        return found_N


def write_split(folder: Path, count: int) -> None:
    """Write the first videos of the test split into a folder."""
    for seed in seeds("test", count):
        write_video(folder / f"{seed}.mp4", seed)


def watch(folder: Path, count: int, size: FrameSize, score: ScoreConfig) -> tuple[list[Watched], list[Query]]:
    """Return the videos of `write_split`, read by the product's own reader, and every question once.

    Args:
        folder: where they lie.
        count: how many.
        size: of the answerer's frames.
        score: which scorer proposes frames.

    Raises:
        DecodeError: a file gives other frames than one per second.
    """
    asked = [tuple(ask(make_scene(seed))) for seed in seeds("test", count)]
    texts = dict.fromkeys(one.text for questions in asked for one in questions)
    by_text = {text: Query(f"q{number}", text, "ask") for number, text in enumerate(texts)}
    entry, queries = find_proposer(score), list(by_text.values())
    small = entry.describe(score).frame_size
    scorer = Scorer(entry.make, score, queries, pick_device(1))
    reader = Reader(DecodeConfig(), WindowConfig(length_s=float(SECONDS), sample_fps=1.0))
    found: list[Watched] = []
    files = sorted(list_videos(str(folder)), key=lambda file: file["uri"])
    for file, questions in zip(files, asked, strict=True):
        found.append(
            _watch_one(
                reader, file, (size, small), scorer, questions, [by_text[one.text] for one in questions]
            )
        )
    return found, queries


def _watch_one(
    reader: Reader,
    file: Row,
    sizes: tuple[FrameSize, FrameSize],
    scorer: Scorer,
    asked: tuple[Asked, ...],
    queries: Sequence[Query],
) -> Watched:
    """Return one video; its frames are sampled at the answerer's size and at the proposer's."""
    facts = probe(reader, file)
    window = {**file, **facts, "start_s": 0.0, "end_s": float(SECONDS)}
    if facts["status"] != "ok":
        msg = f"{file['uri']}: found {facts['status']} ({facts.get('error_message', '')}), expected a whole video"
        raise DecodeError(msg)
    large, small = (sample_window(reader, size, window) for size in sizes)
    if len(large["pts_s"]) != SECONDS or large["pts_s"] != small["pts_s"]:
        msg = (
            f"{file['uri']}: {len(large['pts_s'])} and {len(small['pts_s'])} frames, expected {SECONDS} twice"
        )
        raise DecodeError(msg)
    scored = scorer.score({**window, **small})
    pts_s_N = np.asarray(large["pts_s"])
    evidence = Frames(rows.unpack(large["pixels"]), pts_s_N)
    view = WindowView(0.0, window["end_s"], pts_s_N, tuple(range(len(pts_s_N))), evidence)
    row = {**small, **scored, "end_s": window["end_s"], "query_ids": [query.query_id for query in queries]}
    del row["pixels"]
    return Watched(asked, tuple(queries), view, row, scored["score_s"])
