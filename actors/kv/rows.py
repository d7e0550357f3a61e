"""Keys and values of one layer in one buffer with some room behind, so that short appends copy nothing.

To transformers it is a layer of a cache: how many rows there are, and what a mask over them looks like.
"""

from typing import Any, NoReturn

import torch
from transformers.cache_utils import CacheLayerMixin

ROOM = 128
"""Rows of room behind what is stored: a question and its answer mostly fit."""


class Rows(CacheLayerMixin):
    """Rows that are appended, thinned out and cut off again."""

    is_sliding = False
    supports_early_init = False

    def __init__(self) -> None:  # pyright: ignore[reportMissingSuperCall]  its attributes are properties here
        self._both: torch.Tensor | None = None
        """[keys and values, 1, heads, room, head size]"""
        self.num_rows = 0

    @property
    def keys(self) -> torch.Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """View [1, heads, K, head size]."""
        return self._view()[0]

    @property
    def values(self) -> torch.Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """View [1, heads, K, head size]."""
        return self._view()[1]

    @property
    def num_bytes(self) -> int:
        """Bytes of the buffer."""
        return 0 if self._both is None else self._both.nbytes

    def _view(self) -> torch.Tensor:
        if self._both is None:
            msg = "nothing was stored yet"
            raise ValueError(msg)
        return self._both[:, :, :, : self.num_rows]

    def append(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Store [1, heads, L, head size] behind what is there."""
        end = self.num_rows + keys.shape[2]
        if self._both is None or end > self._both.shape[3]:
            self._both = self._grown(keys, end)
        self._both[0, :, :, self.num_rows : end] = keys
        self._both[1, :, :, self.num_rows : end] = values
        self.num_rows = end

    def _grown(self, like: torch.Tensor, num_rows: int) -> torch.Tensor:
        grown = like.new_empty((2, *like.shape[:2], num_rows + ROOM, like.shape[3]))
        if self._both is not None:
            grown[:, :, :, : self.num_rows] = self._view()
        return grown

    def keep(self, index_R: torch.Tensor, start: int = 0) -> None:
        """Keep, of the rows from `start` on, those at rising places counted from there."""
        if len(index_R) == self.num_rows - start:
            return
        kept = self._view()[:, :, :, start:][:, :, :, index_R]
        end = start + len(index_R)
        self._view()[:, :, :, start:end] = kept
        self.num_rows = end

    def cut(self, num_rows: int) -> None:
        """Forget the rows behind the first `num_rows`."""
        self.num_rows = num_rows

    # --- what transformers asks a layer ------------------------------------------------------------------------

    @property
    def is_initialized(self) -> bool:
        """Whether anything was stored."""
        return self._both is not None

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing to do: the first rows make the buffer."""

    def update(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse: a policy stores rows in its attention, through the cache."""
        msg = "rows of a cache policy are stored by its attention; call the cache's own `update`"
        raise ValueError(msg)

    def get_seq_length(self) -> int:
        """Return the number of rows, of tokens that stay; positions are counted by the cache."""
        return self.num_rows

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return how many keys new tokens see, their own among them, and the number of the first."""
        return self.num_rows + query_length, 0

    def get_max_length(self) -> int:
        """Return -1: there is no maximum."""
        return -1

    def reset(self) -> None:
        """Forget all rows."""
        self._both, self.num_rows = None, 0

    def reorder_cache(self, beam_idx: torch.Tensor) -> NoReturn:
        """Refuse beams."""
        del beam_idx
        msg = "a cache policy holds one prompt: take greedy decoding or sampling, without beams"
        raise ValueError(msg)
