"""The tables of what owns weights. A new entry is one file beside this one and one line here."""

from actors.models import AnswererEntry, ScorerEntry, any_llm, dual_encoder, embedded, relevance, video_llm
from actors.models.families import find_family
from actors.models.loading import fetch, read_config
from pipeline.config import AnswerConfig, ScoreConfig
from pipeline.plugins import find

FRAME_SCORERS: dict[str, ScorerEntry] = {
    "embedded": ScorerEntry(embedded.describe, embedded.make),
    "dual-encoder": ScorerEntry(dual_encoder.describe, dual_encoder.make),
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
    name = config.scorer
    if name == "auto":
        name = "dual-encoder" if config.model else "embedded"
    return find(FRAME_SCORERS, name, "FRAME_SCORERS")


def find_answerer(config: AnswerConfig) -> AnswererEntry:
    """Return the answerer a job names: relevance alone without a model, else the one for the model's family.

    Raises:
        ModelError: see `fetch` and `read_config`.
    """
    if not config.model:
        return ANSWERERS["relevance"]
    model_config = read_config(fetch(config.model, config.revision, weights=False))
    return ANSWERERS["video-llm" if find_family(config.model, model_config) else "any-llm"]
