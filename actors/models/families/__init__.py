"""The families of video language models, by transformers' model_type. A new one is a file here and a line below."""

import logging
from typing import Any

from actors.models.families import internvl, llava_onevision, qwen2_5_vl, qwen3_vl, smolvlm
from actors.models.families.contract import Family, Grid, VisionTower

__all__ = ["FAMILIES", "Family", "Grid", "VisionTower", "find_family"]

logger = logging.getLogger(__name__)

FAMILIES: dict[str, Family] = {
    "internvl": internvl.FAMILY,
    "smolvlm": smolvlm.FAMILY,
    "idefics3": smolvlm.FAMILY,
    "qwen2_vl": qwen2_5_vl.FAMILY,
    "qwen2_5_vl": qwen2_5_vl.FAMILY,
    "qwen3_vl": qwen3_vl.FAMILY,
    "llava_onevision": llava_onevision.FAMILY,
}


def find_family(name: str, config: Any) -> Family | None:
    """Return the family of a model; None, and a line in the log, where it is of none that is known here.

    A text decoder with layers that see only a window of the prompt belongs to none either: frames would be forgotten.

    Args:
        name: the model as the user wrote it.
        config: its transformers configuration.
    """
    family = FAMILIES.get(config.model_type)
    if family is None:
        known = ", ".join(sorted(FAMILIES))
        logger.info("model %r is a %r: no family of its own, known are %s", name, config.model_type, known)
        return None
    layers = set(getattr(config.get_text_config(), "layer_types", None) or ["full_attention"])
    if layers != {"full_attention"}:
        logger.info("model %r has layers of %s: no family", name, ", ".join(sorted(layers)))
        return None
    return family
