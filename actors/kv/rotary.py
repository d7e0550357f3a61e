"""Rotary positions of a decoder, put on keys and taken off them again.

A key that is to stand elsewhere later is kept as it was before it was turned: turning by differences again and again
would add up roundings. The angles are the decoder's own, so every layout of positions that it knows is right.

Shape letters: P position axes, K rows, d head size.
"""

from typing import Any

import torch

from pipeline.errors import AnswerError, ModelError

Turns = tuple[torch.Tensor, torch.Tensor]
"""Cosines and sines, float32 [1, 1, K, d]."""
MOVING = ("dynamic", "longrope")
"""Kinds of rotary positions whose angles depend on the longest position once it is beyond the trained range."""


class Rotary:
    """The angles of one decoder."""

    def __init__(self, decoder: Any) -> None:
        """Take a text decoder of transformers.

        Raises:
            ModelError: it has no rotary positions.
        """
        if not hasattr(decoder, "rotary_emb"):
            msg = (
                f"the text decoder {type(decoder).__name__} has no rotary positions, which cache policies need; take a"
                " model that has, or kv policy `none`"
            )
            raise ModelError(msg)
        self._angles = decoder.rotary_emb
        self._one = torch.ones((), device=self._angles.inv_freq.device)
        self._trained: int = self._angles.original_max_seq_len
        self._moves = self._angles.rope_type in MOVING
        self.axes = 3 if hasattr(self._angles, "mrope_section") else 1
        self.scale = float(self._angles.attention_scaling)
        """What keys and queries are multiplied by when they are turned."""

    def turns(self, positions_PK: torch.Tensor) -> Turns:
        """Return the angles of positions.

        Raises:
            AnswerError: beyond the trained range, of a model whose angles then change with the length of the prompt.
        """
        if self._moves and positions_PK.numel() and int(positions_PK.max()) >= self._trained:
            msg = (
                f"position {int(positions_PK.max())} is beyond the {self._trained} this model was trained with, and"
                " its rotary positions then change with the length; lower what the policy keeps"
            )
            raise AnswerError(msg)
        ids = positions_PK[:, None] if len(positions_PK) > 1 else positions_PK
        cos_1Kd, sin_1Kd = self._angles(self._one, ids)
        return cos_1Kd[:, None], sin_1Kd[:, None]

    def put_on(self, states: torch.Tensor, turns: Turns) -> torch.Tensor:
        """Return states [1, heads, K, d] turned, as the decoder's attention does it."""
        cos, sin = turns
        wide = states.float()
        return (wide * cos + _half_turn(wide) * sin).to(states.dtype)

    def take_off(self, states: torch.Tensor, turns: Turns) -> torch.Tensor:
        """Return states [1, heads, K, d] as they were before they were turned."""
        cos, sin = turns
        wide = states.float()
        return ((wide * cos - _half_turn(wide) * sin) / self.scale**2).to(states.dtype)


def _half_turn(states: torch.Tensor) -> torch.Tensor:
    front, back = states.chunk(2, dim=-1)
    return torch.cat((-back, front), dim=-1)
