"""Whose a row of the cache is, and where it stands when rows before it are gone.

A prompt is a row of units. A token of text is one, and so is a visual token where positions are counted; where a
visual token has coordinates (M-RoPE), all of a frame are one unit, inside which they keep their distances. Units can
be laid out one behind the other from any position on: what a fresh prompt of the same tokens would do.

Shape letters: L or K tokens, P position axes, R kept tokens, U units.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise

import torch

TEXT = -1
"""The frame of a token of text."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """Facts about tokens in the order of the prompt."""

    frame_L: torch.Tensor
    """[L] int64: number of the frame in its stream, TEXT for text."""
    time_s_L: torch.Tensor
    """[L] float64: when the frame was shown; not a number for text."""
    unit_L: torch.Tensor
    """[L] int64, never falling: tokens of one unit have one number."""
    extent_L: torch.Tensor
    """[L] int64: positions that the token's unit takes up."""
    offset_PL: torch.Tensor
    """[P, L] int64: where in its unit the token stands."""

    def __len__(self) -> int:
        """Return the number of tokens."""
        return len(self.frame_L)

    @property
    def num_bytes(self) -> int:
        """Bytes of all facts."""
        return sum(getattr(self, one.name).nbytes for one in fields(self))

    @property
    def is_visual_L(self) -> torch.Tensor:
        """[L] bool."""
        return self.frame_L != TEXT

    @property
    def extent(self) -> int:
        """Positions that all units take up."""
        return int((self.extent_L * _first(self.unit_L)).sum())

    def take(self, index: torch.Tensor | slice) -> "Tokens":
        """Return the tokens at rising places."""
        return Tokens(*(getattr(self, one.name)[..., index] for one in fields(self)))

    def to(self, device: torch.device | str) -> "Tokens":
        """Return the same in the memory of a device."""
        return Tokens(*(getattr(self, one.name).to(device) for one in fields(self)))

    def counted_from(self, number: int) -> tuple["Tokens", int]:
        """Return the same with its first frame called `number`, and how many frames there are."""
        frames = self.frame_L[self.is_visual_L]
        if not len(frames):
            return self, 0
        first, last = int(frames[0]), int(frames[-1])
        frame_L = torch.where(self.is_visual_L, self.frame_L - first + number, TEXT)
        return replace(self, frame_L=frame_L), last - first + 1

    def lay_out(self, start: int = 0) -> torch.Tensor:
        """Return positions [P, L] of the units, one behind the other from `start` on."""
        steps_L = self.extent_L * _first(self.unit_L)
        last_L = steps_L.cumsum(0) - self.extent_L
        return start + last_L + self.offset_PL


def _first(unit_L: torch.Tensor) -> torch.Tensor:
    """Return which tokens are the first of their unit, [L] bool."""
    first_L = torch.ones_like(unit_L, dtype=torch.bool)
    first_L[1:] = unit_L[1:] != unit_L[:-1]
    return first_L


def join(parts: Sequence[Tokens]) -> Tokens:
    """Return the tokens of several parts, at least one; no unit goes on from one part to the next."""
    units: list[torch.Tensor] = []
    behind = 0
    for part in parts:
        units.append(part.unit_L + behind - (part.unit_L[:1] if len(part) else 0))
        behind = int(units[-1][-1]) + 1 if len(part) else behind
    whole = {one.name: torch.cat([getattr(part, one.name) for part in parts], -1) for one in fields(Tokens)}
    return Tokens(**{**whole, "unit_L": torch.cat(units)})


def text(length: int, axes: int, device: torch.device) -> Tokens:
    """Return tokens of text."""
    at_L = torch.arange(length, device=device)
    return Tokens(
        frame_L=torch.full_like(at_L, TEXT),
        time_s_L=torch.full((length,), torch.nan, dtype=torch.float64, device=device),
        unit_L=at_L,
        extent_L=torch.ones_like(at_L),
        offset_PL=torch.zeros((axes, length), dtype=torch.int64, device=device),
    )


def of_prompt(
    positions_PL: torch.Tensor, visual_L: torch.Tensor, times_s: Sequence[float] | None, next_position: int
) -> Tokens:
    """Return the tokens of a prompt.

    Args:
        positions_PL: where they stand; the first axis, time, is the same for all tokens of a frame.
        visual_L: bool: which are visual. Frames are parted by text, as all prompts here have them.
        times_s: when each frame is shown, in seconds; None = one a second from 0 on.
        next_position: position of the token behind them.

    Raises:
        ValueError: times for another number of frames.
    """
    first_L = visual_L.clone()
    first_L[1:] &= ~visual_L[:-1]
    run_L = first_L.cumsum(0) - 1
    num_frames = int(first_L.sum())
    seconds = range(num_frames) if times_s is None else times_s
    if len(seconds) != num_frames:
        msg = f"the prompt shows {num_frames} frames, and {len(seconds)} times were given"
        raise ValueError(msg)
    frame_L = torch.where(visual_L, run_L, TEXT)
    time_T = torch.tensor([*seconds, torch.nan], dtype=torch.float64, device=visual_L.device)
    unit_first_L = torch.ones_like(visual_L) if len(positions_PL) == 1 else ~visual_L | first_L
    unit_L = unit_first_L.cumsum(0) - 1
    base_U = positions_PL[0, unit_first_L]
    extent_U = torch.cat([base_U, base_U.new_tensor([next_position])]).diff()
    return Tokens(
        frame_L=frame_L,
        time_s_L=time_T[frame_L],  # TEXT, -1, is the last
        unit_L=unit_L,
        extent_L=extent_U[unit_L],
        offset_PL=positions_PL - base_U[unit_L],
    )


def split(tokens: Tokens, num_frames: int) -> list[slice]:
    """Return where to cut a prompt: behind the last visual token of every so many frames.

    Text goes with the frames behind it, and what is behind all frames goes with the last ones.
    """
    last_L = tokens.is_visual_L.clone()
    last_L[:-1] &= tokens.frame_L[1:] != tokens.frame_L[:-1]
    ends = (last_L.nonzero()[:, 0] + 1).tolist()
    cuts = [0, *ends[num_frames - 1 : -1 : num_frames], len(tokens)]
    return [slice(start, end) for start, end in pairwise(cuts)]
