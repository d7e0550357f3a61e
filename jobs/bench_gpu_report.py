"""The report of time, memory and speed up to the first token, beside what VideoRouter's authors measured."""

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from jobs.bench_report import circumstances, table

NAMES = (
    "frames", "tokens", "prompt_tokens", "ttft_s", "router_s", "pixels_s", "peak_gb", "achieved_share",
    "decode_tokens_per_s",
)  # fmt: skip
PAPER = (
    ("dense", "none", "16,384", "8.4", "", "36.5"),
    ("uniform pooling", "uniform", "8,192", "4.8", "", "24.6"),
    ("VideoRouter (2,4)", "videorouter-2-4", "7,748", "4.7", "0.5", "23.9"),
    ("VideoRouter (4,8)", "videorouter-4-8", "5,262", "4.2", "", "22.4"),
)
"""What VideoRouter's authors measured, beside which method of this command."""


def lines(command: str, about: str, sizes: tuple[int, int, int], rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return the lines of the Markdown report.

    Args:
        command: repeats the run.
        about: the device, and what it can do.
        sizes: repeats, answers decoded side by side, and tokens of each.
        rows: what was measured.
    """
    repeats, answers, max_new_tokens = sizes
    return [
        "# First token: time, memory and speed of video language models",
        "",
        *circumstances(command),
        f"- transformers {version('transformers')}; {about}",
        "",
        "Models of published shapes with random weights. One window of drawn frames in memory and one question, warm,"
        f" median of {repeats}: pixels prepared on the CPU (pixels_s of the time, by itself), vision tower, routers"
        " (router_s of the time), compression, prompt, prefill, logits. achieved_share: arithmetic of vision tower,"
        " routers and prefill, by that time, by the device's peak. decode_tokens_per_s:"
        f" {answers} answers side by side, {max_new_tokens} tokens each.",
        "",
        *table(
            ["model", "method", *NAMES],
            [[row["model"], row["method"], *(f"{row[name]:,}" for name in NAMES)] for row in rows],
        ),
        "",
        "none is dense, uniform is uniform pooling by 2. videorouter-s_g-s_0: both routers run, with heads that have"
        " learnt nothing, and every fourth frame counts as relevant (bench_gpu_router.py). VideoRouter's own figures"
        " (arXiv 2605.05848), InternVL3-8B, 64 frames: mean tokens of its questions, time to the first token without"
        " loading the video, GPU memory:",
        "",
        *table(["method", "here", "tokens", "first token s", "router s", "memory GB"], PAPER),
    ]
