"""Does the frame scorer find the right moments? Ranked frames against labelled spans, beside chance and uniform.

Videos take the product's own path: the same sampling times, decoder, scorer and smoothing as a job, without Ray.
A labels file has one JSON object per line: `file`, `query`, and `spans_s`, a list of half-open [start, end) in
seconds. Photos are COCO photos with YOLO labels, one question per category.

- average precision: over the sampled frames of one video, ranked by relevance; equal frames share a rank, so their
  order in time gains nothing. Chance is its expectation under a random order, in closed form.
- evidence recall@k: share of the labelled spans that at least one of k evidence frames, chosen as a job chooses them,
  falls into. A span that no sampled frame falls into counts as missed. Uniform is k frames spread evenly.
"""

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import tyro

from jobs.bench_report import circumstances, table, write_report
from jobs.command_line import parse, require
from pipeline.budget import plan_evidence
from pipeline.config import ScoreConfig
from pipeline.errors import ConfigError

PROG = "reelsift bench retrieval"
KS = (1, 5, 10)
MIN_PHOTOS = 3
"""Categories with fewer photos are left out: their precision is luck."""
Doubles = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Arguments:
    """Measure how well the frame scorer finds labelled moments."""

    media: tyro.conf.UseAppendAction[tuple[Path, ...]]
    """Folder with the videos that the labels name; may be given several times."""
    labels: Path
    """JSON lines: file, query, spans_s."""
    photos: Path | None = None
    """Folder of COCO photos with YOLO labels (images/, object_detection/)."""
    sample_fps: float = 1.0
    """Frames looked at per second."""
    report: Path | None = None
    """Markdown file to write; the default, for the usual settings with photos, is named after the machine and the
    day, in docs/benchmarks/."""
    score: Annotated[ScoreConfig, tyro.conf.arg(name="")] = field(default_factory=ScoreConfig)


@dataclass(frozen=True)
class Label:
    """One question put to one video."""

    file: str
    query: str
    spans_s: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Result:
    """What one question gave."""

    file: str
    query: str
    num_frames: int
    prevalence: float
    """Share of the sampled frames that show it."""
    ap: float | None
    """Average precision; None when no sampled frame shows it, like the two below."""
    ap_unsmoothed: float | None
    ap_chance: float | None
    recall: dict[int, float]
    """Evidence recall by k."""
    recall_uniform: dict[int, float]


def main(argv: list[str]) -> int:
    """Measure, print a table to stderr and JSON to stdout, write the report; return the exit code.

    Raises:
        ConfigError: labels or videos do not fit.
    """
    args = parse(Arguments, argv, PROG, __doc__)
    require("--sample-fps", args.sample_fps, above=0)
    labels = read_labels(args.labels)
    from actors.models.tables import find_scorer

    entry = find_scorer(args.score)
    facts = entry.describe(args.score)
    scorer = entry.make(args.score, "cpu")
    results, seconds_per_frame = _measure_videos(args, labels, scorer, facts.frame_size)
    document: dict[str, Any] = {
        "bench": "retrieval", "scorer": facts.name, "sample_fps": args.sample_fps, "smooth_s": args.score.smooth_s,
        "score_cpu_ms_per_frame": round(1000 * seconds_per_frame, 2), **summary(results),
    }  # fmt: skip
    if args.photos is not None:
        document["photos"] = _measure_photos(args.photos, scorer, facts.frame_size)
    document["questions"] = [asdict(result) for result in results]
    write_report("retrieval", report(document, results), args.report, _lacking(args))
    print(json.dumps(document))
    return 0


def _lacking(args: Arguments) -> list[str]:
    """Return what a run of the usual settings with photos has more than this."""
    is_usual = (args.sample_fps, args.score) == (Arguments.sample_fps, ScoreConfig())
    return ([] if is_usual else ["the settings are not the usual ones"]) + (
        [] if args.photos else ["no --photos"]
    )


def read_labels(path: Path) -> list[Label]:
    """Return the labels of a file.

    Raises:
        ConfigError: there is no such file, or a line is not a label; the message names every such line.
    """
    labels: list[Label] = []
    mistakes: list[str] = []
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        msg = f"--labels {path}: cannot be read: {error}"
        raise ConfigError(msg) from error
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
            spans_s = tuple((float(start), float(end)) for start, end in value["spans_s"])
            labels.append(Label(str(value["file"]), str(value["query"]), spans_s))
        except (ValueError, KeyError, TypeError) as error:
            mistakes.append(f"line {number}: {error!r}")
            continue
        if not spans_s or any(end <= start for start, end in spans_s):
            mistakes.append(
                f"line {number}: spans_s must hold [start, end) with start < end, found {spans_s}"
            )
    if mistakes or not labels:
        msg = f"{path}: {'; '.join(mistakes) or 'no labels'}; each line needs file, query and spans_s"
        raise ConfigError(msg)
    return labels


# --- figures -------------------------------------------------------------------------------------------------


def chance_precision(num_items: int, num_hits: int) -> float | None:
    """Return the expected average precision of a random order, None without a hit.

    A hit at rank k has on average 1 + (k - 1)(hits - 1)/(items - 1) hits up to and with it; ranks are equally likely.
    """
    if num_hits == 0:
        return None
    if num_items == 1:
        return 1.0
    rank = np.arange(1, num_items + 1)
    return float(np.mean((1 + (rank - 1) * (num_hits - 1) / (num_items - 1)) / rank))


def evidence_recall(times_s: Iterable[float], spans_s: Sequence[tuple[float, float]]) -> float:
    """Return the share of half-open spans that at least one of the times falls into."""
    times_s = list(times_s)
    return sum(any(start <= t < end for t in times_s) for start, end in spans_s) / len(spans_s)


def judge(label: Label, pts_s_N: Doubles, relevance_N: Floats, smoothed_N: Floats) -> Result:
    """Return the figures of one question from the relevance of every sampled frame."""
    from jobs.training.measures import average_precision

    is_hit_N = np.asarray([any(start <= t < end for start, end in label.spans_s) for t in pts_s_N], bool)
    num = len(pts_s_N)
    best = {k: list(plan_evidence(smoothed_N, pts_s_N, k)) for k in KS}
    uniform = {k: np.unique(((np.arange(k) + 0.5) / k * num).astype(int)) for k in KS}
    return Result(
        file=label.file,
        query=label.query,
        num_frames=num,
        prevalence=float(is_hit_N.mean()),
        ap=average_precision(smoothed_N, is_hit_N),
        ap_unsmoothed=average_precision(relevance_N, is_hit_N),
        ap_chance=chance_precision(num, int(is_hit_N.sum())),
        recall={k: evidence_recall(pts_s_N[best[k]], label.spans_s) for k in KS},
        recall_uniform={k: evidence_recall(pts_s_N[uniform[k]], label.spans_s) for k in KS},
    )


def summary(results: Sequence[Result]) -> dict[str, Any]:
    """Return means over the questions; those that no sampled frame shows have no average precision."""

    def mean(values: Iterable[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return round(float(np.mean(known)), 4) if known else None

    return {
        "num_questions": len(results),
        "num_without_a_frame": sum(result.ap is None for result in results),
        "map": mean(result.ap for result in results),
        "map_unsmoothed": mean(result.ap_unsmoothed for result in results),
        "map_chance": mean(result.ap_chance for result in results),
        "recall": {k: mean(result.recall[k] for result in results) for k in KS},
        "recall_uniform": {k: mean(result.recall_uniform[k] for result in results) for k in KS},
    }


# --- measuring -----------------------------------------------------------------------------------------------


def _measure_videos(
    args: Arguments, labels: Sequence[Label], scorer: Any, size: Any
) -> tuple[list[Result], float]:
    """Return one result per label, and the mean CPU seconds that scoring one frame took."""
    from pipeline.config import DecodeConfig, WindowConfig
    from pipeline.isolation import Reader
    from pipeline.listing import list_videos
    from pipeline.smooth import smooth
    from pipeline.times import sample_times

    reader = Reader(DecodeConfig(), WindowConfig())
    paths = {name: _find(args.media, name) for name in dict.fromkeys(label.file for label in labels)}
    results: list[Result] = []
    cpu_s, num_frames = 0.0, 0
    for name, path in paths.items():
        asked = [label for label in labels if label.file == name]
        times_s = sample_times(0.0, _duration_s(path), args.sample_fps)
        [file] = list_videos(str(path))
        frames, _ = reader.look(file, times_s, size)
        started = time.process_time()
        embedding_NE = scorer.embed_frames(frames.data_NHWC)
        cpu_s, num_frames = cpu_s + time.process_time() - started, num_frames + len(frames)
        texts_PE = scorer.embed_texts([label.query for label in asked])
        relevance_NP = scorer.relevance(embedding_NE, texts_PE)
        smoothed_NP = smooth(relevance_NP, frames.pts_s_N, args.score.smooth_s, embedding_NE)
        for column, label in enumerate(asked):
            results.append(judge(label, frames.pts_s_N, relevance_NP[:, column], smoothed_NP[:, column]))
    return results, cpu_s / num_frames


def _find(folders: Sequence[Path], name: str) -> Path:
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    msg = f"the labels name {name!r}, which is in none of {', '.join(map(str, folders))}; add its folder with --media"
    raise ConfigError(msg)


def _duration_s(path: Path) -> float:
    """Return what the container says; a time past the last picture gives no frame."""
    import av
    import av.error

    try:
        with av.open(str(path)) as container:
            duration_us = container.duration
    except (av.error.FFmpegError, OSError) as error:
        msg = f"{path} cannot be opened: {error}; leave it out of the labels"
        raise ConfigError(msg) from error
    if duration_us is None:
        msg = f"{path} does not say how long it is; remux it or leave it out of the labels"
        raise ConfigError(msg)
    return duration_us / 1_000_000


def _measure_photos(folder: Path, scorer: Any, size: Any) -> dict[str, Any]:
    """Return mean average precision over the categories that occur often enough, and the chance of it.

    Raises:
        ConfigError: the folder holds no photos with labels.
    """
    import yaml
    from PIL import Image

    from jobs.training.measures import average_precision

    config, files = folder / "object_detection" / "config.yaml", sorted(folder.glob("images/*/*.jpg"))
    if not config.is_file() or not files:
        msg = f"{folder} must hold images/*/*.jpg, object_detection/config.yaml and object_detection/labels/"
        raise ConfigError(msg)
    names: dict[int, str] = yaml.safe_load(config.read_text(encoding="utf-8"))["names"]
    shown_NC = np.zeros((len(files), len(names)), bool)
    pixels_NHWC = np.empty((len(files), size.height_px, size.width_px, 3), np.uint8)
    for index, file in enumerate(files):
        label_file = folder / "object_detection" / "labels" / file.parent.name / f"{file.stem}.txt"
        lines = label_file.read_text(encoding="utf-8").splitlines() if label_file.is_file() else []
        shown_NC[index, [int(line.split()[0]) for line in lines]] = True
        image = Image.open(file).convert("RGB")
        pixels_NHWC[index] = np.asarray(
            image.resize((size.width_px, size.height_px), Image.Resampling.BICUBIC)
        )
    questions = [f"Is there a {name} in the picture?" for name in names.values()]
    relevance_NC = scorer.relevance(scorer.embed_frames(pixels_NHWC), scorer.embed_texts(questions))
    present = np.flatnonzero(shown_NC.sum(axis=0) >= MIN_PHOTOS)
    ap_by_name = {
        names[int(c)]: average_precision(relevance_NC[:, c], shown_NC[:, c]) or 0.0 for c in present
    }
    chances = [chance_precision(len(files), int(shown_NC[:, c].sum())) or 0.0 for c in present]
    return {
        "num_photos": len(files),
        "num_categories": len(present),
        "map": round(float(np.mean(list(ap_by_name.values()))), 4),
        "map_chance": round(float(np.mean(chances)), 4),
        "ap": {name: round(ap, 3) for name, ap in ap_by_name.items()},
    }


# --- report --------------------------------------------------------------------------------------------------


def report(document: dict[str, Any], results: Sequence[Result]) -> list[str]:
    """Return the lines of the Markdown report."""
    recall = " ".join(
        f"@{k} {document['recall'][k]:.2f} (uniform {document['recall_uniform'][k]:.2f})" for k in KS
    )
    lines = [
        "# Retrieval: does the frame scorer find the right moments?",
        "",
        *_circumstances(document),
        "",
        f"{document['num_questions']} questions: mean average precision **{_show(document['map'])}**"
        f" (unsmoothed {_show(document['map_unsmoothed'])}, random order {_show(document['map_chance'])});"
        f" evidence recall {recall}.",
    ]
    if document["num_without_a_frame"]:
        lines += [
            "",
            f"{document['num_without_a_frame']} questions without a sampled frame have no average precision.",
        ]
    if photos := document.get("photos"):
        ranked = sorted(photos["ap"].items(), key=lambda item: -item[1])
        lines += [
            "",
            f"{photos['num_photos']} photos, {photos['num_categories']} categories: mean average precision"
            f" **{photos['map']:.3f}** (random order {photos['map_chance']:.3f}).",
            f"Best: {', '.join(f'{name} {ap:.2f}' for name, ap in ranked[:8])}.",
            f"Worst: {', '.join(f'{name} {ap:.2f}' for name, ap in ranked[-8:])}.",
        ]
    rows = [
        [
            result.file, result.query, str(result.num_frames), f"{result.prevalence:.2f}", _show(result.ap),
            _show(result.ap_chance), *(f"{result.recall[k]:.2f} ({result.recall_uniform[k]:.2f})" for k in KS),
        ]
        for result in results
    ]  # fmt: skip
    head = ["video", "question", "frames", "shown", "AP", "chance", *(f"recall@{k} (uniform)" for k in KS)]
    return [*lines, "", *table(head, rows)]


def _show(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"


def _circumstances(document: dict[str, Any]) -> list[str]:
    """Return what the figures rest on."""
    command = f"{PROG} --media DIR --labels FILE{' --photos DIR' if 'photos' in document else ''}"
    return [
        *circumstances(command),
        f"- scorer `{document['scorer']}`, {document['sample_fps']:g} frames/s, smoothing {document['smooth_s']:g} s,"
        f" {document['score_cpu_ms_per_frame']:.1f} ms CPU per frame",
    ]
