"""What a job needs, looked up before anything starts: plug-ins by name, models described, budgets checked."""

from dataclasses import dataclass
from typing import Any

from pipeline.config import JobConfig


@dataclass(frozen=True)
class Resolved:
    """Plug-ins and models of a job, looked up on the driver."""

    router: Any
    router_facts: Any
    routes: dict[str, Any]
    """By query id; empty where a model decides them as the run goes."""
    scorer: Any
    scorer_facts: Any
    answerer: Any
    answerer_facts: Any
    aggregate: Any
    policy: str = ""
    """What weights the compressor has; empty = none."""

    @property
    def models(self) -> dict[str, str]:
        """What scores, answers and, where they take weights, routes and compresses; with its revision."""
        answerer, router = self.answerer_facts, self.router_facts
        found = {"scorer": self.scorer_facts.name, "answerer": f"{answerer.name}@{answerer.revision}"}
        found |= {"router": router.name} if router.needs_model else {}
        return found | ({"policy": self.policy} if self.policy else {})


def resolve(config: JobConfig, queries: list[Any]) -> Resolved:
    """Look up every name and describe every model, before anything starts.

    Raises:
        ConfigError: a table has no such entry, one does not fit the job, or a budget buys no frame.
        ModelError: a model's folder is not what it should be.
    """
    from actors.models.tables import describe_router, describe_scorer, find_answerer
    from pipeline.compress import TOKEN_COMPRESSORS, check_settings, check_whole
    from pipeline.decode import DECODERS
    from pipeline.plugins import find
    from pipeline.reduce import AGGREGATORS
    from pipeline.sampling import SAMPLERS
    from pipeline.select.fit import find_selector
    from pipeline.stages import route_queries

    if config.compress.compressor not in TOKEN_COMPRESSORS:  # looking up one that is there imports torch
        find(TOKEN_COMPRESSORS, config.compress.compressor, "TOKEN_COMPRESSORS")
    check_settings(config.compress)
    find(DECODERS, config.decode.decoder, "DECODERS")
    find(SAMPLERS, config.window.sampler, "SAMPLERS")
    answerer = find_answerer(config.answer)
    facts = answerer.describe(config.answer)
    if facts.tokens_per_frame and not facts.cuts_frames:
        check_whole(config.compress, config.answer.model)
    scorer, scorer_facts = describe_scorer(config, facts)
    selector = find_selector(config, refines=scorer.refine is not None)
    router, router_facts = describe_router(config, facts)
    _check_budgets(config, queries, facts, selector)
    return Resolved(
        router=router,
        router_facts=router_facts,
        routes={} if router_facts.needs_model else route_queries(router.make(config, "cpu"), queries),
        scorer=scorer,
        scorer_facts=scorer_facts,
        answerer=answerer,
        answerer_facts=facts,
        aggregate=find(AGGREGATORS, config.aggregator, "AGGREGATORS"),
        policy=_describe_policy(config.compress.policy),
    )


def _describe_policy(folder: str) -> str:
    if not folder:
        return ""
    from pipeline.compress.policy import describe_policy

    return describe_policy(folder)


def _check_budgets(config: JobConfig, queries: list[Any], facts: Any, selector: Any) -> None:
    """Refuse questions whose budget does not buy one frame, as small as the plan may make it.

    Raises:
        ConfigError: which questions, and what they need at least.
    """
    from pipeline.queries import check_budgets
    from pipeline.select.fit import RELEVANCE, smallest_budget

    plan = config.plan
    if not facts.tokens_per_frame:
        return
    if not facts.cuts_frames:
        smallest_tokens = facts.tokens_per_frame
    elif plan.selector == RELEVANCE:
        scales = (plan.scale_global, plan.scale_relevant, plan.scale_background)
        smallest_tokens = max(1, facts.tokens_per_frame // max(scales))
    else:
        smallest_tokens = smallest_budget(selector, facts.tokens_per_frame)
    spending = [query for query in queries if query.kind != "find" or config.answer.confirm_find]
    check_budgets(spending, plan.budget_tokens, smallest_tokens)
