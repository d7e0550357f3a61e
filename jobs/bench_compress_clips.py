"""What is left of real clips: are there still tokens of the seconds in which something can be seen?

Clips are read at one frame per second by the product's own reader, and their tokens are those of a model's vision
tower. Labels are those of `reelsift bench retrieval`: a file, a query, and the spans in seconds in which it is true. A
method that looks at the question is given the query.

Shape letters: N frames, Q questions.
"""

import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from jobs.bench_compress_ways import Asked, Way
from jobs.bench_compress_world import load
from jobs.bench_retrieval import Label, read_labels
from pipeline.budget import Plan
from pipeline.config import DecodeConfig, ScoreConfig, WindowConfig
from pipeline.errors import AnswerError, ConfigError
from pipeline.queries import Query

if TYPE_CHECKING:
    from actors.models import Device
    from actors.models.video_llm import FrameFeatures, VideoLlm
    from pipeline.isolation import Reader
    from pipeline.rows import Row

NO_QUESTION = "What happens in the video?"
"""Asked of a clip without labels."""
LENGTH_S = 300.0
"""Of a clip, the first so many seconds are read."""


@dataclass(slots=True)
class Left:
    """What a method at a budget left of all clips."""

    tokens: list[float] = field(default_factory=list[float])
    """Share of the dense tokens, clip by clip and question by question."""
    true_frames: int = 0
    """Frames in labelled spans, over all questions."""
    found_frames: int = 0
    """Of these, frames that keep a token."""
    true_tokens: int = 0
    """Tokens kept of these frames."""
    refused: list[str] = field(default_factory=list[str])


@dataclass(slots=True)
class Clips:
    """What is left of all clips by every method."""

    names: list[str]
    num_labels: int
    model: str
    tokens_per_frame: int
    left: dict[tuple[str, str, float], Left]
    """By table, name and budget."""

    def of(self, way: Way) -> Left:
        """Return what a method at a budget left."""
        return self.left[way.table, way.name, way.budget_pct]


@dataclass(frozen=True, slots=True)
class Clip:
    """One clip, as planner and answerer see it."""

    name: str
    asked: Asked
    data_NHWC: npt.NDArray[np.uint8]
    truth_QN: npt.NDArray[np.bool_]
    """[Q, N]; empty rows for questions without labels."""


def watch_clips(
    ways: Sequence[Way],
    media: Path,
    labels: Path | None,
    model: str,
    score: ScoreConfig,
    device: "Device",
) -> Clips:
    """Return what every method leaves of the clips of a folder.

    Args:
        ways: methods at budgets.
        media: folder of clips.
        labels: JSON lines of true spans; None = what is kept is counted, and nothing else.
        model: whose vision tower gives the tokens.
        score: which scorer says what is relevant.
        device: where it runs.

    Raises:
        ConfigError: labels or clips do not fit.
        ModelError: the model cannot be loaded.
    """
    answerers = load(sorted({way.settings.compressor for way in ways}), model, device)
    first = next(iter(answerers.values()))
    known = read_labels(labels) if labels else []
    clips = Clips([], len(known), model, first.parts.tokens_per_frame, defaultdict(Left))
    for clip in _read_clips(media, known, first, score, device):
        clips.names.append(clip.name)
        features = {
            name: llm.encode(clip.data_NHWC) for name, llm in answerers.items()
        }  # a compressor may want more of the frames than another
        for way in ways:
            llm = answerers[way.settings.compressor]
            llm.settings = way.settings
            left = clips.left[way.table, way.name, way.budget_pct]
            _count(left, llm, features[way.settings.compressor], clip, way)
        print(f"clip {clip.name}: {clip.asked.num_frames} frames", file=sys.stderr)
    return clips


def _count(left: Left, llm: "VideoLlm", features: "FrameFeatures", clip: Clip, way: Way) -> None:
    """Note what one method leaves of one clip, question by question."""
    num, per_frame = clip.asked.num_frames, llm.parts.tokens_per_frame
    kept: dict[tuple[int, ...], npt.NDArray[np.int64]] = {}
    for plan, truth_N in zip(way.plans(clip.asked, per_frame), clip.truth_QN, strict=True):
        if plan.tokens_N not in kept:
            try:
                kept[plan.tokens_N] = tokens_left(llm, features, plan)
            except AnswerError as error:
                left.refused.append(f"{clip.name}: {error}")
                kept[plan.tokens_N] = np.zeros(num, np.int64)
        tokens_N = kept[plan.tokens_N]
        left.tokens.append(float(tokens_N.sum()) / (num * per_frame))
        left.true_frames += int(truth_N.sum())
        left.found_frames += int((tokens_N[truth_N] > 0).sum())
        left.true_tokens += int(tokens_N[truth_N].sum())


def tokens_left(llm: "VideoLlm", features: "FrameFeatures", plan: Plan) -> npt.NDArray[np.int64]:
    """Return how many tokens of each frame are left, [N].

    Raises:
        AnswerError: nothing is left.
    """
    tokens_N = np.zeros(len(plan.tokens_N), np.int64)
    picked = [frame for frame, tokens in enumerate(plan.tokens_N) if tokens]
    if not picked:
        return tokens_N
    clip = llm.reduce(features, picked, [(frame, plan.tokens_N[frame]) for frame in picked])
    tokens_N[list(clip.rows)] = clip.tokens_T
    return tokens_N


# --- reading -------------------------------------------------------------------------------------------------


def _read_clips(
    media: Path, labels: Sequence[Label], llm: "VideoLlm", score: ScoreConfig, device: "Device"
) -> Iterator[Clip]:
    """Return the clips of a folder that can be read, one after the other.

    Raises:
        ConfigError: the labels name one that is not there, or none can be read.
    """
    from actors.models.tables import find_proposer
    from actors.scorer import Scorer
    from pipeline.isolation import Reader
    from pipeline.listing import list_videos
    from pipeline.stages import probe

    files = {Path(file["uri"]).name: file for file in list_videos(str(media))}
    if lost := sorted({label.file for label in labels} - set(files)):
        msg = f"--labels name {', '.join(lost)}, which --media {media} does not hold; add the files or drop the labels"
        raise ConfigError(msg)
    texts = list(dict.fromkeys([label.query for label in labels] or [NO_QUESTION]))
    queries = [Query(f"q{number}", text, "ask") for number, text in enumerate(texts)]
    reader = Reader(DecodeConfig(), WindowConfig(length_s=LENGTH_S, sample_fps=1.0))
    entry = find_proposer(score)
    scorer = Scorer(entry.make, score, queries, device)
    sizes = llm.parts.frame_size, entry.describe(score).frame_size
    readable = 0
    for name, file in sorted(files.items()):
        facts = probe(reader, file)
        if facts["status"] != "ok":
            print(f"left out: {name}: {facts['status']} ({facts.get('error_message', '')})", file=sys.stderr)
            continue
        window = {**file, **facts, "start_s": 0.0, "end_s": min(LENGTH_S, float(facts["duration_s"]))}
        own = [label for label in labels if label.file == name]
        readable += 1
        yield _read_clip(reader, name, window, sizes, scorer, queries, own)
    if not readable:
        msg = f"--media {media}: none of {len(files)} files can be read; give a folder with some real footage"
        raise ConfigError(msg)


def _read_clip(
    reader: "Reader",
    name: str,
    window: "Row",
    sizes: tuple[Any, Any],
    scorer: Any,
    queries: Sequence[Query],
    labels: Sequence[Label],
) -> Clip:
    """Return one clip, sampled at the answerer's size and at the proposer's; without labels it has one question."""
    from pipeline import rows
    from pipeline.route import route_by_rules
    from pipeline.stages import sample_window

    large, small = (sample_window(reader, size, window) for size in sizes)
    row = {**window, **small, **scorer.score({**window, **small})}
    by_text = {query.text: query for query in queries}
    asked = [by_text[label.query] for label in labels] or [queries[0]]
    row["query_ids"] = [query.query_id for query in asked]
    routes = {query.query_id: route_by_rules(query.text, query.kind) for query in queries}
    pts_s_N = np.asarray(small["pts_s"])
    if large["pts_s"] != small["pts_s"]:
        msg = f"{name}: two readings gave {len(large['pts_s'])} and {len(pts_s_N)} frames; expected the same ones"
        raise ConfigError(msg)
    spans = [label.spans_s for label in labels] or [()]
    return Clip(
        name,
        Asked(row, queries, routes),
        cast("npt.NDArray[np.uint8]", rows.unpack(large["pixels"])),
        np.stack([inside(pts_s_N, own) for own in spans]),
    )


def inside(pts_s_N: npt.NDArray[np.float64], spans_s: Sequence[tuple[float, float]]) -> npt.NDArray[np.bool_]:
    """Return which times lie in one of some half-open spans, [N]."""
    found_N = np.zeros(len(pts_s_N), bool)
    for start_s, end_s in spans_s:
        found_N |= (pts_s_N >= start_s) & (pts_s_N < end_s)
    return found_N


def share(part: int, whole: int) -> float | None:
    """Return a part of a whole; None of nothing."""
    return part / whole if whole else None
