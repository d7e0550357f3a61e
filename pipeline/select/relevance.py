"""The planner of pipeline/budget.py as an entry of the table: frames by their relevance to the question."""

from pipeline.budget import Plan, plan_tokens
from pipeline.config import PlanConfig, ScoreConfig
from pipeline.methods import Method
from pipeline.route import Route
from pipeline.select.spending import nothing_to_show
from pipeline.selection import SeenFrames

METHOD = Method(
    source="VideoRouter (arXiv 2605.05848), budget-constrained allocation",
    stage="select",
    what="the default: on the fragment route relevant frames whole and others at a quarter, on the global route every"
    " frame at half its tokens (`plan.scale_*`)",
    differs="the only selector that heeds the route, the scales and the threshold of a question, and the only one that"
    " scorers inside the language model plan with; see pipeline/budget.py for where the paper is silent",
    needs=("relevance",),
    query_dependent=True,
)
SURE = Route("fragment", 1.0, "")


def show_relevant(
    frames: SeenFrames,
    *,
    budget_tokens: int,
    tokens_per_frame: int,
    route: Route = SURE,
    threshold: float | None = None,
    config: PlanConfig | None = None,
) -> Plan:
    """Return VideoRouter's plan for a route; what a selector is not told is a job's default.

    Args:
        frames: of them, relevance is read.
        budget_tokens: most tokens that may be spent.
        tokens_per_frame: tokens of one frame at full resolution.
        route: what the router says.
        threshold: relevance from which a frame is relevant; None = a job's default.
        config: the scales.
    """
    if not len(frames):
        return nothing_to_show()
    scales = config or PlanConfig()
    return plan_tokens(
        frames.relevance_N,
        route=route.route,
        route_confidence=route.confidence,
        tokens_per_frame=tokens_per_frame,
        budget_tokens=budget_tokens,
        threshold=ScoreConfig().threshold if threshold is None else threshold,
        scale_global=scales.scale_global,
        scale_relevant=scales.scale_relevant,
        scale_background=scales.scale_background,
    )
