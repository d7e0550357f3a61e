"""The contract of MEMORIES: bounded state over an endless stream of visual tokens.

A memory is given whole frames as they come and holds at most `capacity_tokens` of them, however long the stream is.
How the frames are cut into chunks changes nothing: the state depends on the frames and on when it was read.

Shape letters: T frames of one chunk, N tokens of one frame, D hidden size, M held tokens, Q tokens of a question,
P tokens of probes.
"""

from dataclasses import dataclass
from typing import Annotated, Protocol

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass as settings

from pipeline.config import STRICT, Count, Fraction, Positive
from pipeline.errors import AnswerError, ConfigError


@settings(frozen=True, kw_only=True, slots=True, config=STRICT)
class MemoryConfig:
    """How much of a stream is held, and by which rule."""

    memory: str = "fifo"
    """Entry of MEMORIES, or `package.module:function`."""
    grid: tuple[Count, Count] = (16, 16)
    """Rows and columns of one frame's tokens."""
    capacity_tokens: Count = 6144
    """Most tokens held at any time."""
    prune_ratio: Fraction = 0.85
    """Share of each frame's tokens that memory fifo throws away while no threshold is set."""
    threshold: Annotated[float, Field(ge=-1, le=1)] | None = None
    """Likeness to earlier frames from which a token is thrown away; unset, memories that need one have their own."""
    eviction: str = "fifo"
    """Entry of EVICTIONS: who leaves memory stream-dycoke when it is full."""
    decay_per_s: Positive = 0.05
    """How fast a token loses its claim under eviction decay (lambda)."""
    anchor_every: Count = 4
    """Every so many frames memory stream-dycoke keeps one whole."""
    retrieved_tokens: Count = 512
    """Most tokens that memory stream-dycoke hands out for a question."""
    num_carriers: Count = 128
    """Most frames of memory carriers, one token each (M)."""
    short_frames: Count = 4
    """Latest frames that memory savemem holds whole."""
    gate_ratio: Annotated[float, Field(ge=0)] = 0.0
    """Likeness of the latest frames to a question, as a share of what questions usually reach, from which memory
    savemem answers from these alone (rho); 0 = never."""

    @property
    def tokens_per_frame(self) -> int:
        """N."""
        return self.grid[0] * self.grid[1]

    @property
    def whole_frames(self) -> int:
        """How many whole frames fit.

        Raises:
            ConfigError: not one.
        """
        self.require(self.tokens_per_frame, "one frame")
        return self.capacity_tokens // self.tokens_per_frame

    def require(self, least_tokens: int, what: str) -> None:
        """Refuse a capacity that cannot work.

        Raises:
            ConfigError: the capacity is below `least_tokens`.
        """
        if self.capacity_tokens < least_tokens:
            msg = (
                f"memory {self.memory!r} needs room for {what}, {least_tokens} tokens, and capacity-tokens is"
                f" {self.capacity_tokens}; raise it, or pool frames to a smaller grid than {self.grid}"
            )
            raise ConfigError(msg)


@dataclass(frozen=True, slots=True)
class Held:
    """What a memory holds, sorted by time, then place."""

    values_MD: torch.Tensor
    """[M, D], in the format they came in."""
    pts_s_M: torch.Tensor
    """[M] float64 seconds: of the frame, or the mean over the frames that were merged."""
    place_M: torch.Tensor
    """[M] int64: raster index in the frame's grid; of merged tokens the first."""
    weight_M: torch.Tensor
    """[M] float32: how many tokens of the stream each one stands for."""

    def __len__(self) -> int:
        """Return M."""
        return len(self.values_MD)

    def __repr__(self) -> str:
        """Show shapes, never values."""
        return f"Held(values={tuple(self.values_MD.shape)})"


class Memory(Protocol):
    """Bounded state over one stream."""

    def add(self, values_TND: torch.Tensor, pts_s_T: torch.Tensor) -> None:
        """Take the next whole frames, later than all before; the tensors are not kept and may be written over.

        Raises:
            AnswerError: a token is not finite or too large to square, or a frame is not later than the one before; the
                message names the time, and nothing of the chunk is taken.
            ValueError: frames of another shape than the grid's or the stream's, or another number of times.
        """
        ...

    def read(self, query_QD: torch.Tensor | None = None) -> Held:
        """Return what is held; with a question, what a memory that retrieves finds for it.

        Reading with a question may change what leaves next and what later questions find, never what is held.

        Raises:
            AnswerError: the question's tokens are not finite.
        """
        ...

    @property
    def num_tokens(self) -> int:
        """Tokens held now, at most `capacity_tokens`."""
        ...

    @property
    def num_bytes(self) -> int:
        """Bytes of the state, with what is kept for comparing and what is allocated but free."""
        ...


class MakeMemory(Protocol):
    """Return an empty memory for one stream.

    Raises:
        ConfigError: the capacity cannot hold what the method needs, or probes are missing.
    """

    def __call__(self, config: MemoryConfig, probes_PD: torch.Tensor | None = None) -> Memory: ...


class Clock:
    """The door of a memory: lets in finite frames of one shape, in the order of time, and counts them."""

    def __init__(self, config: MemoryConfig) -> None:
        self.config = config
        self.num_frames = 0
        """Frames let in so far."""
        self.latest_s = -torch.inf
        self._form: tuple[int, torch.dtype] | None = None

    def admit(self, values_TND: torch.Tensor, pts_s_T: torch.Tensor) -> torch.Tensor:
        """Check a chunk and return the index of each of its frames in the stream, int64 [T].

        Raises:
            AnswerError: see `Memory.add`.
            ValueError: likewise.
        """
        self._check_shape(values_TND, pts_s_T)
        pts_s_T = pts_s_T.to(torch.float64)
        before_s_T = torch.cat([torch.tensor([self.latest_s], dtype=torch.float64), pts_s_T[:-1].cpu()])
        late_T = ~(pts_s_T.cpu() > before_s_T[: len(pts_s_T)]) | ~pts_s_T.cpu().isfinite()
        if bool(late_T.any()):
            frame = int(late_T.nonzero()[0, 0])
            msg = (
                f"frame {self.num_frames + frame} of the stream is at {float(pts_s_T[frame]):g} s, behind one at"
                f" {float(before_s_T[frame]):g} s; expected later times; begin a new memory where a clock starts again"
            )
            raise AnswerError(msg)
        broken = _first_broken(values_TND)
        if broken is not None:
            msg = (
                f"the visual tokens of the frame at {float(pts_s_T[broken]):g} s are not finite, or too large to be"
                " compared; the model that encoded it overflowed: try answer.dtype float32"
            )
            raise AnswerError(msg)
        first, self.num_frames = self.num_frames, self.num_frames + len(values_TND)
        if len(values_TND):
            self.latest_s = float(pts_s_T[-1])
            self._form = (values_TND.shape[2], values_TND.dtype)
        return torch.arange(first, self.num_frames, device=values_TND.device)

    def _check_shape(self, values_TND: torch.Tensor, pts_s_T: torch.Tensor) -> None:
        expected = self.config.tokens_per_frame
        if values_TND.dim() != 3 or values_TND.shape[1] != expected or len(pts_s_T) != len(values_TND):
            msg = (
                f"a chunk has values of shape [T, {expected}, D] and T times, found {tuple(values_TND.shape)} and"
                f" {tuple(pts_s_T.shape)}"
            )
            raise ValueError(msg)
        form = (values_TND.shape[2], values_TND.dtype)
        if len(values_TND) and self._form not in (None, form):
            msg = f"the stream's tokens have size and format {self._form}, found {form}"
            raise ValueError(msg)


def _first_broken(values_TND: torch.Tensor) -> int | None:
    """Return the first frame with a value that is not finite, or whose square is not."""
    wide = torch.promote_types(values_TND.dtype, torch.float32)
    broken_T = ~torch.linalg.vector_norm(values_TND, dim=(1, 2), dtype=wide).isfinite()
    return int(broken_T.nonzero()[0, 0]) if bool(broken_T.any()) else None
