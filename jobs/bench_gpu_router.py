"""VideoRouter where only time and memory are measured: both routers at work, with heads that have learnt nothing.

What they say is not followed, since it would be noise: every fourth frame is taken for relevant, which comes to 7,168
of 16,384 tokens at scales (2,4) and 5,632 at (4,8). The paper's questions, of both routes, came to 7,748 and 5,262.
"""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from actors.models.groups import times_s
from actors.models.heads import ImageHead, SemanticHead
from actors.models.image_router import Trained
from actors.models.semantic import TrainedRouter
from actors.models.shadow import Shadow
from jobs.bench_questions_time import synchronize
from jobs.bench_route_plans import by_paper
from pipeline.budget import plan_tokens
from pipeline.config import PlanConfig

if TYPE_CHECKING:
    from actors.models import WindowView
    from actors.models.video_llm import FrameFeatures, VideoLlm
    from pipeline.queries import Query

EARLY_LAYERS, EARLY_TOKENS = 4, 64
"""The paper's layers; frames are pooled for them to so many tokens."""
RELEVANT_EVERY = 4


class Routers:
    """Both routers beside a model, and what they took the last time."""

    def __init__(self, llm: "VideoLlm") -> None:
        self.shadow = Shadow(llm, min(EARLY_LAYERS, llm.language.num_layers), EARLY_TOKENS)
        torch.manual_seed(0)
        hidden = self.shadow.hidden_size
        self.semantic = TrainedRouter(self.shadow, SemanticHead(hidden).eval(), 1.0)
        self.image = Trained(self.shadow, ImageHead(hidden).eval(), 1.0)
        self.seconds = 0.0
        self.question_tokens = 0
        """Tokens of the question read by itself, with the template's."""
        self.frame_tokens = 0
        """Tokens of one frame with the question behind it."""

    def plan(
        self, features: "FrameFeatures", window: "WindowView", query: "Query", scales: tuple[int, int]
    ) -> list[tuple[int, int]]:
        """Return (frame, tokens) of every frame shown, under the paper's cap, once the routers have had their look.

        Args:
            features: of all frames of the window.
            window: these frames.
            query: what is asked.
            scales: (s_g, s_0).
        """
        llm, frames = self.shadow.llm, range(len(features.values_NKD))
        synchronize(llm.model.device)
        started, before = time.perf_counter(), self.shadow.num_tokens
        self.semantic([(query.text, query.kind)])
        asked = self.shadow.num_tokens
        self.image.relevance(features, frames, times_s(window, frames), query.text)
        synchronize(llm.model.device)
        self.seconds = time.perf_counter() - started
        self.question_tokens = asked - before
        self.frame_tokens = (self.shadow.num_tokens - asked) // len(frames)
        return fixed_plan(len(frames), llm.parts.tokens_per_frame, scales)


def fixed_plan(num_frames: int, tokens_per_frame: int, scales: Sequence[int]) -> list[tuple[int, int]]:
    """Return (frame, tokens) of every frame that the fragment route shows when every fourth one is relevant."""
    setting = by_paper(PlanConfig(), num_frames, tokens_per_frame, scales[0], scales[1])
    made = plan_tokens(
        [float(frame % RELEVANT_EVERY == 0) for frame in range(num_frames)],
        route="fragment",
        route_confidence=1.0,
        tokens_per_frame=tokens_per_frame,
        budget_tokens=setting.plan.budget_tokens,
        threshold=0.5,
        scale_global=setting.plan.scale_global,
        scale_relevant=setting.plan.scale_relevant,
        scale_background=setting.plan.scale_background,
    )
    return [(frame, tokens) for frame, tokens in enumerate(made.tokens_N) if tokens]
