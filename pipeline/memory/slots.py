"""A bounded store of tokens: of all that were ever put in, those of highest rank.

Ranks do not change with time, so keeping the best of what is held and what comes is keeping the best of everything,
whatever chunks it came in. New tokens are written over those that leave; nothing else moves.

Shape letters: C capacity, M tokens, D hidden size.
"""

from dataclasses import dataclass, fields, replace

import torch

from pipeline.streams import Held


@dataclass(frozen=True, slots=True)
class Rows:
    """Tokens with what must be known of each."""

    values_MD: torch.Tensor
    pts_s_M: torch.Tensor
    place_M: torch.Tensor
    weight_M: torch.Tensor
    rank_M: torch.Tensor
    """[M] float64: the higher, the longer it stays; of equals the one that came first leaves first."""
    order_M: torch.Tensor
    """[M] int64: how many tokens of the stream came before."""

    def __len__(self) -> int:
        """Return M."""
        return len(self.values_MD)

    @property
    def columns(self) -> tuple[torch.Tensor, ...]:
        """All tensors, in the order of the fields."""
        return tuple(getattr(self, field.name) for field in fields(self))

    @property
    def num_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(column.nbytes for column in self.columns)

    def take(self, index_K: torch.Tensor | slice) -> "Rows":
        """Return some of the tokens, by int64 index, mask or slice."""
        return Rows(*(column[index_K] for column in self.columns))

    def time_order(self) -> torch.Tensor:
        """Return the int64 index [M] that sorts the tokens by time, then place."""
        by_place = self.place_M.argsort(stable=True)
        return by_place[self.pts_s_M[by_place].argsort(stable=True)]

    def sorted(self) -> "Rows":
        """Return the tokens sorted by time, then place."""
        return self.take(self.time_order())

    def held(self) -> Held:
        """Return the tokens as memories hand them out; they must be sorted."""
        return Held(self.values_MD, self.pts_s_M, self.place_M, self.weight_M)

    def ranked(self, rank_M: torch.Tensor) -> "Rows":
        """Return the tokens with other ranks."""
        return replace(self, rank_M=rank_M.to(torch.float64))


def no_rows(hidden: int, dtype: torch.dtype = torch.float32) -> Rows:
    """Return no tokens."""
    doubles, ints = torch.zeros(0, dtype=torch.float64), torch.zeros(0, dtype=torch.int64)
    return Rows(torch.zeros(0, hidden, dtype=dtype), doubles, ints, torch.zeros(0), doubles, ints)


def join(parts: list[Rows]) -> Rows:
    """Return the tokens of several parts, at least one, one behind the other."""
    return Rows(*(torch.cat(columns) for columns in zip(*(part.columns for part in parts), strict=True)))


def frame_rows(
    values_TND: torch.Tensor, pts_s_T: torch.Tensor, index_T: torch.Tensor, kept_TN: torch.Tensor
) -> Rows:
    """Return the kept tokens of frames, ranked by their place in the stream.

    Args:
        values_TND: tokens of the frames.
        pts_s_T: their times in seconds.
        index_T: int64, how many frames of the stream came before each.
        kept_TN: bool, which tokens to return.
    """
    frame_M, place_M = kept_TN.nonzero(as_tuple=True)
    order_M = index_T[frame_M] * kept_TN.shape[1] + place_M
    return Rows(
        values_MD=values_TND[frame_M, place_M],
        pts_s_M=pts_s_T.to(order_M.device, torch.float64)[frame_M],
        place_M=place_M,
        weight_M=torch.ones(len(place_M), device=order_M.device),
        rank_M=order_M.to(torch.float64),
        order_M=order_M,
    )


class Slots:
    """At most C tokens; see the module. Takes its memory, all of it, with the first token."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.num_used = 0
        self._all = no_rows(0)

    @property
    def num_bytes(self) -> int:
        """Bytes taken."""
        return self._all.num_bytes

    def used(self) -> Rows:
        """Return a view of what is held, in no particular order."""
        return self._all.take(slice(self.num_used))

    def put(self, new: Rows) -> None:
        """Add tokens; those of lowest rank leave. O((C + M) log (C + M)), copies new tokens only."""
        if not len(new):
            return
        if not self._all.num_bytes:
            self._all = Rows(*(column.new_empty(self.capacity, *column.shape[1:]) for column in new.columns))
        used = self.used()
        order = torch.cat([used.order_M, new.order_M]).argsort(stable=True)
        order = order[torch.cat([used.rank_M, new.rank_M])[order].argsort(stable=True)]
        stays = order[-self.capacity :]
        leaves = order[: -self.capacity]
        coming = stays[stays >= self.num_used].sort().values - self.num_used
        num_used = min(self.capacity, self.num_used + len(coming))
        fresh = torch.arange(self.num_used, num_used, device=leaves.device)
        slots = torch.cat([fresh, leaves[leaves < self.num_used]])[: len(coming)]
        for column, added in zip(self._all.columns, new.take(coming).columns, strict=True):
            column[slots] = added
        self.num_used = num_used

    def rerank(self, slots_K: torch.Tensor, rank: float) -> None:
        """Give some of the tokens that `used` returned, by index, another rank."""
        self._all.rank_M[slots_K] = rank
