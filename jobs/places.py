"""Places as workers find them: these have another working directory than the command that was typed."""

from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

Settings = TypeVar("Settings")

OF_MODELS = (("answer", "model"), ("score", "model"), ("plan", "heads"), ("compress", "policy"))
"""Settings that name a folder of weights, or a model by what it is called on every machine."""


def absolute(place: str) -> str:
    """Return a place in full; one behind a scheme, as `s3://`, is so already."""
    return place if "://" in place else str(Path(place).expanduser().absolute())


def absolute_models(config: Settings) -> Settings:
    """Return settings whose models and heads are named in full where they are folders here.

    Names that are none, those of the hub and of this package, stay as they are.
    """
    parts: dict[str, Any] = {}
    for stage, name in OF_MODELS:
        part = parts.get(stage, getattr(config, stage, None))
        if part is not None and (place := getattr(part, name)) and Path(place).expanduser().is_dir():
            parts[stage] = replace(part, **{name: absolute(place)})
    return replace(config, **parts) if parts else config  # pyright: ignore[reportArgumentType, reportCallIssue, reportGeneralTypeIssues]
