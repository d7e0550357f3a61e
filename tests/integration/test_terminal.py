"""A job on a real terminal: its lines are drawn over in place, what is logged scrolls above, the summary stays."""

import os
import pty
import re
import subprocess
import sys
from threading import Thread

from tests.integration.ray_head import QUIET, ROOT


def test_a_job_on_a_terminal(ray_address, clips, tmp_path):
    reader, writer = pty.openpty()
    command = [sys.executable, "-m", "jobs", "answer", str(clips), str(tmp_path / "out"), "--query", "a car",
               "--window.length-s", "1", "--sink.windows-per-part", "2"]  # fmt: skip
    environment = {**os.environ, **QUIET, "RAY_ADDRESS": ray_address, "TERM": "xterm", "NO_COLOR": "1"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=writer)
    os.close(writer)
    pieces: list[bytes] = []

    def read() -> None:
        try:
            while piece := os.read(reader, 65536):
                pieces.append(piece)
        except OSError:  # the other end is closed
            return

    thread = Thread(target=read)
    thread.start()
    assert process.wait(timeout=900) == 0
    thread.join(timeout=30)
    os.close(reader)
    screen = rendered(b"".join(pieces).decode())
    text = "\n".join(screen)
    assert len(re.findall(r"\x1b\[\d+A", b"".join(pieces).decode())) > 3, "drawn over again and again"
    headings = [found[1] for line in screen if (found := re.match(r"(probe|answer|judge): ", line))]
    # what Ray's own processes write past us moves the lines by one, and one heading then stays behind
    assert list(dict.fromkeys(headings)) == ["probe", "answer", "judge"], text
    assert len(headings) <= 4, text
    assert re.search(r"^  videos  #{10}  100 %  4/4 .*1 failed$", text, re.M), text
    assert "  output " in text


def rendered(written: str) -> list[str]:
    """Return what a terminal shows: lines of text, after moves up and erasing."""
    screen, row = [""], 0
    for part in re.findall(r"\x1b\[\d*[A-Za-z]|\r\n|\r|[^\x1b\r]+", written):
        if up := re.fullmatch(r"\x1b\[(\d+)A", part):
            row = max(0, row - int(up[1]))
        elif part == "\x1b[J":
            del screen[row + 1 :]
            screen[row] = ""
        elif part == "\r\n":
            row += 1
            screen += [""] * (row + 1 - len(screen))
        elif not part.startswith(("\x1b", "\r")):
            screen[row] = part
    return screen
