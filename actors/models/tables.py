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
)
from pipeline.config import AnswerConfig, JobConfig, ScoreConfig
from pipeline.errors import ConfigError, JobError
from pipeline.methods import Method
from pipeline.plugins import Late, find
from pipeline.route import RouteFn, RouteManyFn, route_by_rules


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


def plain(route: RouteFn, name: str) -> RouterEntry:
    """Return the entry of a function that reads words and needs no model."""

    def describe(config: JobConfig, facts: AnswererFacts) -> RouterFacts:
        """Return its name; it fits every job."""
        del config, facts
        return RouterFacts(name)

    def make(config: JobConfig, device: Device) -> RouteManyFn:
        """Return the function, question by question."""
        del config, device
        return lambda asked: [route(text, kind) for text, kind in asked]

    return RouterEntry(describe, make)


RULES = plain(route_by_rules, "rules")

FRAME_SCORERS: Late[ScorerEntry] = Late(
    {
        "embedded": "actors.models.embedded:ENTRY",
        "dual-encoder": "actors.models.dual_encoder:ENTRY",
        "external": "actors.models.external:ENTRY",
        "early-layers": "actors.models.image_router:EARLY_LAYERS",
        "trained": "actors.models.image_router:TRAINED",
    }
)

SCORER_METHODS: Late[Method] = Late(
    {
        "embedded": "actors.models.embedded:METHOD",
        "dual-encoder": "actors.models.dual_encoder:METHOD",
        "external": "actors.models.external:METHOD",
        "early-layers": "actors.models.image_router:METHOD_EARLY_LAYERS",
        "trained": "actors.models.image_router:METHOD_TRAINED",
    }
)

ROUTERS: Late[RouterEntry] = Late(
    {
        "rules": "actors.models.tables:RULES",
        "llm": "actors.models.semantic:LLM",
        "trained": "actors.models.semantic:TRAINED",
    }
)

ROUTER_METHODS: Late[Method] = Late(
    {
        "rules": "pipeline.route:METHOD",
        "llm": "actors.models.semantic:METHOD_LLM",
        "trained": "actors.models.semantic:METHOD_TRAINED",
    }
)

ANSWERERS: Late[AnswererEntry] = Late(
    {
        "relevance": "actors.models.relevance:ENTRY",
        "video-llm": "actors.models.video_llm:ENTRY",
        "any-llm": "actors.models.any_llm:ENTRY",
    }
)


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
    return plain(find(functions, name, "ROUTERS"), name)


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
    from actors.models.families import find_family
    from actors.models.loading import fetch, read_config

    model_config = read_config(fetch(config.model, config.revision, weights=False))
    return ANSWERERS["video-llm" if find_family(config.model, model_config) else "any-llm"]
