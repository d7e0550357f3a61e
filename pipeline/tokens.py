"""The visual tokens of one clip, and the contract of everything that shortens them.

Shape letters: N tokens, D hidden size, T frames.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from pipeline.config import CompressConfig


@dataclass(frozen=True, slots=True)
class VisualTokens:
    """Tokens of T frames after the projector, in time and raster order."""

    values_ND: torch.Tensor
    """[N, D] floating point: what enters the language model."""
    source_N: torch.Tensor
    """[N] int64, strictly increasing: index of the token (for merging methods: of the first merged token) in the
    uncompressed sequence. Position encodings, plots and tests read it."""
    weight_N: torch.Tensor
    """[N] float32: how many original tokens each one stands for (1 unless merged)."""
    num_per_frame: int
    """Tokens of one uncompressed frame; frame of a token = source // num_per_frame."""
    grid: tuple[int, int]
    """Rows and columns of one uncompressed frame; rows x columns = num_per_frame."""
    pixels_THWC: torch.Tensor | None = None
    """[T, H, W, 3] uint8: the frames as the model saw them; only for compressors that declare to need them."""
    probes_PD: torch.Tensor | None = None
    """[P, D]: what questions of any kind look like among the model's own token embeddings; likewise."""

    def __post_init__(self) -> None:
        """Refuse tensors whose lengths disagree."""
        lengths = (len(self.values_ND), len(self.source_N), len(self.weight_N))
        if len(set(lengths)) != 1:
            msg = f"values, source and weight must have one length, found {lengths}"
            raise ValueError(msg)
        if self.grid[0] * self.grid[1] != self.num_per_frame:
            msg = f"grid {self.grid} does not hold {self.num_per_frame} tokens"
            raise ValueError(msg)

    @property
    def frame_N(self) -> torch.Tensor:
        """[N] int64: the frame each token comes from."""
        return self.source_N // self.num_per_frame

    def __repr__(self) -> str:
        """Show shapes, never values."""
        return f"VisualTokens(values={tuple(self.values_ND.shape)}, per_frame={self.num_per_frame}, grid={self.grid})"


class CompressFn(Protocol):
    """Shorten a clip to its plan: at most `plan_T[t]` tokens of frame t, 0 drops the frame.

    Input holds every token of T = len(plan_T) frames. Output is sorted by `source_N`, a plan that asks for
    everything with `prune_ratio` 0 and no `threshold` returns the input bit for bit, and the same input gives the
    same output.

    Raises:
        AnswerError: the tokens, or what the method needs beside them, cannot be used; the message names the frame.
    """

    def __call__(
        self, tokens: VisualTokens, plan_T: Sequence[int], settings: CompressConfig
    ) -> VisualTokens: ...


def whole_frames(values_TND: torch.Tensor, grid: tuple[int, int]) -> VisualTokens:
    """Return the uncompressed tokens of T frames, given as [T, tokens per frame, D].

    Raises:
        ValueError: the grid does not hold the tokens of a frame.
    """
    frames, per_frame, hidden = values_TND.shape
    count = frames * per_frame
    return VisualTokens(
        values_ND=values_TND.reshape(count, hidden),
        source_N=torch.arange(count, device=values_TND.device),
        weight_N=torch.ones(count, device=values_TND.device),
        num_per_frame=per_frame,
        grid=grid,
    )


def by_frame(tokens: VisualTokens, num_frames: int) -> torch.Tensor:
    """Return the values of uncompressed tokens as a view [num_frames, tokens per frame, D].

    Raises:
        ValueError: these are not all tokens of this many frames.
    """
    if len(tokens.values_ND) != num_frames * tokens.num_per_frame:
        msg = (
            f"a plan for {num_frames} frames of {tokens.num_per_frame} tokens needs all"
            f" {num_frames * tokens.num_per_frame} of them, found {len(tokens.values_ND)}"
        )
        raise ValueError(msg)
    return tokens.values_ND.reshape(num_frames, tokens.num_per_frame, tokens.values_ND.shape[1])


def take(tokens: VisualTokens, index_M: torch.Tensor) -> VisualTokens:
    """Return the tokens at the given places, int64 [M]."""
    return VisualTokens(
        values_ND=tokens.values_ND[index_M],
        source_N=tokens.source_N[index_M],
        weight_N=tokens.weight_N[index_M],
        num_per_frame=tokens.num_per_frame,
        grid=tokens.grid,
        pixels_THWC=tokens.pixels_THWC,
        probes_PD=tokens.probes_PD,
    )


def join(parts: Sequence[VisualTokens]) -> VisualTokens:
    """Return the tokens of several parts of one clip, at least one, in the order of `source_N`."""
    joined = VisualTokens(
        values_ND=torch.cat([part.values_ND for part in parts]),
        source_N=torch.cat([part.source_N for part in parts]),
        weight_N=torch.cat([part.weight_N for part in parts]),
        num_per_frame=parts[0].num_per_frame,
        grid=parts[0].grid,
        pixels_THWC=parts[0].pixels_THWC,
        probes_PD=parts[0].probes_PD,
    )
    return take(joined, torch.argsort(joined.source_N))
