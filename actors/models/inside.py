"""What a router or scorer inside the language model needs of a job, checked on the driver before anything is loaded."""

import hashlib
from typing import Any, Literal

from actors.models import AnswererFacts
from actors.models.families import FAMILIES
from actors.models.heads import FACTS_FILE, WEIGHTS_FILE, read_heads
from actors.models.loading import fetch, read_config
from actors.models.packaged import folder_of
from pipeline.config import JobConfig
from pipeline.errors import ConfigError, ModelError


def check_model(who: str, config: JobConfig, facts: AnswererFacts) -> Any:
    """Return the configuration of the text decoder that is looked into.

    Args:
        who: the entry, as it is called in messages: "router 'llm'".
        config: the job's.
        facts: of the answerer.

    Raises:
        ConfigError: no model is named, or one of no known family.
    """
    model = config.answer.model
    if not model:
        msg = f"{who} looks into the answering model, and none is named; set --answer.model"
        raise ConfigError(msg)
    if not facts.cuts_frames:
        msg = (
            f"{who} needs a video language model of a known family ({', '.join(sorted(FAMILIES))}), and {model} is of"
            " none; take another --answer.model"
        )
        raise ConfigError(msg)
    return read_config(fetch(model, config.answer.revision, weights=False)).get_text_config()


def check_layers(who: str, config: JobConfig, language: Any) -> None:
    """Check that the decoder has the early layers that are to be gone through.

    Raises:
        ConfigError: it has fewer.
    """
    if config.plan.early_layers > language.num_hidden_layers:
        msg = (
            f"{who} goes through the first {config.plan.early_layers} layers of {config.answer.model}, which has"
            f" {language.num_hidden_layers}; lower --plan.early-layers"
        )
        raise ConfigError(msg)


def check_heads(who: str, part: Literal["semantic", "image"], config: JobConfig, language: Any) -> str:
    """Return 12 hex digits over the trained heads of a job: two trainings in one folder are told apart.

    Raises:
        ConfigError: no heads are named, not this one, or trained for another model or other settings.
        ModelError: they cannot be read.
    """
    folder = config.plan.heads
    if not folder:
        msg = f"{who} needs trained heads; name their folder with --plan.heads"
        raise ConfigError(msg)
    heads = read_heads(folder)
    if part not in heads["heads"]:
        msg = f"{who}: {folder} holds the heads {heads['heads']}, expected {part!r} among them"
        raise ConfigError(msg)
    expected = {
        "hidden_size": (language.hidden_size, f"train heads on {config.answer.model}"),
        "early_layers": (config.plan.early_layers, f"set --plan.early-layers {heads['early_layers']}"),
    }
    if part == "image":
        advice = f"set --plan.early-tokens {heads['early_tokens']}"
        expected["early_tokens"] = (config.plan.early_tokens, advice)
    for name, (wanted, advice) in expected.items():
        if heads[name] != wanted:
            msg = (
                f"{who}: the heads in {folder} have {name} {heads[name]} (trained on {heads['model']!r}), this job has"
                f" {wanted}; {advice}"
            )
            raise ConfigError(msg)
    check_layers(who, config, language)
    return _digest(folder)


def _digest(folder: str) -> str:
    """Return 12 hex digits over the files of trained heads.

    Raises:
        ModelError: a file cannot be read.
    """
    digest = hashlib.sha256()
    for name in (FACTS_FILE, WEIGHTS_FILE):
        try:
            digest.update((folder_of(folder) / name).read_bytes())
        except OSError as error:
            msg = f"trained heads {folder!r}: {name} cannot be read ({error}); train them again"
            raise ModelError(msg) from error
    return digest.hexdigest()[:12]
