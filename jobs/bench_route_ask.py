"""Asking one video's questions by every method at every budget, through the answerer's own path.

A video's frames go through the vision tower once, and an image router sees a frame with a question once; what methods
differ in, plans and what the language model makes of them, is computed anew for each.

Shape letters: N frames, Q questions of all videos.
"""

import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from actors.models import Answer, Ask, Floats, ImageRouter, Request
from actors.models.image_router import stand_out
from actors.models.refine import RELEVANT, Refiner
from actors.models.video_llm import FrameFeatures, VideoLlm
from jobs.bench_questions_time import clocked, replaced, synchronize
from jobs.bench_route_plans import Setting, uniform_frames, uniform_pooling
from jobs.bench_route_videos import Watched
from pipeline import rows
from pipeline.budget import Plan, RouteName, plan_tokens
from pipeline.config import PlanConfig, ScoreConfig
from pipeline.queries import Query
from pipeline.route import Route
from pipeline.stages import plan_window

AsksFn = Callable[[Watched, PlanConfig], list[Ask]]
TIMED_TWICE = 2
"""Times a question is asked alone; the faster one counts."""


@dataclass(frozen=True, slots=True)
class Method:
    """A way to spend visual tokens on questions."""

    name: str
    asks: AsksFn
    router: ImageRouter | None = None
    """Looks at candidates before tokens are spent."""
    is_routed: bool = False
    """Whether it has a route and relevant frames, and with them the paper's scales."""


@dataclass(slots=True)
class Tried:
    """A method at a setting, and what came of it so far; question by question, video by video."""

    method: Method
    setting: Setting
    right: list[bool] = field(default_factory=list[bool])
    tokens: list[int] = field(default_factory=list[int])
    routes: list[RouteName] = field(default_factory=list[RouteName])
    """Of the plans that were followed."""
    looked: list[bool] = field(default_factory=list[bool])
    """Whether an image router was asked."""
    texts: list[str] = field(default_factory=list[str])
    refused: int = 0
    over_budget: int = 0
    prefill_tokens: int = 0
    """Tokens that went through the language model, trunks that questions share counted once."""
    prefills_s: list[float] = field(default_factory=list[float])
    alone_tokens: list[int] = field(default_factory=list[int])
    """Tokens of the same prefills."""

    @property
    def name(self) -> str:
        """The method, and the scales where they are not those of the rule."""
        return self.method.name + self.setting.scales

    @property
    def right_Q(self) -> npt.NDArray[np.float64]:
        """1 where the answer was right."""
        return np.asarray(self.right, np.float64)

    @property
    def prefill_s(self) -> float | None:
        """Mean seconds of prefill for one question alone; None where it was not timed."""
        return float(np.mean(self.prefills_s)) if self.prefills_s else None


# --- methods -------------------------------------------------------------------------------------------------


def same_for_all(plan: Callable[[int, int, int], Plan], tokens_per_frame: int) -> AsksFn:
    """Return asks that look at no question: `plan` is given frames, tokens per frame and the budget."""

    def asks(watched: Watched, config: PlanConfig) -> list[Ask]:
        made = plan(len(watched.window.pts_s_N), tokens_per_frame, config.budget_tokens)
        return [_ask(watched, query, made) for query in watched.queries]

    return asks


def frames_at_distances(tokens_per_frame: int) -> Method:
    """Return the method that shows whole frames at equal distances; at 100 % it is the dense one."""
    return Method("uniform frames", same_for_all(uniform_frames, tokens_per_frame))


def pooled_alike(tokens_per_frame: int) -> Method:
    """Return the method that shows all frames, each pooled to what the budget leaves it."""
    return Method("uniform pooling", same_for_all(uniform_pooling, tokens_per_frame))


def dual_encoder_pooling(tokens_per_frame: int, queries: Sequence[Query]) -> Method:
    """Return the paper's baseline without training: every question is about moments, the proposer says which.

    Its border is drawn per (video, question), at the mean plus half a standard deviation.
    """
    column = {query.query_id: place for place, query in enumerate(queries)}

    def asks(watched: Watched, config: PlanConfig) -> list[Ask]:
        relevance_NP = rows.unpack(watched.row["relevance"])
        scores = [stand_out(relevance_NP[:, column[query.query_id]]) for query in watched.queries]
        plans = [_plan(score_N, "fragment", config, tokens_per_frame) for score_N in scores]
        return [_ask(watched, query, plan) for query, plan in zip(watched.queries, plans, strict=True)]

    return Method("dual-encoder pooling", asks, is_routed=True)


def oracle(tokens_per_frame: int) -> Method:
    """Return the method that knows the route and the frames in which the answer can be seen."""

    def asks(watched: Watched, config: PlanConfig) -> list[Ask]:
        plans = [
            _plan(watched.truth_N(place).astype(np.float32), one.route, config, tokens_per_frame)
            for place, one in enumerate(watched.asked)
        ]
        return [_ask(watched, query, plan) for query, plan in zip(watched.queries, plans, strict=True)]

    return Method("oracle", asks, is_routed=True)


def video_router(
    name: str,
    tokens_per_frame: int,
    queries: Sequence[Query],
    routes: Mapping[str, Route],
    score: ScoreConfig,
    router: ImageRouter,
) -> Method:
    """Return the two routers in a row, planned as a job plans: proposed first, then looked at and planned again."""

    def asks(watched: Watched, config: PlanConfig) -> list[Ask]:
        row = plan_window(dict(routes), queries, config, score, tokens_per_frame, watched.row, refines=True)
        plans = zip(watched.queries, row["plans"], strict=True)
        return [
            _ask(
                watched,
                query,
                Plan(plan["route"], tuple(plan["tokens"]), plan["reason"]),
                tuple(plan["candidates"]),
            )
            for query, plan in plans
        ]

    return Method(name, asks, router, is_routed=True)


def _plan(score_N: Floats, route: RouteName, config: PlanConfig, tokens_per_frame: int) -> Plan:
    return plan_tokens(
        score_N,
        route=route,
        route_confidence=1.0,
        tokens_per_frame=tokens_per_frame,
        budget_tokens=config.budget_tokens,
        threshold=RELEVANT,
        scale_global=config.scale_global,
        scale_relevant=config.scale_relevant,
        scale_background=config.scale_background,
    )


def _ask(watched: Watched, query: Query, plan: Plan, candidates: Sequence[int] = ()) -> Ask:
    num = len(watched.window.pts_s_N)
    return Ask(query, plan, np.zeros(num, np.float32), np.zeros((num, 0), np.float32), RELEVANT, candidates)


class Remembered:
    """An image router that looks at the same frames for the same question once per video; see ImageRouter."""

    def __init__(self, router: ImageRouter) -> None:
        self.router = router
        self.found: dict[tuple[str, tuple[int, ...]], Floats] = {}

    @property
    def num_tokens(self) -> int:
        """Tokens that went through the model for it."""
        return self.router.num_tokens

    @property
    def work_bytes(self) -> int:
        """Memory it takes."""
        return self.router.work_bytes

    def relevance(
        self, features: FrameFeatures, index: Sequence[int], times_s: Sequence[float], text: str
    ) -> Floats:
        """Return what the router says; a frame's place in the video stands for the frame."""
        key = text, tuple(round(time_s * 1000) for time_s in times_s)
        if key not in self.found:
            self.found[key] = self.router.relevance(features, index, times_s, text)
        return self.found[key]


# --- asking --------------------------------------------------------------------------------------------------


@contextmanager
def looked_at(llm: VideoLlm, watched: Watched, routers: Iterable[Remembered]) -> Generator[FrameFeatures]:
    """Encode a video's frames, and let the answerer find them encoded in the block; routers forget the last video."""
    assert watched.window.evidence is not None
    data_NHWC = watched.window.evidence.data_NHWC
    features = llm.encode(data_NHWC)
    place = {frame.tobytes(): number for number, frame in enumerate(data_NHWC)}
    for router in routers:
        router.found.clear()

    def kept(frames_NHWC: npt.NDArray[np.uint8], *_: int) -> FrameFeatures:
        index = [place[frame.tobytes()] for frame in frames_NHWC]
        return FrameFeatures(
            features.values_NKD[index],
            features.separators_NKD[index],
            tuple(layer_NKD[index] for layer_NKD in features.layers_NKD),
        )

    with replaced(llm, "encode", lambda _: kept):
        yield features


def put(llm: VideoLlm, watched: Watched, tried: Tried) -> None:
    """Ask all questions of a video at once, and note what came of it."""
    asks = tried.method.asks(watched, tried.setting.plan)
    [answers] = _answer(llm, tried, Request(watched.window, asks))
    for one, ask, answer in zip(watched.asked, asks, answers, strict=True):
        tried.right.append(not answer.error and answer.answer.strip().lower() == one.answer.lower())
        tried.texts.append(answer.answer)
        plan = answer.plan or ask.plan
        # a model that says nothing has seen its frames too
        tried.tokens.append(answer.tokens_used or sum(plan.tokens_N))
        tried.routes.append(plan.route)
        tried.looked.append(bool(ask.candidates))
        tried.refused += bool(answer.error)
        tried.over_budget += tried.tokens[-1] > tried.setting.plan.budget_tokens
        tried.prefill_tokens += answer.cost.prefill_tokens


def _answer(llm: VideoLlm, tried: Tried, request: Request) -> list[list[Answer]]:
    router = tried.method.router
    llm.refiner = Refiner(router, tried.setting.plan, llm.parts.tokens_per_frame) if router else None
    try:
        return llm.answer([request])
    finally:
        llm.refiner = None


def time_alone(llm: VideoLlm, watched: Watched, all_tried: Sequence[Tried]) -> None:
    """Time the prefill of every question asked alone: the language model over the prompt, up to the first word.

    Methods take turns, so that whatever else the machine does falls on all of them.
    """
    asks = [tried.method.asks(watched, tried.setting.plan) for tried in all_tried]
    for place in range(len(watched.queries)):
        runs: list[list[tuple[float, int]]] = [[] for _ in all_tried]
        for _ in range(TIMED_TWICE):
            for tried, own, found in zip(all_tried, asks, runs, strict=True):
                with clocked(llm) as stages_s:
                    [[answer]] = _answer(llm, tried, Request(watched.window, [own[place]]))
                found.append((stages_s["show"] + stages_s["put"], answer.cost.prefill_tokens))
        for tried, found in zip(all_tried, runs, strict=True):
            prefill_s, tokens = min(found)
            tried.prefills_s.append(prefill_s)
            tried.alone_tokens.append(tokens)


def check_equal(all_tried: Sequence[Tried]) -> list[str]:
    """Return what is not as it must be: everything fits at 100 %, so that all methods are one; caps are kept."""
    wrong = [
        f"{tried.name} at {tried.setting.budget_pct:g} %: {tried.over_budget} answers above their budget"
        for tried in all_tried
        if tried.over_budget
    ]
    [dense] = [tried for tried in all_tried if tried.name == "dense"]
    for tried in all_tried:
        if tried.setting.budget_pct >= 100 and (tried.texts, tried.tokens) != (dense.texts, dense.tokens):
            other = sum(a != b for a, b in zip(tried.texts, dense.texts, strict=True))
            wrong.append(
                f"{tried.name} at 100 %: {other} of {len(dense.texts)} answers are not the dense ones"
            )
    return wrong


def median_s(llm: VideoLlm, work: Callable[[], object], repeats: int) -> float:
    """Return the median seconds of some work."""
    found: list[float] = []
    for _ in range(repeats):
        synchronize(llm.model.device)
        started = time.perf_counter()
        work()
        synchronize(llm.model.device)
        found.append(time.perf_counter() - started)
    return float(np.median(found))
