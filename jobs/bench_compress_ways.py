"""The methods that are compared, each brought to the same budgets of visual tokens.

A compressor that throws away a share of the tokens is given that share and a plan of whole frames; one that follows
its plan is given the plan. A selector spends the budget by itself, and what it leaves of a frame is pooled. What a
method really keeps is measured, not assumed: one that spares whole frames keeps more than the share says.

Shape letters: T frames, N tokens of a frame, D hidden size, P probes.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from jobs.bench_route_plans import by_rule, uniform_frames, uniform_pooling
from jobs.bench_windows import draw_frames
from pipeline.budget import Plan
from pipeline.compress import TOKEN_COMPRESSORS
from pipeline.config import CompressConfig, PlanConfig, ScoreConfig
from pipeline.frames import FrameSize
from pipeline.queries import Query
from pipeline.route import Route
from pipeline.rows import Row
from pipeline.stages import plan_window
from pipeline.tokens import VisualTokens, whole_frames

if TYPE_CHECKING:
    from pipeline.tokens import CompressFn

COMPRESS, SELECT = "TOKEN_COMPRESSORS", "FRAME_SELECTORS"
DENSE = "no compression"
POOLING = "uniform"
"""The compressor behind selectors."""
NUM_PROBES = 5
MOVING_SHARE = 0.5
"""Of the tokens of a drawn clip, those that are new in every frame."""
DRIFT = 0.2
"""How far the others move from frame to frame, of their own size."""

PlanFn = Callable[[int, int, int], Plan]
"""Given frames, tokens per frame and the budget."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One window and what is asked about it, as the planner sees it."""

    row: Row
    """Columns of rows.SCORED."""
    queries: Sequence[Query]
    """Every question there is, in the order of the relevance's columns."""
    routes: Mapping[str, Route]

    @property
    def num_frames(self) -> int:
        """Sampled frames."""
        return len(self.row["pts_s"])


@dataclass(frozen=True, slots=True)
class Way:
    """An entry of a table at a budget."""

    table: str
    name: str
    budget_pct: float
    settings: CompressConfig
    plan: PlanFn | None = None
    """Spends the budget without a look at the question; None = the selector does."""

    def plans(self, asked: Asked, tokens_per_frame: int) -> list[Plan]:
        """Return the plan of each question of a window."""
        num_asked = len(asked.row["query_ids"])
        setting = by_rule(PlanConfig(), asked.num_frames, tokens_per_frame, self.budget_pct).plan
        if self.plan is not None:
            return [self.plan(asked.num_frames, tokens_per_frame, setting.budget_tokens)] * num_asked
        config = replace(setting, selector=self.name)
        planned = plan_window(
            dict(asked.routes), asked.queries, config, ScoreConfig(), tokens_per_frame, asked.row
        )
        return [Plan(one["route"], tuple(one["tokens"]), one["reason"]) for one in planned["plans"]]


def whole(num_frames: int, tokens_per_frame: int, _: int) -> Plan:
    """Return the plan that cuts nothing."""
    return Plan("global", (tokens_per_frame,) * num_frames, "every frame whole")


def every_way(
    compressors: Sequence[str],
    selectors: Sequence[str],
    budgets_pct: Iterable[float],
    policies: Sequence[Path] = (),
) -> list[Way]:
    """Return what is compared: dense first, then every entry at every budget, and every trained policy."""
    found = [Way(COMPRESS, DENSE, 100.0, CompressConfig(compressor="none"), whole)]
    budgets_pct = list(budgets_pct)
    for name in compressors:
        found += [_compressor(name, budget_pct) for budget_pct in budgets_pct]
    for folder in policies:
        for budget_pct in budgets_pct:
            settings = CompressConfig(
                compressor="policy", policy=str(folder), prune_ratio=1 - budget_pct / 100
            )
            found.append(Way(COMPRESS, f"policy {folder.name}", budget_pct, settings, whole))
    for name in selectors:
        found += [
            Way(SELECT, name, budget_pct, CompressConfig(compressor=POOLING)) for budget_pct in budgets_pct
        ]
    return found


def uncut(name: str) -> Way:
    """Return a compressor that is asked to leave everything as it is."""
    return Way(COMPRESS, name, 100.0, CompressConfig(compressor=name, prune_ratio=0.0), whole)


def _compressor(name: str, budget_pct: float) -> Way:
    settings = CompressConfig(compressor=name, prune_ratio=1 - budget_pct / 100)
    if throws_shares(TOKEN_COMPRESSORS[name]):
        return Way(COMPRESS, name, budget_pct, settings, whole)
    plan = uniform_frames if name == "none" else uniform_pooling
    return Way(COMPRESS, name, budget_pct, replace(settings, prune_ratio=0.0), plan)


def throws_shares(compress: "CompressFn") -> bool:
    """Return whether a compressor keeps less of the same clip when it is told to throw away more."""
    clip = draw_clip(12, (4, 4), 8, FrameSize(16, 16))
    kept = [
        len(compress(clip, [clip.num_per_frame] * 12, CompressConfig(prune_ratio=ratio)).source_N)
        for ratio in (0.25, 0.75)
    ]
    return kept[0] > kept[1]


def draw_clip(
    num_frames: int, grid: tuple[int, int], hidden: int, size: FrameSize, device: str = "cpu"
) -> VisualTokens:
    """Return tokens of a clip of which half moves, with pictures and probes, from a seeded generator.

    Args:
        num_frames: T.
        grid: rows and columns of a frame.
        hidden: D.
        size: of the pictures.
        device: where the tensors are.
    """
    generator = torch.Generator().manual_seed(0)
    num = grid[0] * grid[1]
    new_TND = torch.randn(num_frames, num, hidden, generator=generator)
    moving_TN = torch.rand(num_frames, num, generator=generator) < MOVING_SHARE
    values_TND = torch.empty_like(new_TND)
    for frame in range(num_frames):  # each is made of the one before
        before_ND = values_TND[max(0, frame - 1)] if frame else new_TND[0]
        still_ND = before_ND + DRIFT * new_TND[frame]
        values_TND[frame] = torch.where(moving_TN[frame, :, None], new_TND[frame], still_ND)
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    clip = whole_frames(values_TND.to(device, dtype), grid)
    pictures = torch.from_numpy(np.ascontiguousarray(draw_frames(0, num_frames, size).data_NHWC))
    probes_PD = torch.randn(NUM_PROBES, hidden, generator=generator).to(device, dtype)
    return replace(clip, pixels_THWC=pictures.to(device), probes_PD=probes_PD)
