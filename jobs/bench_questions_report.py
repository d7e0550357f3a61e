"""What is wanted of many questions, what was measured, and the report of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from jobs.bench_report import circumstances, table

AIMS = {"q16_vs_1": 2.0, "q64_vs_1": 4.0, "batched_vs_loop": 3.0, "estimator_error": 0.15}
AT_LEAST = ("batched_vs_loop",)
"""Aims that are a lower bound; the others are upper ones."""


@dataclass
class Measured:
    """What was found so far."""

    language: str = ""
    """Where the language model's weights come from."""
    dtype: str = ""
    """Number format of what was timed."""
    figures: dict[str, float | None] = field(default_factory=lambda: dict.fromkeys(AIMS))
    is_equal: list[bool] = field(default_factory=list[bool])
    rows: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    holds: bool = True
    """Whether the run under a small budget kept to it and answered everything."""

    @property
    def passes(self) -> bool:
        """Whether every aim is measured and met, all answers were equal and the budget held."""
        return (
            self.holds
            and all(self.is_equal)
            and all(meets(name, value) for name, value in self.figures.items())
        )


def meets(name: str, value: float | None) -> bool:
    """Return whether a figure is measured and within its aim."""
    if value is None:
        return False
    return value >= AIMS[name] if name in AT_LEAST else value <= AIMS[name]


def lines(command: str, about: Sequence[str], repeats: int, found: Measured) -> list[str]:
    """Return the lines of the Markdown report.

    Args:
        command: repeats the run.
        about: what was asked about what.
        repeats: how often the questions to one window were timed.
        found: with at least the first part.
    """
    written = [
        "# Questions: many to one window, beside one and beside a plain loop",
        "",
        *circumstances(command),
        "",
        *about,
        "",
        *_figures_table(found),
        "",
        *_equality_lines(found),
        "",
        f"Questions to one window, median of {repeats}, the order changing. Decode steps are summed over answers."
        " Stages: vision tower (encode), prefill of the frames (show), pass of all questions (put), all else (decode).",
        "",
        *_questions_table(found),
    ]
    for row in found.rows:
        if row["part"] == "loop":
            written += ["", *_loop_lines(row)]
        elif row["part"] == "budget":
            written += ["", *_memory_lines(found), "", *_budget_lines(row)]
    return written


def _figures_table(found: Measured) -> list[str]:
    rows = [
        [
            name,
            "not measured" if value is None else f"{value:.3f}",
            f"{'at least' if name in AT_LEAST else 'at most'} {AIMS[name]:g}",
            "yes" if meets(name, value) else "no",
        ]
        for name, value in found.figures.items()
    ]
    return table(["figure", "measured", "aim", "met"], rows)


def _equality_lines(found: Measured) -> list[str]:
    """Return what is known of equality before anything was timed."""
    lines: list[str] = []
    for row in found.rows:
        if row["part"] == "equality":
            lines.append(
                f"Equality, float32: {row['same_answers']} of {row['questions']} answers given together are those given"
                f" one at a time ({row['refused']} of them refused: no text), labels' mean log-probabilities at most"
                f" {row['label_log_error']:.1e} apart."
            )
        elif row["part"] == "loop equality":
            lines.append(
                f"Equality with transformers' own forward and generate, float32: {row['same_answers']} of"
                f" {row['questions']} answers."
            )
    return lines


def _questions_table(found: Measured) -> list[str]:
    rows = [row for row in found.rows if row["part"] == "questions"]
    one_s = {row["kinds"]: row["wall_s"] for row in rows if row["questions"] == 1}
    counters = ("vision_frames", "prefills", "prefill_tokens", "decode_steps")
    stages = ("encode", "show", "put", "decode")
    body = [
        [
            row["kinds"],
            f"{row['questions']}",
            f"{row['wall_s']:.2f}",
            f"{row['wall_s'] / one_s[row['kinds']]:.2f}" if row["kinds"] in one_s else "",
            f"{row['cpu_s']:.2f}",
            *(f"{row[name]:,}" for name in counters),
            *(f"{row['stages_s'][name]:.2f}" for name in stages),
        ]
        for row in rows
    ]
    head = [
        "kinds",
        "questions",
        "wall s",
        "times one",
        "CPU s",
        *(name.replace("_", " ") for name in counters),
    ]
    return table(head + [f"{name} s" for name in stages], body)


def _loop_lines(row: dict[str, Any]) -> list[str]:
    return [
        f"{row['questions']} questions to {row['windows']} windows, half of them answered in free text, {row['dtype']}:"
        f" {row['ours_s']:.1f} s in one call, {row['loop_s']:.1f} s one after the other with transformers' own forward"
        f" and generate: {row['ratio']:.2f} times ({row['cpu_ratio']:.2f} in CPU seconds)."
        f" {row['same_answers']} answers are equal (rounding may turn a close choice of words),"
        f" {row['decode_steps']} and {row['loop_decode_steps']} decode steps."
    ]


def _memory_lines(found: Measured) -> list[str]:
    rows = [
        [
            row["shape"],
            *(f"{row[f'{name}_bytes'] / 1e9:.3f}" for name in ("weights", "reckoned", "taken")),
            f"{row['error']:+.1%}",
        ]
        for row in found.rows
        if row["part"] == "memory"
    ]
    return [
        "Memory that the estimator reckons and that was taken at most, weights included, GB, float32:",
        "",
        *table(["shape", "weights", "reckoned", "taken", "error"], rows),
    ]


def _budget_lines(row: dict[str, Any]) -> list[str]:
    budget, tight, roomy = (
        f"{size / 1e9:.2f} GB"
        for size in (row["budget_bytes"], row["tight"]["taken_bytes"], row["roomy"]["taken_bytes"])
    )
    same = "the same" if row["same_answers"] else "not the same"
    return [
        f"Under a budget of {budget} {tight} were taken, without one {roomy}; {row['refused']} questions were refused,"
        f" the answers are {same}."
    ]
