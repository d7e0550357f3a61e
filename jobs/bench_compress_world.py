"""What is left of the answers: questions about generated videos, through the answerer's own path.

An answer is right when it is the word that the generator knows to be true. A frame in which the answer can be seen is
found again when it keeps at least one token.
"""

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt

from actors.models import Ask, Request
from jobs.bench_compress_ways import DENSE, Asked, Way, uncut
from jobs.bench_route_statistics import Bootstrap, Right

if TYPE_CHECKING:
    from actors.models import Device
    from actors.models.video_llm import VideoLlm
    from jobs.bench_route_videos import Watched
    from pipeline.config import ScoreConfig

MODEL = "package:world/model"
MAX_NEW_TOKENS = 4
"""An answer is one word and its end."""
BORDER = 0.5


@dataclass(slots=True)
class Tried:
    """A method at a budget, and what came of it so far; question by question, video by video."""

    way: Way
    right: list[bool] = field(default_factory=list[bool])
    texts: list[str] = field(default_factory=list[str])
    tokens: list[int] = field(default_factory=list[int])
    """Visual tokens shown, of questions of which that is known."""
    true_frames: int = 0
    """Frames in which an answer can be seen, over all questions about moments."""
    found_frames: int = 0
    """Of these, frames that keep a token."""
    refused: dict[str, int] = field(default_factory=dict[str, int])
    """Why questions were not answered, and how many."""

    @property
    def right_Q(self) -> Right:
        """1 where the answer was right."""
        return np.asarray(self.right, np.float64)


@dataclass(slots=True)
class World:
    """What was asked, and what was answered by every method."""

    num_videos: int
    dense_tokens: int
    """Of one video."""
    tried: list[Tried]
    bootstrap: Bootstrap
    wrong: list[str]
    """Compressors that change something when asked to keep everything."""

    def of(self, way: Way) -> Tried:
        """Return what came of a method at a budget."""
        return next(tried for tried in self.tried if tried.way == way)


def ask_world(ways: Sequence[Way], num_videos: int, score: "ScoreConfig", device: "Device") -> World:
    """Write the first videos of the test split, and ask everything about them by every method.

    Raises:
        DecodeError: a file gives other frames than were written.
        ModelError: the model that comes with the package cannot be loaded.
    """
    from jobs.bench_route_videos import watch, write_split
    from pipeline.route import route_by_rules

    answerers = load(sorted({way.settings.compressor for way in ways}), MODEL, device)
    parts = next(iter(answerers.values())).parts
    with tempfile.TemporaryDirectory(prefix="reelsift-compress-") as folder:
        _say(f"writing {num_videos} videos, reading them, and scoring their frames")
        write_split(Path(folder), num_videos)
        videos, queries = watch(Path(folder), num_videos, parts.frame_size, score)
    routes = {query.query_id: route_by_rules(query.text, query.kind) for query in queries}
    tried = [Tried(way) for way in ways]
    wrong: list[str] = []
    for number, watched in enumerate(videos):
        row = {**watched.row, "query_ids": [query.query_id for query in watched.queries]}
        asked = Asked(row, queries, routes)
        for one in tried:
            put(answerers, watched, asked, one)
        if not number:
            wrong = check_uncut(answerers, watched, asked)
        _say(f"video {number + 1} of {len(videos)}")
    video_Q = np.repeat(np.arange(len(videos)), [len(watched.asked) for watched in videos])
    dense_tokens = len(videos[0].window.pts_s_N) * parts.tokens_per_frame
    return World(len(videos), dense_tokens, tried, Bootstrap(video_Q), wrong)


def load(compressors: Sequence[str], model: str, device: "Device") -> "dict[str, VideoLlm]":
    """Return one answerer per compressor, as a job with it would make it.

    Raises:
        ModelError: the model cannot be loaded.
    """
    from actors.models import video_llm
    from jobs.world.model import PIXELS
    from pipeline.config import AnswerConfig, CompressConfig

    size_px = PIXELS if model == MODEL else AnswerConfig().frame_px
    answer = AnswerConfig(model=model, frame_px=size_px, dtype="float32", max_new_tokens=MAX_NEW_TOKENS)
    return {
        name: cast("VideoLlm", video_llm.make(answer, CompressConfig(compressor=name), device))
        for name in compressors
    }


def put(answerers: "dict[str, VideoLlm]", watched: "Watched", asked: Asked, tried: Tried) -> None:
    """Ask all questions of a video at once by one method, and note what came of it."""
    llm = answerers[tried.way.settings.compressor]
    llm.settings = tried.way.settings
    num = asked.num_frames
    plans = tried.way.plans(asked, llm.parts.tokens_per_frame)
    nothing_N = np.zeros(num, np.float32)
    asks = [
        Ask(query, plan, nothing_N, nothing_N[:, None][:, :0], BORDER)
        for query, plan in zip(watched.queries, plans, strict=True)
    ]
    [answers] = llm.answer([Request(watched.window, asks)])
    for place, (one, plan, answer) in enumerate(zip(watched.asked, plans, answers, strict=True)):
        tried.right.append(not answer.error and answer.answer.strip().lower() == one.answer.lower())
        tried.texts.append(answer.answer)
        if answer.error:
            tried.refused[answer.error] = tried.refused.get(answer.error, 0) + 1
            if any(plan.tokens_N):
                continue  # frames were shown, and the answer does not say what was left of them
        tried.tokens.append(answer.tokens_used)
        truth_N = watched.truth_N(place)
        kept_N = frames_shown(watched.window.pts_s_N, answer.evidence)
        tried.true_frames += int(truth_N.sum())
        tried.found_frames += int((truth_N & kept_N).sum())


def frames_shown(
    pts_s_N: npt.NDArray[np.float64], evidence: Sequence[tuple[float, float, int]]
) -> npt.NDArray[np.bool_]:
    """Return which sampled frames an answer rests on, [N]."""
    return np.isin(pts_s_N, [time_s for time_s, _, tokens in evidence if tokens])


def check_uncut(answerers: "dict[str, VideoLlm]", watched: "Watched", asked: Asked) -> list[str]:
    """Return which compressors do not give the dense answers when they are to leave everything as it is."""
    found = {name: Tried(uncut(name)) for name in answerers}
    for tried in found.values():
        put(answerers, watched, asked, tried)
    dense = found["none"]
    return [
        f"{name} told to keep everything: {sum(a != b for a, b in zip(tried.texts, dense.texts, strict=True))} of"
        f" {len(dense.texts)} answers are not those of {DENSE}, {sum(tried.tokens)} tokens of {sum(dense.tokens)}"
        for name, tried in found.items()
        if (tried.texts, tried.tokens) != (dense.texts, dense.tokens)
    ]


def _say(text: str) -> None:
    print(text, file=sys.stderr)
