"""Where progress goes: in place on a terminal, in blocks into a log."""

import io
import os
import pty
from dataclasses import replace

import pytest

from jobs.display import Log, Terminal, display_on, has_changed
from jobs.progress import Cluster, Pool, Stage, View

END = "\0"

VIEW = View(
    "answer", 3.0, [Stage("sample", 10, 100), Stage("score", 0, 100, pool=Pool(0, 1))], Cluster({"": 1})
)


def at(done, **changed):
    return replace(VIEW, stages=[replace(VIEW.stages[0], done=done), VIEW.stages[1]], **changed)


@pytest.fixture
def terminal(monkeypatch):
    """A real pseudo terminal, and what reads all that was written to it."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    reader, writer = pty.openpty()
    with os.fdopen(writer, "w") as stream:

        def written() -> str:
            stream.write(END)
            stream.flush()
            found = ""
            while not found.endswith(END):
                found += os.read(reader, 65536).decode()
            return found.removesuffix(END).replace("\r\n", "\n")

        yield stream, written
    os.close(reader)


def test_a_terminal_is_drawn_over(terminal):
    stream, written = terminal
    display = display_on(stream)
    assert isinstance(display, Terminal)
    display.show(VIEW, 0.0)
    first = written()
    num_lines = first.count("\n")
    assert num_lines == 4, "head, two stages, what is waited for"
    assert "\x1b[33m" in first
    display.show(at(20), 1.0)
    second = written()
    assert second.startswith(f"\x1b[{num_lines}A\r"), "back to where the first began"
    assert second.count("\x1b[K\n") == num_lines
    assert second.endswith("\x1b[J"), "nothing of a longer block stays below"
    display.end(at(100))
    written()
    display.show(VIEW, 2.0)
    assert "\x1b[4A" not in written(), "what has ended stays"


def test_what_is_logged_goes_above_the_lines(terminal):
    stream, written = terminal
    display = Terminal(stream)
    display.show(VIEW, 0.0)
    written()
    display.write("WARNING: look\n")
    display.show(VIEW, 1.0)
    assert written().startswith("\x1b[4A\r\x1b[JWARNING: look\n\x1b[1manswer")
    display.write("half a line")
    display.show(VIEW, 2.0)
    display.write(" and its end\n")
    assert written().endswith("half a line and its end\n")


def test_no_color_and_terminals_that_cannot_move(terminal, monkeypatch):
    stream, written = terminal
    monkeypatch.setenv("NO_COLOR", "1")
    display_on(stream).show(VIEW, 0.0)
    assert "m" not in {part[-1:] for part in written().split("\x1b[")}, "no colours"
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(display_on(stream), Log)


def test_a_log_has_a_block_now_and_then():
    stream = io.StringIO()
    display = display_on(stream)
    assert isinstance(display, Log)
    for second in range(61):
        display.show(at(10, elapsed_s=float(second)), 1000.0 + second)
    blocks = [line for line in stream.getvalue().splitlines() if line.startswith("answer: ")]
    assert [block.split(",")[0] for block in blocks] == ["answer: 30 s", "answer: 1 min 0 s"]
    display.end(at(100))
    assert stream.getvalue().count("answer: ") == 3
    assert "\x1b" not in stream.getvalue()
    assert "\r" not in stream.getvalue()


def test_a_log_has_a_block_earlier_when_much_has_changed():
    stream = io.StringIO()
    display = Log(stream)
    display.show(VIEW, 0.0)
    display.show(at(40), 1.0)
    assert not stream.getvalue(), "never in quick succession"
    display.show(at(40), 6.0)
    assert stream.getvalue().count("answer: ") == 1
    display.show(at(41), 13.0)
    assert stream.getvalue().count("answer: ") == 1


@pytest.mark.parametrize(
    ("new", "much"),
    [
        (at(12), False),
        (at(35), True),
        (at(10, elapsed_s=9.0), False),
        (at(10, cluster=Cluster({"": 2})), True),
        (at(10, idle_s=61.0), True),
        (replace(VIEW, stages=[VIEW.stages[0], replace(VIEW.stages[1], pool=Pool(1, 0))]), True),
        (replace(VIEW, stages=VIEW.stages[:1]), True),
    ],
)
def test_what_is_much(new, much):
    assert has_changed(at(10), new) is much


def test_a_stage_of_unknown_length_never_changes_much_by_its_count():
    old, new = (View("judge", 0.0, [Stage("verdicts", done)]) for done in (0, 10**6))
    assert not has_changed(old, new)
