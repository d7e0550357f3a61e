"""The second half of a cascade: frames that a cheap scorer proposed, judged inside the language model, planned again.

The image router sees a window's frames where they are encoded for the answers anyway, so each goes through the vision
tower once, whoever asks. What it says replaces relevance: the plan is made anew from it, within the same budget, out
of the frames that were decoded for this question, or, where it finds nothing to choose, as the global route of the
whole window. It therefore does not depend on what else is asked.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from actors.models import Answerer, Ask, Floats, ImageRouter, RefineFn, WindowView
from pipeline.budget import Plan, plan_tokens
from pipeline.config import JobConfig, PlanConfig
from pipeline.errors import AnswerError, ConfigError

if TYPE_CHECKING:
    from actors.models.video_llm import FrameFeatures

RELEVANT = 0.5
"""From here on a frame matters to the question: every image router puts its border there."""


class Refiner:
    """Holds an image router and the budget that plans are made with."""

    def __init__(self, router: ImageRouter, config: PlanConfig, tokens_per_frame: int) -> None:
        self.router = router
        self.config = config
        self.tokens_per_frame = tokens_per_frame

    @property
    def work_bytes(self) -> int:
        """Memory that a look takes at most beside the frames' features."""
        return self.router.work_bytes

    def open(self, window: WindowView, rows: Sequence[int], features: "FrameFeatures") -> "Routing":
        """Return the routing of one window, whose features are of these rows of the evidence."""
        return Routing(self, window, rows, features)


class Routing:
    """One window's frames before the image router; equal questions about equal frames are put to it once."""

    def __init__(
        self, refiner: Refiner, window: WindowView, rows: Sequence[int], features: "FrameFeatures"
    ) -> None:
        self.refiner = refiner
        self.window = window
        self.features = features
        self.place = {window.evidence_index[row]: place for place, row in enumerate(rows)}
        """Of a sampled frame, its place among the features."""
        self.found: dict[tuple[str, tuple[int, ...]], Floats] = {}
        self._paid_tokens = refiner.router.num_tokens

    def refine(self, ask: Ask) -> Ask:
        """Return the ask with the plan that follows from the router's word; see `plan_tokens` for when it is global.

        Raises:
            AnswerError: see `relevance` and `plan_tokens`.
        """
        config = self.refiner.config
        refined_N = np.zeros(len(self.window.pts_s_N), np.float32)
        refined_N[list(ask.candidates)] = self._relevance(ask)
        known_N = np.asarray(ask.plan.tokens_N) > 0
        known_N[list(ask.candidates)] = True
        budget_tokens = ask.query.budget_tokens
        made = plan_tokens(
            refined_N,
            route="fragment",
            route_confidence=1.0,
            tokens_per_frame=self.refiner.tokens_per_frame,
            budget_tokens=config.budget_tokens if budget_tokens is None else budget_tokens,
            threshold=RELEVANT,
            scale_global=config.scale_global,
            scale_relevant=config.scale_relevant,
            scale_background=config.scale_background,
            known_N=known_N,
        )
        reason = f"{len(ask.candidates)} candidates looked at, {made.reason}"
        return replace(ask, plan=Plan(made.route, made.tokens_N, reason), refined_N=refined_N)

    def spent_tokens(self) -> int:
        """Return the tokens that went through the router since this was last asked."""
        before, self._paid_tokens = self._paid_tokens, self.refiner.router.num_tokens
        return self._paid_tokens - before

    def _relevance(self, ask: Ask) -> Floats:
        """Return what the router says of each candidate.

        Raises:
            AnswerError: it cannot be asked this, or has no finite answer.
        """
        key = (ask.query.text, tuple(ask.candidates))
        if key not in self.found:
            index = [self.place[frame] for frame in ask.candidates]
            times_s = [float(self.window.pts_s_N[frame]) for frame in ask.candidates]
            said_N = self.refiner.router.relevance(self.features, index, times_s, ask.query.text)
            if not np.isfinite(said_N).all():
                msg = (
                    "the first layers of the language model give no finite numbers; with float16 weights try"
                    " --answer.dtype bfloat16 or float32, otherwise the weights or the heads are damaged"
                )
                raise AnswerError(msg)
            self.found[key] = said_N
        return self.found[key]


def attach(answerer: Answerer, refine: RefineFn, config: JobConfig) -> None:
    """Let an answerer look at candidates with an image router before it spends tokens.

    Raises:
        ConfigError: it is none that can.
        ModelError: see the router's maker.
    """
    from actors.models.video_llm import VideoLlm

    if not isinstance(answerer, VideoLlm):
        msg = (
            f"scorer {config.score.scorer!r} looks into the language model, and a {type(answerer).__name__} has none"
            " that can be looked into; name a video language model of a known family with --answer.model"
        )
        raise ConfigError(msg)
    answerer.refiner = Refiner(refine(config, answerer), config.plan, answerer.parts.tokens_per_frame)
