"""The two small networks trained on a language model's first layers, and the folder they are kept in.

One says of a question which route it wants, the other of a frame whether it matters to the question. A folder holds
`heads.safetensors` (weights, float32) and `heads.json` (what they were trained on, and with what success); weights
of one model say nothing about another, so both are checked when they are read.

Shape letters: P questions, D hidden size of the language model.

Source: VideoRouter, arXiv 2605.05848, sections on the semantic and the image router; widths are this project's.
"""

import json
import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from actors.models.packaged import folder_of
from pipeline.errors import ModelError

FACTS_FILE, WEIGHTS_FILE = "heads.json", "heads.safetensors"
WIDTH = 512
"""Hidden units of either head."""
DROPOUT = 0.1
GLOBAL, FRAGMENT = 0, 1
"""Columns of the semantic head's logits."""


class SemanticHead(nn.Module):
    """Tells whether a question needs the whole timeline or some frames of it."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(hidden_size),
            nn.Linear(hidden_size, WIDTH),
            nn.GELU(),
            nn.Dropout(DROPOUT),
            nn.Linear(WIDTH, 2),
        )

    def forward(self, states_PD: torch.Tensor) -> torch.Tensor:
        """Return logits [P, 2]: column 0 global, column 1 fragment; the dtype is the states'."""
        return self.layers(states_PD)


class ImageHead(nn.Module):
    """Tells of a frame whether the question's answer rests on it."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(2 * hidden_size), nn.Linear(2 * hidden_size, WIDTH), nn.GELU(), nn.Linear(WIDTH, 1)
        )

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Return logits [...] for states [..., 2D]: mean over a frame's visual positions | last text position."""
        return self.layers(states).squeeze(-1)


@dataclass(eq=False, slots=True)
class Heads:
    """What a folder holds; one of the heads may be missing."""

    hidden_size: int
    """D of the language model the heads were trained on."""
    early_layers: int
    """Decoder layers the states went through."""
    early_tokens: int
    """Most visual tokens of a frame in these layers."""
    semantic: SemanticHead | None
    image: ImageHead | None
    semantic_temperature: float = 1.0
    """Logits are divided by it before they become probabilities."""
    image_temperature: float = 1.0
    model: str = ""
    """Name and revision of the language model, for people."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """What the heads reached on the rows held back from training."""


_MODULES = ("semantic", "image")
_NUMBERS = ("hidden_size", "early_layers", "early_tokens")


def save_heads(folder: str | Path, heads: Heads) -> None:
    """Write the heads to a folder, made if it is not there; facts come last, so that no half-written one is read.

    Raises:
        ModelError: the folder cannot be written.
    """
    from safetensors.torch import save_file

    place = Path(folder).expanduser()
    weights: dict[str, torch.Tensor] = {}
    facts = {one.name: getattr(heads, one.name) for one in fields(heads) if one.name not in _MODULES}
    for name in _MODULES:
        module: nn.Module | None = getattr(heads, name)
        state = module.state_dict() if module is not None else {}
        weights |= {
            f"{name}.{key}": value.detach().float().cpu().contiguous() for key, value in state.items()
        }
    facts["heads"] = [name for name in _MODULES if getattr(heads, name) is not None]
    try:
        place.mkdir(parents=True, exist_ok=True)
        (place / FACTS_FILE).unlink(missing_ok=True)
        save_file(weights, place / WEIGHTS_FILE)
        (place / FACTS_FILE).write_text(json.dumps(facts, indent=2) + "\n")
    except OSError as error:
        msg = (
            f"trained heads cannot be written to {str(folder)!r}: {error}; name a folder that can be written"
        )
        raise ModelError(msg) from error


def read_heads(folder: str | Path) -> dict[str, Any]:
    """Return the facts of trained heads without their weights, for the driver.

    Returns:
        The fields of `Heads` except the networks, and `heads`: which of "semantic" and "image" are there.

    Raises:
        ModelError: no such file, or not what `save_heads` writes.
    """
    path = folder_of(folder) / FACTS_FILE
    try:
        facts = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        msg = (
            f"trained heads {str(folder)!r}: found no readable {FACTS_FILE} ({error}); expected a folder written by"
            " `reelsift train routers`"
        )
        raise ModelError(msg) from error
    if wrong := _wrong_fact(facts):
        msg = f"trained heads {str(folder)!r}: {FACTS_FILE} has {wrong}; train them again, or take another folder"
        raise ModelError(msg)
    return facts


def _wrong_fact(facts: Any) -> str:
    """Return what is wrong with the facts, or nothing."""
    if not isinstance(facts, dict):
        return f"a {type(facts).__name__}, expected an object"
    expected = {one.name for one in fields(Heads) if one.name not in _MODULES} | {"heads"}
    if set(facts) != expected:  # pyright: ignore[reportUnknownArgumentType]
        return f"the keys {sorted(map(str, facts))}, expected {sorted(expected)}"
    for name in _NUMBERS:
        if type(facts[name]) is not int or facts[name] < 1:
            return f"{name} {facts[name]!r}, expected a whole number from 1"
    for name in ("semantic_temperature", "image_temperature"):
        value = facts[name]
        if not isinstance(value, (int, float)) or not (math.isfinite(value) and value > 0):
            return f"{name} {value!r}, expected a number above 0"
    if not isinstance(facts["heads"], list) or not set(facts["heads"]) <= set(_MODULES):
        return f"the heads {facts['heads']!r}, expected some of {list(_MODULES)}"
    return ""


def load_heads(folder: str | Path, *, hidden_size: int) -> Heads:
    """Return trained heads, in evaluation mode on the CPU, in float32.

    Args:
        folder: written by `save_heads`.
        hidden_size: D of the language model whose states they shall read.

    Raises:
        ModelError: see `read_heads`; the heads were trained for another hidden size, or a weight is missing or has
            another shape.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    facts = read_heads(folder)
    if facts["hidden_size"] != hidden_size:
        msg = (
            f"trained heads {str(folder)!r}: found hidden size {facts['hidden_size']} (trained on {facts['model']!r}),"
            f" expected {hidden_size}, that of the model in use; train heads for this model"
        )
        raise ModelError(msg)
    path = folder_of(folder) / WEIGHTS_FILE
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        msg = f"trained heads {str(folder)!r}: {WEIGHTS_FILE} cannot be read ({error}); train them again"
        raise ModelError(msg) from error
    there = facts.pop("heads")
    semantic = SemanticHead(hidden_size) if "semantic" in there else None
    image = ImageHead(hidden_size) if "image" in there else None
    for name, module in (("semantic", semantic), ("image", image)):
        if module is not None:
            prefix = f"{name}."
            found = {key.removeprefix(prefix): weights[key] for key in weights if key.startswith(prefix)}
            _fill(str(folder), name, module, found)
    return Heads(**facts, semantic=semantic, image=image)


def _fill(folder: str, name: str, module: nn.Module, found: dict[str, torch.Tensor]) -> None:
    """Put weights into a head.

    Raises:
        ModelError: one is missing, unknown or of another shape.
    """
    expected = module.state_dict()
    for key in sorted(expected.keys() | found.keys()):
        shapes = [
            str(tuple(weights[key].shape)) if key in weights else "none" for weights in (found, expected)
        ]
        if shapes[0] != shapes[1]:
            msg = (
                f"trained heads {folder!r}: weight {name}.{key} has shape {shapes[0]} in {WEIGHTS_FILE}, expected"
                f" {shapes[1]}; {FACTS_FILE} and {WEIGHTS_FILE} are not of the same training: train them again"
            )
            raise ModelError(msg)
    module.load_state_dict(found)
    module.eval().requires_grad_(False)
