"""Remembering what was met already, in a few bytes each instead of a string."""

from array import array


class Seen:
    """A set of hashes that only grows: 11 to 22 bytes per hash, three times that for a moment when it doubles."""

    def __init__(self) -> None:
        self._table = array("Q", bytes(8 << 12))
        self._count = 0

    def add(self, value: int) -> bool:
        """Remember a 64-bit hash (0 counts as 1); return whether it is new.

        Two of ten million strings share a hash with a chance of 3e-6.
        """
        value = value & (1 << 64) - 1 or 1  # 0 marks a free place
        place = self._find(value)
        if self._table[place]:
            return False
        self._table[place] = value
        self._count += 1
        if 4 * self._count > 3 * len(self._table):
            self._grow()
        return True

    def _find(self, value: int) -> int:
        """Return where a hash stands, or the free place where it belongs."""
        table, mask = self._table, len(self._table) - 1
        place = value & mask
        while table[place] and table[place] != value:
            place = place + 1 & mask
        return place

    def _grow(self) -> None:
        old, self._table = self._table, array("Q", bytes(16 * len(self._table)))
        for value in old:
            if value:
                self._table[self._find(value)] = value
