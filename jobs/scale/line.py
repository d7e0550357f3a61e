"""Queues between simulated processes that may be interrupted at any moment: nothing in them is lost or doubled.

SimPy's own Store and Resource take more events per item and move all that waits; with 30,000 slots and 150,000 units
that would be the cost of a simulation.
"""

from collections import deque
from collections.abc import Callable, Generator
from typing import Any, Generic, TypeVar, cast

import simpy

Item = TypeVar("Item")


class Line(Generic[Item]):
    """First in, first out, with room for `size` items; who waits is served in turn."""

    def __init__(self, env: simpy.Environment, size: float = float("inf")) -> None:
        self.env, self.size = env, size
        self.items: deque[Item] = deque()
        self.takers: deque[simpy.Event] = deque()
        self.givers: deque[simpy.Event] = deque()

    def give(self, item: Item) -> None:
        """Put an item in, whether there is room or not."""
        if self.takers:
            self.takers.popleft().succeed(item)
        else:
            self.items.append(item)

    def put(self, item: Item) -> Generator[Any, Any, None]:
        """Put an item in as soon as there is room."""
        if len(self.items) >= self.size:
            turn = self.env.event()
            self.givers.append(turn)
            try:
                yield turn
            except simpy.Interrupt:
                if turn.triggered:
                    self._make_room()
                else:
                    self.givers.remove(turn)
                raise
        self.give(item)

    def take(self) -> Generator[Any, Any, Item]:
        """Return the first item as soon as there is one."""
        if self.items:
            item = self.items.popleft()
            self._make_room()
            return item
        turn = self.env.event()
        self.takers.append(turn)
        try:
            return (yield turn)
        except simpy.Interrupt:
            if turn.triggered:
                self.give(cast("Item", turn.value))
            else:
                self.takers.remove(turn)
            raise

    def remove(self, is_meant: Callable[[Item], bool]) -> list[Item]:
        """Take out all items that are meant, and return them."""
        found = [item for item in self.items if is_meant(item)]
        self.items = deque(item for item in self.items if not is_meant(item))
        for _ in found:
            self._make_room()
        return found

    def _make_room(self) -> None:
        if self.givers:
            self.givers.popleft().succeed()


class Server:
    """Serves one request at a time, in their order; a request of a process that was interrupted is passed over."""

    def __init__(self, env: simpy.Environment) -> None:
        self.env = env
        self.waiting: deque[tuple[simpy.Event, float]] = deque()
        self.dropped: set[simpy.Event] = set()
        self.is_busy = False
        self.busy_s = 0.0

    def serve(self, seconds: float) -> Generator[Any, Any, None]:
        """Return when `seconds` of service have been given."""
        turn = self.env.event()
        self.waiting.append((turn, seconds))
        if not self.is_busy:
            self.is_busy = True
            self._next()
        try:
            yield turn
        except simpy.Interrupt:
            if not turn.triggered:
                self.dropped.add(turn)
            raise

    def _next(self) -> None:
        """Begin with the next request that is still wanted."""
        while self.waiting:
            turn, seconds = self.waiting.popleft()
            if turn in self.dropped:
                self.dropped.remove(turn)
                continue
            self.busy_s += seconds
            done = self.env.timeout(seconds)
            done.callbacks.append(lambda _, turn=turn: self._end(turn))
            return
        self.is_busy = False

    def _end(self, turn: simpy.Event) -> None:
        if turn in self.dropped:
            self.dropped.remove(turn)
        else:
            turn.succeed()
        self._next()
