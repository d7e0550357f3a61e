"""What the comparison of plans found, what is wanted of it, and the figures that say so."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from jobs.bench_route_ask import Tried
from jobs.bench_route_plans import TARGET_PCT, TRAINED
from jobs.bench_route_routers import RouterMeasures, cost_of_question_s
from jobs.bench_route_statistics import Bootstrap, Right
from jobs.bench_route_videos import Watched
from jobs.world.questions import Asked

LEAST_SEMANTIC = 0.95
LEAST_QUESTIONS = 500


@dataclass
class Found:
    """Everything that was measured."""

    videos: list[Watched]
    tokens_per_frame: int
    note: str = ""
    """What is missing, if anything is."""
    proposer: str = ""
    """Name of the scorer that proposes frames."""
    tried: list[Tried] = field(default_factory=list[Tried])
    measures: RouterMeasures = field(default_factory=lambda: RouterMeasures([], {}))
    semantic: dict[str, tuple[float, int]] = field(default_factory=dict[str, tuple[float, int]])
    """Per pair of routers: share of right routes on the ways of asking kept for tests, and of how many."""
    costs: dict[str, list[dict[str, Any]]] = field(default_factory=dict[str, list[dict[str, Any]]])
    wrong: list[str] = field(default_factory=list[str])
    """What must be equal and is not, and budgets that were not kept."""

    @property
    def num_frames(self) -> int:
        """Frames of one video."""
        return len(self.videos[0].window.pts_s_N)

    @property
    def asked(self) -> list[Asked]:
        """Every question, video by video."""
        return [one for watched in self.videos for one in watched.asked]

    @cached_property
    def bootstrap(self) -> Bootstrap:
        """Samples of videos."""
        return Bootstrap(np.repeat(np.arange(len(self.videos)), [len(one.asked) for one in self.videos]))

    def find(self, name: str, budget_pct: float) -> Tried | None:
        """Return a method at a budget; None where it was not tried."""
        for tried in self.tried:
            if (tried.name, tried.setting.budget_pct) == (name, budget_pct):
                return tried
        return None

    @property
    def trio(self) -> tuple[Tried | None, Tried | None, Tried | None]:
        """What is compared: dense, VideoRouter and uniform pooling."""
        return (
            self.find("dense", 100.0), self.find(TRAINED, TARGET_PCT), self.find("uniform pooling", TARGET_PCT)
        )  # fmt: skip

    def difference(self, one: Tried, other: Tried) -> tuple[float, float, float]:
        """Return by how much a method is better than another, and the paired 95 % interval of that."""
        values_Q: Right = one.right_Q - other.right_Q
        return float(values_Q.mean()), *self.bootstrap.interval(values_Q)

    @property
    def ci95(self) -> float:
        """Half the widest 95 % interval of the accuracies that are compared."""
        return max(self.bootstrap.ci95(tried.right_Q) for tried in self.trio if tried)

    @property
    def aims(self) -> dict[str, bool]:
        """What is wanted, and whether it is so."""
        dense, routed, pooled = self.trio
        holds = {
            "equal where all must be equal, and no budget exceeded": not self.wrong,
            f"at least {LEAST_QUESTIONS} questions": len(self.asked) >= LEAST_QUESTIONS,
        }
        if not (dense and routed and pooled):
            return {**holds, f"{TRAINED} measured at {TARGET_PCT:g} %": False}
        _, least_below, most = self.difference(routed, dense)
        above, least, _ = self.difference(routed, pooled)
        margin = self.bootstrap.ci95(dense.right_Q)
        return {
            **holds,
            f"{TRAINED} at {TARGET_PCT:g} % not below dense": most >= 0 and least_below >= -margin,
            f"{TRAINED} above uniform pooling at {TARGET_PCT:g} %": least > 0 and above > self.ci95,
            f"semantic accuracy at least {LEAST_SEMANTIC:g}": self.semantic[TRAINED][0] >= LEAST_SEMANTIC,
        }

    @property
    def passes(self) -> bool:
        """Whether all of it is so."""
        return all(self.aims.values())

    def share_of_saved(self, name: str, *, together: bool = False) -> float | None:
        """Return what routing takes per question by the prefill time that it saves; None where it saves none.

        All frames are candidates; a question that is routed to the whole video pays for the semantic router alone.

        Args:
            name: of a pair of routers.
            together: all questions of a video are asked at once, so that the proposer's time is shared, and so are
                prefills of equal plans; otherwise one question is asked alone and pays the proposer by itself.
        """
        dense, routed = self.find("dense", 100.0), self.find(name, TARGET_PCT)
        if not (dense and routed and dense.prefill_s and routed.prefill_s):
            return None
        score_s = sum(watched.score_s for watched in self.videos)
        looked = float(np.mean(routed.looked))
        if together:
            num, token_s = len(self.asked), sum(dense.prefills_s) / sum(dense.alone_tokens)
            saved_s = (dense.prefill_tokens - routed.prefill_tokens) / num * token_s
            taken_s = cost_of_question_s(self.costs[name], looked) + score_s / num
        else:
            saved_s = dense.prefill_s - routed.prefill_s
            alone = [row for row in self.costs[name] if row["questions"] == 1]
            taken_s = cost_of_question_s(alone, looked) + score_s / len(self.videos)
        return taken_s / saved_s if saved_s > 0 else None

    def document(self) -> dict[str, Any]:
        """Return what is printed as JSON."""
        dense, routed, pooled = self.trio
        seen = self.measures.seen.get(TRAINED)
        figures = {
            "dense_accuracy": _mean(dense),
            "videorouter_32_accuracy": _mean(routed),
            "uniform_pool_32_accuracy": _mean(pooled),
            "ci95": _round(self.ci95),
            "semantic_accuracy": _round(self.semantic[TRAINED][0] if TRAINED in self.semantic else None),
            "image_accuracy": _round(seen.accuracy if seen else None),
            "image_ap": _round(seen.precision if seen else None),
            "router_share_of_saved": _round(self.share_of_saved(TRAINED) if routed else None),
            "router_share_of_saved_together": _round(
                self.share_of_saved(TRAINED, together=True) if routed else None
            ),
        }
        rows = [
            {
                "method": tried.name,
                "budget_pct": tried.setting.budget_pct,
                "accuracy": _mean(tried),
                "ci95": _round(self.bootstrap.ci95(tried.right_Q)),
                "tokens_mean": round(float(np.mean(tried.tokens)), 1),
                "prefill_s": _round(tried.prefill_s, 6),
            }
            for tried in self.tried
        ]
        return {"bench": "route", "pass": self.passes, "figures": figures, "rows": rows}


def _mean(tried: Tried | None) -> float | None:
    return None if tried is None else round(float(tried.right_Q.mean()), 4)


def _round(value: float | None, digits: int = 4) -> float | None:
    return None if value is None else round(value, digits)
