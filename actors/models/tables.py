"""The tables of what owns weights. A new entry is one file beside this one and one line here."""

from actors.models import AnswererEntry, ScorerEntry, dual_encoder, embedded, relevance, video_llm
from pipeline.config import AnswerConfig, ScoreConfig
from pipeline.plugins import find

FRAME_SCORERS: dict[str, ScorerEntry] = {
    "embedded": ScorerEntry(embedded.describe, embedded.make),
    "dual-encoder": ScorerEntry(dual_encoder.describe, dual_encoder.make),
}

ANSWERERS: dict[str, AnswererEntry] = {
    "relevance": AnswererEntry(relevance.describe, relevance.make),
    "video-llm": AnswererEntry(video_llm.describe, video_llm.make),
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
    """Return the answerer a job names: a video language model when there is one, else relevance alone."""
    return ANSWERERS["video-llm" if config.model else "relevance"]
