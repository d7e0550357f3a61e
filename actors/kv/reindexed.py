"""A cache that forgets tokens and lets the rest close up, so that positions stay in the range a model was trained in.

Keys are stored as they were before they were turned to their positions, and turned anew wherever they come to stand.
A question sees the kept tokens exactly as a fresh prompt of their keys at these positions would.

Shape letters: K rows, R kept rows.
"""

from abc import abstractmethod
from typing import Any

import torch

from actors.kv.cache import KvCache, New, attend
from actors.kv.rotary import Turns
from actors.kv.rows import Rows
from actors.kv.settings import KvSettings
from actors.kv.tokens import Tokens, join


class ReindexedCache(KvCache):
    """See the module; a policy says which tokens stay, the same in all layers."""

    takes_back = False

    def __init__(self, decoder: Any, settings: KvSettings | None = None) -> None:
        super().__init__(decoder, settings)
        self.held: Tokens | None = None
        """Whose the rows are."""
        self._held_turns: Turns | None = None
        self.opened: list[Rows] | None = None
        """Per layer what an open question sees, turned; None = no question is open."""

    @abstractmethod
    def kept(self, held: Tokens) -> torch.Tensor:
        """Return which of the held tokens stay, bool [K]."""

    @property
    def num_bytes(self) -> int:
        """Bytes that are held on the decoder's device; see KvCache."""
        known = sum(one.nbytes for one in self._held_turns or ()) + (self.held.num_bytes if self.held else 0)
        return super().num_bytes + known + sum(rows.num_bytes for rows in self.opened or ())

    def attend(self, layer: int, new: New) -> torch.Tensor:
        """Store what is new in one layer and return attention [1, heads, L, head size]."""
        if self.opened is not None:
            rows = self.opened[layer]
            rows.append(new.keys, new.values)
            return attend(new, rows.keys, rows.values)
        rows = self.layers[layer]
        keys = new.keys
        if self._held_turns is not None and rows.num_rows:
            keys = torch.cat([self.rotary.put_on(rows.keys, self._held_turns), keys], dim=2)
        rows.append(self.rotary.take_off(new.keys, self.new_turns()), new.values)
        return attend(new, keys, rows.values)

    def settle(self, tokens: Tokens) -> None:
        """Throw away what does not stay, and let the rest close up."""
        held = tokens if self.held is None else join([self.held, tokens])
        kept_K = self.kept(held)
        if not bool(kept_K.all()):
            index_R = kept_K.nonzero()[:, 0]
            for rows in self.layers:
                rows.keep(index_R)
            held = held.take(index_R)
        self.held = held
        self.end = held.extent
        self._held_turns = self.rotary.turns(held.lay_out())

    def open_question(self) -> int:
        """Turn all keys to their places and return the position behind them."""
        self.opened = [Rows() for _ in self.layers]
        if self._held_turns is not None:
            for rows, opened in zip(self.layers, self.opened, strict=True):
                opened.append(self.rotary.put_on(rows.keys, self._held_turns), rows.values)
        return self.end

    def close_question(self) -> None:
        """Forget what was turned for a question."""
        self.opened = None
