"""How good the routers are by themselves, and what they cost: routes, relevant frames, and what a proposer loses.

Shape letters: N frames of a video, M pairs of a frame and a question.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from actors.models import Floats, ImageRouter
from actors.models.image_router import stand_out
from actors.models.refine import RELEVANT
from actors.models.video_llm import FrameFeatures, VideoLlm
from jobs.bench_route_ask import median_s
from jobs.bench_route_videos import Watched
from jobs.training.measures import average_precision
from jobs.world.questions import ask
from jobs.world.scenes import make_scene
from jobs.world.splits import seeds
from pipeline import rows
from pipeline.budget import plan_evidence
from pipeline.queries import Query
from pipeline.route import RouteManyFn

PROPOSED = (4, 8, 16)
"""Frames that the proposer may name."""
ASKED = (1, 4, 16)
"""Questions of which the cost is measured together."""
REPEATS = 3


@dataclass(slots=True)
class Seen:
    """What one source of relevance says of frames, beside the truth; fragment questions only."""

    scores: list[Floats] = field(default_factory=list[Floats])
    truths: list[npt.NDArray[np.bool_]] = field(default_factory=list[npt.NDArray[np.bool_]])

    @property
    def accuracy(self) -> float:
        """Share of (frame, question) pairs on the right side of .5."""
        return float(((np.concatenate(self.scores) >= RELEVANT) == np.concatenate(self.truths)).mean())

    @property
    def precision(self) -> float | None:
        """Average precision over all pairs."""
        return average_precision(np.concatenate(self.scores), np.concatenate(self.truths))

    @property
    def recall(self) -> float:
        """Share of the true pairs at or above .5."""
        truth_M = np.concatenate(self.truths)
        return float((np.concatenate(self.scores)[truth_M] >= RELEVANT).mean())

    @property
    def share(self) -> float:
        """Share of pairs that are true."""
        return float(np.concatenate(self.truths).mean())


@dataclass(slots=True)
class Cascade:
    """True frames: how many there are, the proposer named, and the image router then found."""

    true: int = 0
    named: int = 0
    found: int = 0


def routes_right(router: RouteManyFn, count: int) -> tuple[float, int]:
    """Return the share of right routes over the test split's questions in the ways kept for tests, and their number."""
    asked = [one for seed in seeds("test", count) for one in ask(make_scene(seed), held_out=True)]
    said = router([(one.text, "ask") for one in asked])
    right = [route.route == one.route for route, one in zip(said, asked, strict=True)]
    return float(np.mean(right)), len(right)


class RouterMeasures:
    """Collects, video by video, what image routers say of every frame for every fragment question."""

    def __init__(self, queries: Sequence[Query], routers: dict[str, ImageRouter]) -> None:
        self.column = {query.query_id: place for place, query in enumerate(queries)}
        self.routers = routers
        self.seen: dict[str, Seen] = {name: Seen() for name in ("dual encoder", *routers)}
        self.cascades: dict[tuple[str, int], Cascade] = {}
        """By router and number of frames proposed; all of them where nothing was proposed."""

    def add(self, watched: Watched, features: FrameFeatures) -> None:
        """Let every router look at a video, whose frames are encoded."""
        relevance_NP = rows.unpack(watched.row["relevance"])
        pts_s_N = watched.window.pts_s_N
        for place, query in enumerate(watched.queries):
            truth_N = watched.truth_N(place)
            if not truth_N.any():
                continue
            proposed_N = relevance_NP[:, self.column[query.query_id]]
            self._note("dual encoder", stand_out(proposed_N), truth_N)
            for name, router in self.routers.items():
                for most in (*PROPOSED, len(pts_s_N)):
                    index = plan_evidence(proposed_N, pts_s_N, most, min_gap_s=0.0)
                    said = router.relevance(features, index, pts_s_N[list(index)].tolist(), query.text)
                    cascade = self.cascades.setdefault((name, len(index)), Cascade())
                    cascade.true += int(truth_N.sum())
                    cascade.named += int(truth_N[list(index)].sum())
                    cascade.found += int((truth_N[list(index)] & (said >= RELEVANT)).sum())
                    if len(index) == len(pts_s_N):
                        self._note(name, said, truth_N)

    def _note(self, name: str, score_N: Floats, truth_N: npt.NDArray[np.bool_]) -> None:
        self.seen[name].scores.append(score_N)
        self.seen[name].truths.append(truth_N)


def costs(
    llm: VideoLlm, router: ImageRouter, semantic: RouteManyFn, watched: Watched, features: FrameFeatures
) -> list[dict[str, Any]]:
    """Return the milliseconds of looking at N candidates for each of Q questions, and of routing these questions."""
    pts_s_N, texts = watched.window.pts_s_N, [query.text for query in watched.queries]
    found: list[dict[str, Any]] = []
    for num_asked in ASKED:
        asked = [texts[place % len(texts)] for place in range(num_asked)]

        def route(asked: Sequence[str] = asked) -> None:
            for text in asked:  # one by one: equal texts would be routed once
                semantic([(text, "ask")])

        semantic_s = median_s(llm, route, REPEATS)
        for num in (*PROPOSED, len(pts_s_N)):
            index = list(range(0, len(pts_s_N), max(1, len(pts_s_N) // num)))[:num]

            def look(index: list[int] = index, asked: Sequence[str] = asked) -> None:
                for text in asked:
                    router.relevance(features, index, pts_s_N[index].tolist(), text)

            image_s = median_s(llm, look, REPEATS)
            found.append(
                {
                    "frames": len(index),
                    "questions": num_asked,
                    "image_ms": 1e3 * image_s,
                    "semantic_ms": 1e3 * semantic_s,
                }
            )
    return found


def cost_of_question_s(found: Sequence[dict[str, Any]], fragment_share: float) -> float:
    """Return the seconds that routing takes per question, every frame a candidate, by the largest batch measured."""
    largest = max(found, key=lambda row: (row["questions"], row["frames"]))
    total_ms = largest["semantic_ms"] + fragment_share * largest["image_ms"]
    return total_ms / 1e3 / largest["questions"]
