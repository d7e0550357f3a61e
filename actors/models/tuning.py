"""Faster or smaller than as published: attention kernels, quantised weights, compilation.

What a machine cannot do is refused before the weights are read, with what to do instead; only `auto` gives way.
"""

import importlib.util
import logging
import os
import shlex
import shutil
from typing import Any

import torch

from actors.models import Device
from pipeline.errors import ModelError

logger = logging.getLogger(__name__)

_FLASH = "flash_attention_2"


def pick_attention(name: str, number: torch.dtype, device: Device) -> str | None:
    """Return what to switch the vision tower to; None = leave it at transformers' choice, sdpa where there is one.

    Raises:
        ModelError: flash_attention_2 is named and cannot run here.
    """
    from transformers.utils.import_utils import is_flash_attn_2_available

    runs = device == "cuda" and number in (torch.bfloat16, torch.float16)
    if name == "auto":
        return _FLASH if runs and is_flash_attn_2_available() else None
    if name == _FLASH and not runs:
        msg = (
            f"attention {_FLASH} found {str(number).removeprefix('torch.')} on {device}, expected bfloat16 or float16"
            " on cuda: change dtype, reserve a GPU, or set attention to sdpa"
        )
        raise ModelError(msg)
    # asked first: transformers would go and fetch a substitute from the hub
    if name == _FLASH and not is_flash_attn_2_available():
        msg = (
            f"attention {_FLASH} found no usable package flash_attn, expected 2.3.3 or later: install flash-attn"
            " for this torch, or set attention to sdpa"
        )
        raise ModelError(msg)
    return name


def set_attention(model_name: str, model: Any, name: str, *, optional: bool) -> None:
    """Switch the vision tower to an attention.

    The decoder is left alone: whoever decodes brings its own.

    Raises:
        ModelError: the tower does not have it, and it is not `optional`.
    """
    tower = model.get_encoder(modality="image")
    found = tower.config._attn_implementation
    try:
        if tower is not model:
            tower.set_attn_implementation(name)
            found = tower.config._attn_implementation
    except (ValueError, ImportError) as error:
        logger.debug("%s: attention %s: %s", model_name, name, error)
    if tower is not model and found == name:
        return
    msg = (
        f"model {model_name!r}: attention {name} is not there for the vision tower of {type(model).__name__},"
        f" which keeps {found}; set attention to auto"
    )
    if not optional:
        raise ModelError(msg)
    logger.info(msg)


def compile_vision(model_name: str, model: Any) -> None:
    """Have the vision tower compiled when it first runs; the decoder stays as it is, its shapes change every step.

    Raises:
        ModelError: the model has no vision tower.
    """
    tower = model.get_encoder(modality="image")
    if tower is model:
        msg = f"model {model_name!r}: found no vision tower in {type(model).__name__}; set compile to false"
        raise ModelError(msg)
    tower.compile()


def language_quantization(
    model_name: str, maker: Any, config: Any, quantize: str, number: torch.dtype, device: Device
) -> dict[str, Any]:
    """Return what `from_pretrained` needs to quantise the language model while it loads.

    bitsandbytes of the libraries transformers drives: it alone has int8 and int4 on both CPU and GPU.

    Raises:
        ModelError: the package is missing, the weights are quantised already, or the number format does not go
            with it.
    """
    if quantize == "none":
        return {}
    if importlib.util.find_spec("bitsandbytes") is None:
        msg = (
            f"quantize {quantize} found no package bitsandbytes: pip install 'reelsift[quantize]',"
            " or set quantize to none"
        )
        raise ModelError(msg)
    if getattr(config, "quantization_config", None):
        msg = (
            f"model {model_name!r}: quantize {quantize} found weights that are quantised already, expected"
            " float weights: set quantize to none, or take the model they were made from"
        )
        raise ModelError(msg)
    if quantize == "int8" and device == "cuda" and number == torch.float32:
        msg = (
            f"model {model_name!r}: quantize int8 multiplies in 16 bits on a GPU, found dtype float32: set dtype to"
            " bfloat16 or float16, or quantize to int4 or none"
        )
        raise ModelError(msg)
    from transformers import BitsAndBytesConfig

    kept = _linears_outside_language(maker, config)
    if quantize == "int8":
        # it says at every layer of every pass that it multiplies in float16
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        return {"quantization_config": BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=kept)}
    # NF4: levels at the quantiles of a normal distribution, QLoRA (arXiv 2305.14314, section 3)
    int4 = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=number,
        llm_int8_skip_modules=kept,
    )
    return {"quantization_config": int4}


def _linears_outside_language(maker: Any, config: Any) -> list[str]:
    """Return the names of the linear layers that stay as they are: vision tower, projector, output layer."""
    with torch.device("meta"):
        model = maker.from_config(config)
    language = set(model.get_decoder().modules())
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module not in language
    ]


def check_compiler(device: Device) -> None:
    """Refuse to compile without a compiler now: torch would only look for one when the model first runs.

    Raises:
        ModelError: no compiler on the path.
    """
    variable, defaults = ("CC", ("gcc", "clang")) if device == "cuda" else ("CXX", ("g++",))
    chosen = os.environ.get(variable)
    names = shlex.split(chosen)[:1] if chosen else defaults
    if not any(shutil.which(name) for name in names):
        msg = (
            f"compile found no compiler: none of {', '.join(names)} is on the path; install g++"
            f" (Debian: build-essential), point {variable} to a compiler, or set compile to false"
        )
        raise ModelError(msg)
