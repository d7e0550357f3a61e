"""Where progress goes: redrawn in place on a terminal, in blocks now and then into a log."""

import os
import shutil
import threading
from collections.abc import Sequence
from typing import Any, Protocol, TextIO

from jobs.progress import STALLED_S, View, lines

EVERY_S = 30.0
"""Seconds between two blocks of a log."""
SOON_S = 5.0
"""Seconds after which a block may come earlier, because something has changed much."""
MUCH = 0.25
"""Share of a stage that is much."""


class Display(Protocol):
    """Shows views of streams."""

    def show(self, view: View, now_s: float) -> None:
        """Show how far a stream is, or leave it for later."""
        ...

    def end(self, view: View) -> None:
        """Show how a stream ended, for good."""
        ...


def display_on(stream: TextIO) -> "Terminal | Log":
    """Return what shows progress on a stream: redrawn in place if it is a terminal that can, else in blocks."""
    is_terminal = stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    return Terminal(stream) if is_terminal else Log(stream)


class Terminal:
    """Redraws a block of lines in place; what others write goes above it.

    It stands in for the stream it draws on: a log handler given this object scrolls its lines above the block.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.colour = not os.environ.get("NO_COLOR")
        self.drawn = 0
        self.is_mid_line = False
        self.lock = threading.RLock()

    @property
    def columns(self) -> int:
        """How wide a line may be."""
        return self._size().columns - 1

    def show(self, view: View, now_s: float) -> None:
        """Draw over what was drawn before."""
        del now_s
        self.draw(lines(view, self.columns, bar=True, colour=self.colour))

    def end(self, view: View) -> None:
        """Draw for the last time; what comes next comes below."""
        self.show(view, 0.0)
        self.drawn = 0

    def draw(self, block: Sequence[str]) -> None:
        """Put lines where the lines before were, in one write: nothing flickers."""
        with self.lock:
            if self.is_mid_line:
                return
            shown = block[: self._size().lines - 1]
            self.stream.write(self._back() + "".join(f"{line}\x1b[K\n" for line in shown) + "\x1b[J")
            self.stream.flush()
            self.drawn = len(shown)

    def write(self, text: str) -> int:
        """Write what is no progress, in place of the block; the next drawing comes below it."""
        with self.lock:
            self.stream.write(f"{self._back()}\x1b[J{text}" if self.drawn else text)
            self.drawn, self.is_mid_line = 0, not text.endswith("\n")
        return len(text)

    def flush(self) -> None:
        """Flush the stream below."""
        self.stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def _back(self) -> str:
        return f"\x1b[{self.drawn}A\r" if self.drawn else ""

    def _size(self) -> os.terminal_size:
        try:
            size = os.get_terminal_size(self.stream.fileno())
        except (OSError, ValueError):
            return shutil.get_terminal_size()
        return size if size.columns and size.lines else shutil.get_terminal_size()


class Log:
    """Writes a block every EVERY_S, sooner when much has changed, and at the end of a stream; no control characters."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.said: View | None = None
        self.said_s = 0.0

    def show(self, view: View, now_s: float) -> None:
        """Write a block if it is time for one."""
        if self.said is None:
            self.said, self.said_s = view, now_s
        age_s = now_s - self.said_s
        if age_s >= EVERY_S or (age_s >= SOON_S and has_changed(self.said, view)):
            self._write(view)
            self.said, self.said_s = view, now_s

    def end(self, view: View) -> None:
        """Write how the stream ended."""
        self._write(view)
        self.said = None

    def _write(self, view: View) -> None:
        self.stream.write("".join(f"{line}\n" for line in lines(view)))
        self.stream.flush()


def has_changed(old: View, new: View) -> bool:
    """Return whether a stage has gone on much, or what the run waits for or the machines have changed."""
    return _state(old) != _state(new) or any(
        after.is_finished > before.is_finished
        or after.done - before.done >= MUCH * (after.total or float("inf"))
        for before, after in zip(old.stages, new.stages, strict=False)
    )


def _state(view: View) -> tuple[object, ...]:
    """Return what has no amount: a change of it is always worth a word."""
    empty = [stage.name for stage in view.stages if stage.pool is not None and not stage.pool.num_running]
    return view.name, len(view.stages), view.cluster, empty, view.idle_s >= STALLED_S
