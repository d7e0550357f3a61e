"""Recipes: whole configurations by name, for `--recipe`; any other option given beside one goes before it."""

import difflib
from collections.abc import Callable

from pipeline.config import (
    AnswerConfig,
    ClusterConfig,
    JobConfig,
    PlanConfig,
    PoolConfig,
    ScoreConfig,
    WindowConfig,
)
from pipeline.errors import ConfigError


def world() -> JobConfig:
    """Return how videos of the generated world are answered: the models that come with the package, and both routers.

    A window is a whole video; a budget of 164 tokens is 32 % of what its 32 frames of 16 tokens would cost. The dual
    encoder proposes frames, the first layers of the answering model judge them. Visitors stay for two seconds, so
    that nothing is smoothed.
    """
    return JobConfig(
        window=WindowConfig(length_s=32.0, sample_fps=1.0),
        score=ScoreConfig(
            scorer="trained", proposer="dual-encoder", model="package:world/pair", candidates=32, smooth_s=0.0
        ),
        plan=PlanConfig(
            router="trained", heads="package:world/heads", early_layers=2, early_tokens=16, budget_tokens=164,
            scale_global=4, scale_relevant=1, scale_background=8,
        ),
        answer=AnswerConfig(model="package:world/model", frame_px=64, dtype="float32", max_new_tokens=4),
        cluster=ClusterConfig(sized_for=("decode:2 CPU",)),
    )  # fmt: skip


def l4() -> JobConfig:
    """Return how a hub dual encoder and a hub video language model share the GPUs of `cluster.yaml`, half of each.

    Sized for its machines, one L4 of 24 GB each: half of one holds the 7.5 GB of Qwen2.5-VL-3B in bfloat16 and the work
    on a budget of 8,192 tokens, the other half the 0.8 GB of SigLIP. Halves of any two models fill a GPU, so sixteen of
    each take sixteen GPUs however they fall, and leave eight of 24 machines to decoding. Reckoned, not measured.
    """
    shared = PoolConfig(num_gpus=0.5, max_size=16)
    return JobConfig(
        score=ScoreConfig(scorer="dual-encoder", model="google/siglip-base-patch16-224", pool=shared),
        answer=AnswerConfig(model="Qwen/Qwen2.5-VL-3B-Instruct", dtype="bfloat16", pool=shared),
        cluster=ClusterConfig(sized_for=("decode:32 CPU", "gpu:8 CPU, 1 GPU")),
    )


RECIPES: dict[str, Callable[[], JobConfig]] = {"world": world, "l4": l4}


def find_recipe(name: str) -> JobConfig:
    """Return the configuration of a recipe.

    Raises:
        ConfigError: there is none of this name.
    """
    if name not in RECIPES:
        close = difflib.get_close_matches(name, RECIPES, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        msg = f"--recipe {name!r}: no such recipe; known: {', '.join(sorted(RECIPES))}{hint}"
        raise ConfigError(msg)
    return RECIPES[name]()
