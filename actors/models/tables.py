"""The tables of what may own weights. A new entry is one file beside this one and one line here."""

from dataclasses import replace

from actors.models import (
    AnswererEntry,
    AnswererFacts,
    Device,
    FrameScorer,
    RouterEntry,
    RouterFacts,
    ScorerEntry,
    ScorerFacts,
    any_llm,
    dual_encoder,
    embedded,
    external,
    image_router,
    relevance,
    semantic,
    video_llm,
)
from actors.models.families import find_family
from actors.models.loading import fetch, read_config
from pipeline.config import AnswerConfig, JobConfig, ScoreConfig
from pipeline.errors import ConfigError, JobError
from pipeline.methods import Method
from pipeline.plugins import find
from pipeline.route import METHOD as RULES
from pipeline.route import RouteFn, route_by_rules


def describe_proposer(config: ScoreConfig) -> ScorerFacts:
    """Return what the driver must know of the scorer that proposes frames to one inside the language model.

    Raises:
        ConfigError: see `find_proposer`.
    """
    return find_proposer(config).describe(config)


def make_proposer(config: ScoreConfig, device: Device) -> FrameScorer:
    """Return the scorer that proposes frames, ready on the device.

    Raises:
        ConfigError: see `find_proposer`.
        ModelError: its model cannot be loaded.
    """
    return find_proposer(config).make(config, device)


FRAME_SCORERS: dict[str, ScorerEntry] = {
    "embedded": ScorerEntry(embedded.describe, embedded.make),
    "dual-encoder": ScorerEntry(dual_encoder.describe, dual_encoder.make),
    "external": ScorerEntry(external.describe, external.make),
    "early-layers": ScorerEntry(
        describe_proposer, make_proposer, image_router.make_early_layers, image_router.describe_early_layers
    ),
    "trained": ScorerEntry(
        describe_proposer, make_proposer, image_router.make_trained, image_router.describe_trained
    ),
}

SCORER_METHODS: dict[str, Method] = {
    "embedded": embedded.METHOD,
    "dual-encoder": dual_encoder.METHOD,
    "external": external.METHOD,
    "early-layers": image_router.METHOD_EARLY_LAYERS,
    "trained": image_router.METHOD_TRAINED,
}

ROUTERS: dict[str, RouterEntry] = {
    "rules": semantic.plain(route_by_rules, "rules"),
    "llm": RouterEntry(semantic.describe_llm, semantic.make_llm),
    "trained": RouterEntry(semantic.describe_trained, semantic.make_trained),
}

ROUTER_METHODS: dict[str, Method] = {
    "rules": RULES,
    "llm": semantic.METHOD_LLM,
    "trained": semantic.METHOD_TRAINED,
}

ANSWERERS: dict[str, AnswererEntry] = {
    "relevance": AnswererEntry(relevance.describe, relevance.make),
    "video-llm": AnswererEntry(video_llm.describe, video_llm.make),
    "any-llm": AnswererEntry(any_llm.describe, any_llm.make),
}


def find_scorer(config: ScoreConfig) -> ScorerEntry:
    """Return the scorer a job names; `auto` is the embedded one unless a model is named.

    Raises:
        ConfigError: no such entry.
    """
    return find(FRAME_SCORERS, _by_model(config.scorer, config), "FRAME_SCORERS")


def find_proposer(config: ScoreConfig) -> ScorerEntry:
    """Return the scorer that proposes frames to one that refines; `auto` as in `find_scorer`.

    Raises:
        ConfigError: no such entry, or it wants frames proposed itself.
    """
    entry = find(FRAME_SCORERS, _by_model(config.proposer, config), "FRAME_SCORERS")
    if entry.refine is not None:
        fit = ", ".join(name for name, other in FRAME_SCORERS.items() if other.refine is None)
        msg = (
            f"score.proposer {config.proposer!r} looks at frames that another scorer proposes, and cannot propose any;"
            f" expected one of auto, {fit}"
        )
        raise ConfigError(msg)
    return entry


def _by_model(name: str, config: ScoreConfig) -> str:
    """Return the name of an entry, `auto` resolved."""
    if name != "auto":
        return name
    return "dual-encoder" if config.model else "embedded"


def describe_scorer(config: JobConfig, facts: AnswererFacts) -> tuple[ScorerEntry, ScorerFacts]:
    """Return the scorer a job names and what the driver must know of it.

    Raises:
        ConfigError, ModelError: no such entry, or it does not fit the job; the message names those that do.
    """
    entry = find_scorer(config.score)
    found = entry.describe(config.score)
    if entry.describe_refine is None:
        return entry, found
    try:
        second = entry.describe_refine(config, facts)
    except JobError as error:
        fit = ", ".join(name for name, other in FRAME_SCORERS.items() if _refines(other, config, facts))
        msg = f"{error}. Scorers that fit this job: {fit}"
        raise type(error)(msg) from error
    return entry, replace(found, name=f"{second} after {found.name}")


def _refines(entry: ScorerEntry, config: JobConfig, facts: AnswererFacts) -> bool:
    """Return whether the second half of a scorer fits the job; one without fits every job."""
    try:
        if entry.describe_refine is not None:
            entry.describe_refine(config, facts)
    except JobError:
        return False
    return True


def find_router(name: str) -> RouterEntry:
    """Return the router a job names; an import path may lead to an entry or to a plain RouteFn.

    Raises:
        ConfigError: no such entry, or the import path leads nowhere or to something else.
    """
    try:
        return find(ROUTERS, name, "ROUTERS")
    except ConfigError:
        if ":" not in name:
            raise
    functions: dict[str, RouteFn] = {"rules": route_by_rules}
    return semantic.plain(find(functions, name, "ROUTERS"), name)


def describe_router(config: JobConfig, facts: AnswererFacts) -> tuple[RouterEntry, RouterFacts]:
    """Return the router a job names and what the driver must know of it.

    Raises:
        ConfigError, ModelError: no such entry, or it does not fit the job; the message names those that do.
    """
    entry = find_router(config.plan.router)
    try:
        return entry, entry.describe(config, facts)
    except JobError as error:
        fit = ", ".join(name for name, other in ROUTERS.items() if _fits(other, config, facts))
        msg = f"{error}. Routers that fit this job: {fit}"
        raise type(error)(msg) from error


def _fits(entry: RouterEntry, config: JobConfig, facts: AnswererFacts) -> bool:
    try:
        entry.describe(config, facts)
    except JobError:
        return False
    return True


def find_answerer(config: AnswerConfig) -> AnswererEntry:
    """Return the answerer a job names: relevance alone without a model, else the one for the model's family.

    Raises:
        ModelError: see `fetch` and `read_config`.
    """
    if not config.model:
        return ANSWERERS["relevance"]
    model_config = read_config(fetch(config.model, config.revision, weights=False))
    return ANSWERERS["video-llm" if find_family(config.model, model_config) else "any-llm"]
