"""The report of the comparison of compressors and selectors: rows, Markdown, and a picture of the Pareto front."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jobs.bench_compress_clips import Clips, share
from jobs.bench_compress_speed import MOST_SHARE, Speed
from jobs.bench_compress_ways import COMPRESS, DENSE, POOLING, SELECT, Way
from jobs.bench_compress_world import World
from jobs.bench_report import circumstances, table
from jobs.bench_route_statistics import SAMPLES

Point = tuple[float, float]
"""Retention, and what is reached with it."""


@dataclass
class Found:
    """Everything that was measured."""

    ways: list[Way]
    world: World
    speed: Speed
    clips: Clips | None

    @property
    def entries(self) -> int:
        """Entries of tables that were compared."""
        return len(
            {(way.table, way.name) for way in self.ways if way.name != DENSE and not way.settings.policy}
        )

    @property
    def aims(self) -> dict[str, bool]:
        """What is wanted, and whether it is so."""
        return {
            "told to keep everything, every compressor gives the dense answers": not self.world.wrong,
            f"no compressor takes more than {100 * MOST_SHARE:g} % of the prefill time that it saves": (
                self.speed.max_share <= MOST_SHARE
            ),
        }

    @property
    def passes(self) -> bool:
        """Whether all of it is so."""
        return all(self.aims.values())

    def row(self, way: Way) -> dict[str, Any]:
        """Return the figures of a method at a budget, as they are printed."""
        tried, cost = self.world.of(way), self.speed.of(way)
        left = self.clips.of(way) if self.clips else None
        return {
            "table": way.table,
            "method": way.name,
            "budget_pct": way.budget_pct,
            "retention": _mean(np.asarray(tried.tokens) / self.world.dense_tokens),
            "accuracy": _mean(tried.right_Q),
            "ci95": _round(self.world.bootstrap.ci95(tried.right_Q)),
            "evidence_recall": _round(share(left.found_frames, left.true_frames) if left else None),
            "clip_retention": _mean(left.tokens) if left else None,
            "compress_ms": _round(1e3 * cost.compress_s if cost else None, 3),
            "peak_mb": _round(cost.peak_mb if cost else None, 1),
        }

    def document(self) -> dict[str, Any]:
        """Return what is printed as JSON."""
        figures = {"entries": self.entries, "max_cost_share": _round(self.speed.max_share, 5)}
        rows = [self.row(way) for way in self.ways]
        return {"bench": "compress", "pass": self.passes, "figures": figures, "rows": rows}


def _mean(values: Any) -> float | None:
    return _round(float(np.mean(values)) if len(values) else None)


def _round(value: float | None, digits: int = 4) -> float | None:
    return None if value is None else round(value, digits)


# --- Markdown ------------------------------------------------------------------------------------------------


def lines(command: str, found: Found, picture: str) -> list[str]:
    """Return the lines of the report.

    Args:
        command: repeats the run.
        found: all that was measured.
        picture: file of the plot, beside the report; empty where there is none.
    """
    world, questions = found.world, len(found.world.tried[0].right)
    return [
        "# Fewer visual tokens: what is left of answers and evidence, and what it costs",
        "",
        *circumstances(command),
        "",
        *[f"- {'met' if holds else 'MISSED'}: {aim}" for aim, holds in found.aims.items()],
        *[f"- {wrong}" for wrong in world.wrong],
        "",
        "A compressor that throws away a share of the tokens is told one minus the budget and given whole frames; one"
        " that follows its plan is given the plan. What is really kept is the column retention: a method that spares"
        " whole frames, or all that it finds new, keeps more than it was told. Selectors spend the budget on frames,"
        f" which are pooled by `uniform`; router `rules`. `{DENSE}` is every token of every frame.",
        "",
        *([f"![Accuracy by retention]({picture})", ""] if picture else []),
        "## Answers on the generated world",
        "",
        f"{questions} questions about {world.num_videos} generated videos that nothing was trained on;"
        f" {world.dense_tokens} tokens dense. ± is half the 95 % interval of a bootstrap over videos ({SAMPLES}"
        " samples). over uniform: points above pooling every frame alike at as many tokens, read off between"
        " its budgets. seen again: share of the frames in which the answer can be seen that keep a token. front: no"
        " other method does better with as few tokens.",
        "",
        *_world_lines(found),
        "",
        *_clip_lines(found),
        "## Time and memory",
        "",
        *_speed_lines(found),
    ]


def _world_lines(found: Found) -> list[str]:
    rows = [found.row(way) for way in found.ways]
    best = front([(row["retention"] or 0.0, row["accuracy"] or 0.0) for row in rows])
    pooled = [(row["retention"], row["accuracy"]) for row in rows if _is_pooled(row)]
    written: list[list[str]] = []
    for place, (way, row) in enumerate(zip(found.ways, rows, strict=True)):
        tried = found.world.of(way)
        again = share(tried.found_frames, tried.true_frames)
        written.append(
            [
                *_heading(way),
                _percent(row["retention"]),
                f"{_percent(row['accuracy'])} ± {_percent(row['ci95'])}",
                _above(row, pooled),
                _percent(again),
                str(sum(tried.refused.values())),
                "yes" if place in best else "",
            ]
        )
    refused = sorted({reason for tried in found.world.tried for reason in tried.refused})
    return [
        *table(
            [
                "table", "method", "budget %", "retention %", "right %", "over uniform", "seen again %", "refused",
                "front",
            ],
            written,
        ),
        *[f"\nrefused: {reason}" for reason in refused],
    ]  # fmt: skip


def _is_pooled(row: dict[str, Any]) -> bool:
    """Return whether a row is of pooling every frame alike, or of its end, no compression."""
    return row["table"] == COMPRESS and row["method"] in (DENSE, POOLING)


def _above(row: dict[str, Any], pooled: Sequence[Point]) -> str:
    """Return by how many points a method is better than pooling at as many tokens; empty outside what was measured."""
    kept, reached = np.asarray(sorted(pooled)).T
    if _is_pooled(row) or row["retention"] is None or not kept[0] <= row["retention"] <= kept[-1]:
        return ""
    alike = np.interp(np.log(row["retention"]), np.log(kept), reached)
    return f"{100 * (row['accuracy'] - alike):+.1f}"


def _heading(way: Way) -> list[str]:
    kind = {COMPRESS: "compressor", SELECT: "selector"}[way.table]
    return [kind, way.name, f"{way.budget_pct:g}"]


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def _clip_lines(found: Found) -> list[str]:
    clips = found.clips
    if clips is None:
        return []
    rows: list[list[str]] = []
    for way in found.ways:
        left = clips.of(way)
        rows.append(
            [
                *_heading(way),
                _percent(float(np.mean(left.tokens))),
                _percent(share(left.found_frames, left.true_frames)),
                _percent(share(left.true_tokens, left.true_frames * clips.tokens_per_frame)),
                str(len(left.refused)),
            ]
        )
    refused = sorted({reason for left in clips.left.values() for reason in left.refused})
    return [
        "## Evidence in real clips",
        "",
        f"{len(clips.names)} clips at one frame per second, {clips.num_labels} labelled questions; tokens are those of"
        f" the vision tower of `{clips.model}`, {clips.tokens_per_frame} a frame. evidence: share of the labelled"
        " seconds that keep a token; of their tokens: how much of these seconds is left.",
        "",
        *table(
            [
                "table", "method", "budget %", "retention %", "evidence %", "of their tokens %", "refused",
            ],
            rows,
        ),
        *[f"\nrefused: {reason}" for reason in refused],
        "",
    ]  # fmt: skip


def _speed_lines(found: Found) -> list[str]:
    speed = found.speed
    rows = [
        [
            *_heading(way),
            f"{cost.kept}",
            f"{1e3 * cost.compress_s:.2f}",
            "" if cost.share is None else f"{100 * cost.share:.3f}",
            f"{cost.peak_mb:.0f}",
        ]
        for way in found.ways
        for cost in [speed.of(way)]
        if cost
    ]
    lengths = ", ".join(f"{length:,} tokens {seconds:.3g} s" for length, seconds in speed.prefill_s)
    cpu = "tensors' by torch's profiler and numpy's by tracemalloc, added"
    memory = cpu if speed.device == "cpu" else "torch's own count"
    number = "float32" if speed.device == "cpu" else "bfloat16"
    return [
        f"One drawn clip of the size of {speed.shape}, {speed.num_frames} frames, {speed.num_tokens:,} tokens as"
        f" {number}, half of them moving, on a {speed.device} with {speed.threads} threads. cost: time by the prefill"
        " time saved. That prefill is one decoder layer with random weights, timed, times the number of layers,"
        f" without vision tower and logits: {lengths}; between these a n + b n^2 is read off. It is no run of the"
        " whole model."
        " Selectors take their time per question, with embeddings and relevance at hand, planning included."
        f" peak: most memory allocated beside the clip at any time ({memory}).",
        "",
        *table(["table", "method", "budget %", "tokens left", "ms", "cost %", "peak MB"], rows),
    ]


# --- the picture ---------------------------------------------------------------------------------------------


def front(points: Sequence[Point]) -> set[int]:
    """Return which points no other one beats: none with as few tokens or fewer reaches more, or as much with fewer."""
    return {
        place
        for place, (kept, reached) in enumerate(points)
        if not any(
            other <= kept and more >= reached and (other, more) != (kept, reached) for other, more in points
        )
    }


def draw(found: Found, path: Path) -> bool:
    """Write the Pareto plot as PNG; return False where matplotlib is not installed (extra `bench`)."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError:
        return False
    rows = [found.row(way) for way in found.ways]
    panels = [("accuracy", "retention", "right answers, generated world")]
    if any(row["evidence_recall"] is not None for row in rows):
        panels.append(("evidence_recall", "clip_retention", "labelled seconds with a token, real clips"))
    figure: Any
    figure, axes = plt.subplots(1, len(panels), figsize=(8 * len(panels), 6), squeeze=False)
    for axis, (reached, kept, label) in zip(axes[0], panels, strict=True):
        _draw_panel(axis, [row for row in rows if row[reached] is not None], reached, kept)
        axis.set(xlabel="share of the dense tokens that is kept", ylabel=label, xscale="log")
        ticks = [0.05, 0.1, 0.25, 0.5, 1.0]
        axis.set_xticks(ticks, [f"{100 * tick:g} %" for tick in ticks])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0][-1].legend(fontsize=7, ncols=2)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return True


def _draw_panel(axis: Any, rows: Sequence[dict[str, Any]], reached: str, kept: str) -> None:
    """Draw a line per method, compressors whole and selectors dashed, and the front behind them."""
    points = [(row[kept], row[reached]) for row in rows]
    best = sorted(points[place] for place in front(points))
    axis.plot(*zip(*best, strict=True), color="0.8", linewidth=6, zorder=0, label="front")
    names = dict.fromkeys((row["table"], row["method"]) for row in rows)
    for number, (owner, name) in enumerate(names):
        own = [(row[kept], row[reached]) for row in rows if (row["table"], row["method"]) == (owner, name)]
        style = {"linestyle": "-" if owner == COMPRESS else "--", "marker": "o" if owner == COMPRESS else "s"}
        label = name if owner == COMPRESS else f"select {name}"
        color = f"C{number % 10}" if name != DENSE else "black"
        axis.plot(*zip(*sorted(own), strict=True), label=label, color=color, markersize=4, **style)
