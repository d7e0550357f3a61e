"""Plans that are compared at one budget: what a frame costs at which budget, and the plans that look at no question.

Budgets are caps, shares of what all frames cost at full resolution. Scales halve: 1, 2, 4 up to a single token.
"""

from dataclasses import dataclass, replace

from pipeline.budget import Plan, plan_tokens
from pipeline.config import PlanConfig

UNTRAINED, TRAINED = "VideoRouter untrained", "VideoRouter trained"
TARGET_PCT = 32.1
"""The paper's share of the dense tokens, at which methods are judged."""
EVIDENCE_SHARE = 8
"""The background must leave room for one whole frame in so many."""
PAPER_SCALES = ((2, 4), (4, 8))
"""(s_g, s_0) of VideoRouter's two variants."""
PAPER_CAP_PCT = 75.0
"""Its cap: 12,288 of 16,384 tokens."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A cap, and the scales that routed methods have under it."""

    budget_pct: float
    plan: PlanConfig
    scales: str = ""
    """Written behind a method's name where the scales are not those of the rule."""


def cap_tokens(dense_tokens: int, budget_pct: float) -> int:
    """Return how many tokens a share of the dense ones is, rounded down."""
    return int(dense_tokens * budget_pct / 100 + 1e-9)


def by_rule(base: PlanConfig, num_frames: int, tokens_per_frame: int, budget_pct: float) -> Setting:
    """Return the setting of a budget, the same for every routed method.

    s_g is the finest scale at which all frames fit, s_0 the finest at which all fit beside whole frames for an eighth
    of them (EVIDENCE_SHARE), s_1 is 1. Where nothing fits it is the coarsest, and the planner shows fewer frames.
    """
    budget = cap_tokens(num_frames * tokens_per_frame, budget_pct)
    few = max(1, num_frames // EVIDENCE_SHARE)
    whole = _finest(tokens_per_frame, budget // num_frames)
    beside = _finest(tokens_per_frame, (budget - few * tokens_per_frame) // max(1, num_frames - few))
    plan = replace(base, budget_tokens=budget, scale_global=whole, scale_relevant=1, scale_background=beside)
    return Setting(budget_pct, plan)


def by_paper(
    base: PlanConfig, num_frames: int, tokens_per_frame: int, scale_global: int, scale_background: int
) -> Setting:
    """Return one of the paper's variants, under its cap."""
    budget = cap_tokens(num_frames * tokens_per_frame, PAPER_CAP_PCT)
    plan = replace(
        base,
        budget_tokens=budget,
        scale_global=scale_global,
        scale_relevant=1,
        scale_background=scale_background,
    )
    return Setting(PAPER_CAP_PCT, plan, f" ({scale_global},{scale_background})")


def halving(tokens_per_frame: int) -> list[int]:
    """Return the scales 1, 2, 4 and so on that leave a token."""
    return [1 << power for power in range(tokens_per_frame.bit_length())]


def _finest(tokens_per_frame: int, most_tokens: int) -> int:
    """Return the finest scale at which a frame costs at most so much; the coarsest if none does."""
    fitting = [scale for scale in halving(tokens_per_frame) if tokens_per_frame // scale <= most_tokens]
    return (fitting or halving(tokens_per_frame)[-1:])[0]


def uniform_frames(num_frames: int, tokens_per_frame: int, budget_tokens: int) -> Plan:
    """Return whole frames at equal distances, as many as fit; a cap below one frame buys frames of one token."""
    coarsest = halving(tokens_per_frame)[-1]
    return plan_tokens(
        [0.0] * num_frames, route="global", route_confidence=1.0, tokens_per_frame=tokens_per_frame,
        budget_tokens=budget_tokens, threshold=1.0, scale_global=1, scale_relevant=1, scale_background=coarsest,
    )  # fmt: skip


def uniform_pooling(num_frames: int, tokens_per_frame: int, budget_tokens: int) -> Plan:
    """Return all frames at the largest size that fits; what is left raises equally spaced ones to the next size.

    So it spends what it may, as far as sizes allow. Frames that do not fit even with one token each are left out.
    """
    sizes = [tokens_per_frame // scale for scale in halving(tokens_per_frame)]
    fitting = [size for size in sizes if num_frames * size <= budget_tokens]
    size = fitting[0] if fitting else 0
    above = min((other for other in sizes if other > size), default=size)
    room = (budget_tokens - num_frames * size) // (above - size) if above > size else 0
    raised = min(room, num_frames)
    tokens = [size] * num_frames
    for place in range(raised):
        tokens[(2 * place + 1) * num_frames // (2 * raised)] = above
    reason = f"{raised} of {num_frames} frames at {above} tokens, the others at {size}"
    return Plan("global", tuple(tokens), reason)
