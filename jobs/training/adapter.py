"""The low-rank weights that are added to a language model (LoRA, arXiv 2106.09685), by peft, and what becomes of them.

The vision tower, the embeddings and the output layer stay as they are.
"""

import hashlib
import importlib.util
import json
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from actors.models.prompting import Preprocessing, read_parts
from jobs.training.settings import JointConfig, RoutersConfig
from pipeline.errors import ConfigError

ADAPTER_FOLDER, MODEL_FOLDER = "adapter", "model"
ORIGIN_FILE = "origin.json"
DTYPES = ("float32", "bfloat16", "float16")
WEIGHT_FILES = (".safetensors", ".safetensors.index.json", ".bin", ".pt", ".pth", ".ckpt")


def check_peft() -> None:
    """Say in time that a package is missing.

    Raises:
        ConfigError: peft is not installed.
    """
    if importlib.util.find_spec("peft") is None:
        msg = "stage 3 found no package peft: pip install 'reelsift[train]', or leave 3 out of --stages"
        raise ConfigError(msg)


def check_layers(parts: Preprocessing) -> None:
    """Say in time that a model has nothing that low-rank weights are added to; no weights are read.

    Raises:
        ConfigError: its language model is made of other layers.
    """
    from transformers import AutoModelForImageTextToText

    with torch.device("meta"):
        decoder = parts.family.decoder(AutoModelForImageTextToText.from_config(parts.config))
    if not _linear(decoder):
        msg = (
            f"model {parts.files.name!r}: stage 3 adds low-rank weights to linear layers, and its language model"
            f" ({type(decoder).__name__}) has none of them; take another model, or leave 3 out of --stages"
        )
        raise ConfigError(msg)


def _linear(decoder: nn.Module) -> set[str]:
    """Return the last names of a decoder's linear layers."""
    named = decoder.named_modules()
    return {name.rpartition(".")[2] for name, module in named if isinstance(module, nn.Linear)}


def adapt(model: Any, decoder: nn.Module, config: JointConfig) -> Any:
    """Add low-rank weights to every linear layer of a model's text decoder; return peft's wrapper.

    They change nothing before they are trained: one factor is zero. All other weights are left without gradients.
    """
    from peft import LoraConfig, get_peft_model

    [place] = [name for name, module in model.named_modules() if module is decoder]
    names = "|".join(sorted(map(re.escape, _linear(decoder))))
    settings = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,  # pyright: ignore[reportArgumentType]  typed int, any number does
        target_modules=rf"{re.escape(place)}\.(?:.*\.)?(?:{names})",
    )
    with warnings.catch_warnings():
        # it asks the model by an older name whether activations are computed twice
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        return get_peft_model(model, settings)


def added_weights(adapted: Any) -> dict[str, nn.Parameter]:
    """Return what `adapt` added, under names that ParameterDict takes."""
    return {
        name.replace(".", "/"): weight for name, weight in adapted.named_parameters() if weight.requires_grad
    }


def write_model(config: RoutersConfig, trained: dict[str, torch.Tensor], out: str) -> str:
    """Write the adapter, in peft's format, and the model that it makes; return the model's folder.

    Args:
        config: names the model that was adapted.
        trained: its added weights, under the names of `added_weights`.
        out: gets `adapter` and `model`; what was there is replaced once all is written.

    Raises:
        ModelError: the model cannot be read.
    """
    from actors.models.loading import load_model

    parts = read_parts(config.answer, weights=True)
    found = str(parts.config.dtype or parts.config.get_text_config().dtype).removeprefix("torch.")
    dtype = found if found in DTYPES else "float32"
    model = load_model("AutoModelForImageTextToText", parts.files, dtype, "cpu")
    adapted = adapt(model, parts.family.decoder(model), config.joint)
    with torch.no_grad():
        for name, weight in added_weights(adapted).items():
            weight.copy_(trained[name])
    places = [Path(out) / name for name in (ADAPTER_FOLDER, MODEL_FOLDER)]
    fresh = [place.with_name(f"_{place.name}") for place in places]
    for folder in fresh:
        shutil.rmtree(folder, ignore_errors=True)
    adapted.save_pretrained(fresh[0], save_embedding_layers=False)
    adapted.merge_and_unload().save_pretrained(fresh[1])
    _copy_small_files(parts.files.folder, fresh[1])
    _write_origin(f"{parts.files.name}@{parts.files.revision}", *fresh)
    for folder, place in zip(fresh, places, strict=True):
        shutil.rmtree(place, ignore_errors=True)
        folder.replace(place)
    return str(places[1])


def _write_origin(base: str, adapter: Path, model: Path) -> None:
    """Write down beside a model what made it, which tells it from others of the same base.

    A model's revision is that of its small files and of either end of each file of weights, where nothing was trained.
    """
    with (adapter / "adapter_model.safetensors").open("rb") as file:
        added = hashlib.file_digest(file, "sha256").hexdigest()
    (model / ORIGIN_FILE).write_text(json.dumps({"base": base, "added_sha256": added}, indent=2) + "\n")


def _copy_small_files(source: Path, target: Path) -> None:
    """Bring along what `save_pretrained` of a model does not write: tokenizer, image processor, chat template."""
    for path in source.iterdir():
        if path.is_file() and not path.name.endswith(WEIGHT_FILES) and not (target / path.name).exists():
            shutil.copyfile(path, target / path.name)
