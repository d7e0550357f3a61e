"""The report of the comparison of plans at equal budgets, as Markdown."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from jobs.bench_report import circumstances, table
from jobs.bench_route_ask import Tried
from jobs.bench_route_figures import Found
from jobs.bench_route_plans import PAPER_CAP_PCT, TARGET_PCT
from jobs.bench_route_statistics import SAMPLES
from jobs.world.questions import FRAGMENT, GLOBAL

PAPER_SEMANTIC, PAPER_IMAGE = 98.2, 83.4
"""Validation accuracies of VideoRouter's routers, percent."""


def lines(command: str, found: Found) -> list[str]:
    """Return the lines of the report.

    Args:
        command: repeats the run.
        found: all that was measured.
    """
    dense_tokens = found.num_frames * found.tokens_per_frame
    fragments = sum(one.route == "fragment" for one in found.asked)
    return [
        "# Routed plans beside others at equal budgets",
        "",
        *circumstances(command),
        "",
        f"{len(found.asked)} questions about {len(found.videos)} generated videos that nothing was trained on:"
        f" {fragments} about moments, {len(found.asked) - fragments} about the whole video. {found.num_frames} frames"
        f" of {found.tokens_per_frame} tokens, {dense_tokens} dense. An answer is right when it is the word that the"
        f" generator knows to be true. Frames are proposed by `{found.proposer}`. ± is half the 95 % interval of a"
        f" bootstrap over videos ({SAMPLES} samples): questions about one video are not independent.",
        "",
        *([found.note, ""] if found.note else []),
        *[f"- {'met' if holds else 'MISSED'}: {aim}" for aim, holds in found.aims.items()],
        *[f"- {wrong}" for wrong in found.wrong],
        "",
        "Not below dense: the paired difference's 95 % interval reaches 0, and its lower end is at least minus half the"
        " width of dense's own interval. Above uniform pooling: the paired interval lies above 0, and the difference is"
        f" larger than half the widest interval of the three accuracies ({100 * found.ci95:.1f} points).",
        "",
        *_difference_lines(found),
        "## Accuracy, tokens and prefill",
        "",
        *_accuracy_lines(found),
        "",
        f"## By kind of question, at {TARGET_PCT:g} %",
        "",
        *_category_lines(found),
        "",
        "## Routers by themselves",
        "",
        *_router_lines(found),
        "",
        "## What routing costs",
        "",
        *_cost_lines(found),
        "",
        "## Frames proposed by the dual encoder",
        "",
        *_cascade_lines(found),
    ]


def _difference_lines(found: Found) -> list[str]:
    """Return by how much VideoRouter is better than what it is compared with."""
    dense, routed, pooled = found.trio
    if not (dense and routed and pooled):
        return []
    written = [
        f"{name}: {100 * mean:+.1f} points, 95 % interval {100 * low:+.1f} to {100 * high:+.1f}"
        for name, other in (("dense", dense), ("uniform pooling", pooled))
        for mean, low, high in [found.difference(routed, other)]
    ]
    return [f"VideoRouter trained at {TARGET_PCT:g} %, paired: against {'; against '.join(written)}.", ""]


def _accuracy_lines(found: Found) -> list[str]:
    rows = [
        [
            tried.name,
            f"{tried.setting.budget_pct:g}",
            _percent(tried, found),
            f"{np.mean(tried.tokens):.1f}",
            f"{100 * np.mean(tried.tokens) / (found.num_frames * found.tokens_per_frame):.1f}",
            "" if tried.prefill_s is None else f"{1e3 * tried.prefill_s:.2f}",
            f"{tried.prefill_tokens / len(tried.right):.1f}",
            f"{tried.routes.count('fragment')} / {tried.routes.count('global')}",
            f"{tried.refused}",
        ]
        for tried in found.tried
    ]
    return [
        *table(
            [
                "method", "cap %", "right %", "tokens", "tokens %", "prefill ms", "shared tokens",
                "fragment / global", "refused",
            ],
            rows,
        ),
        "",
        "tokens: visual tokens shown per question. prefill: the language model over one question's whole prompt up to"
        " its first word, asked alone, routers not in it; the mean of the questions of the first videos, each the"
        " faster of two. shared tokens: prompt tokens that really went through per question when all questions of a"
        " video are asked together, as a job asks them: those with the same plan share one prefill, so that plans made"
        " for each question save less, or nothing, where many questions are asked of one video. fragment / global:"
        " plans followed.",
        "",
        "Scales at a cap, the same for all routed methods: s_g is the finest at which all frames fit, s_0 the finest"
        " at which all fit beside whole frames for an eighth of them, s_1 is 1; sizes halve. (2,4) and (4,8) are"
        f" the paper's fixed (s_g, s_0), under its cap of {PAPER_CAP_PCT:g} %. Uniform pooling spends what routed plans"
        " leave: frames at equal distances are raised to the next size.",
    ]  # fmt: skip


def _percent(tried: Tried, found: Found) -> str:
    ci95 = found.bootstrap.ci95(tried.right_Q)
    return f"{100 * tried.right_Q.mean():.1f} ± {100 * ci95:.1f}"


def _category_lines(found: Found) -> list[str]:
    """Return accuracy per category and route, of dense and of everything at the judged budget."""
    shown = [
        tried
        for tried in found.tried
        if tried.name == "dense" or (tried.setting.budget_pct == TARGET_PCT and not tried.setting.scales)
    ]
    asked = found.asked
    groups = {
        name: np.array([name in (one.category, f"all {one.route}") for one in asked])
        for name in (*FRAGMENT, "all fragment", *GLOBAL, "all global")
    }
    rows = [
        [name, f"{of_Q.sum()}", *(f"{100 * tried.right_Q[of_Q].mean():.1f}" for tried in shown)]
        for name, of_Q in groups.items()
        if of_Q.any()
    ]
    return table(["category", "questions", *(tried.name for tried in shown)], rows)


def _router_lines(found: Found) -> list[str]:
    routes = [
        [name, f"{100 * right:.1f}", f"{num}", f"{_taken(found, name)}"]
        for name, (right, num) in found.semantic.items()
    ]
    images = [
        [
            name,
            f"{100 * seen.accuracy:.1f}",
            f"{100 * seen.precision:.1f}" if seen.precision is not None else "",
            f"{100 * seen.recall:.1f}",
        ]
        for name, seen in found.measures.seen.items()
        if seen.scores
    ]
    share = next((seen.share for seen in found.measures.seen.values() if seen.scores), 0.0)
    return [
        f"Routes of the same scenes' questions in the ways of asking that are kept for tests (the paper's own router:"
        f" {PAPER_SEMANTIC} % on its labels):",
        "",
        *table(
            ["semantic router of", "right %", "questions", f"fragment / global at {TARGET_PCT:g} %"], routes
        ),
        "",
        "Pairs of a frame and a fragment question, the truth being whether the answer can be seen in the frame (the"
        f" paper's image router: {PAPER_IMAGE} %). {100 * share:.1f} % of them are true, so that one who always says no"
        f" is right in {100 - 100 * share:.1f} %:",
        "",
        *table(["image router of", "right at .5 %", "average precision %", "recall at .5 %"], images),
    ]


def _taken(found: Found, name: str) -> str:
    """Return the routes that were followed."""
    tried = found.find(name, TARGET_PCT)
    taken = Counter(tried.routes) if tried else Counter[str]()
    return f"{taken['fragment']} / {taken['global']}"


def _cost_lines(found: Found) -> list[str]:
    rows: list[Sequence[str]] = []
    for name, costs in found.costs.items():
        rows += [
            [
                name,
                str(row["frames"]),
                str(row["questions"]),
                f"{row['image_ms']:.2f}",
                f"{row['semantic_ms']:.3f}",
            ]
            for row in costs
        ]
    alone, together = (
        "; ".join(
            f"{name} {'saves no prefill time' if share is None else f'{share:.2f}'}"
            for name in found.costs
            for share in [found.share_of_saved(name, together=together)]
        )
        for together in (False, True)
    )
    frames = sum(len(watched.window.pts_s_N) for watched in found.videos)
    score_ms = 1e3 * sum(watched.score_s for watched in found.videos) / frames
    return [
        *table(["routers of", "frames", "questions", "image ms", "semantic ms"], rows),
        "",
        f"Time of the proposer and the routers per question, every frame a candidate, by the prefill time saved against"
        f" dense at {TARGET_PCT:g} %: one question alone, {alone}; all questions of a video together, which share the"
        f" proposer and the prefills of equal plans (shared tokens, at dense's time per token), {together}. Above 1"
        " routing costs more than it saves. Its share grows the smaller a frame and the fewer the layers: here two of"
        f" four layers and frames of {found.tokens_per_frame} tokens, in the paper four of 28 and 256; `reelsift bench"
        " gpu` measures these. The"
        f" proposer takes {score_ms:.1f} ms a frame, once for all questions.",
    ]


def _cascade_lines(found: Found) -> list[str]:
    rows = [
        [name, str(num), f"{100 * one.named / one.true:.1f}", f"{100 * one.found / one.true:.1f}"]
        for (name, num), one in sorted(found.measures.cascades.items())
        if one.true
    ]
    return [
        "Share of the true frames of fragment questions that the proposer names, and that the image router then keeps"
        f" at .5; with {found.num_frames} every frame is looked at:",
        "",
        *table(["image router of", "frames proposed", "named %", "kept %"], rows),
    ]
