"""What a command uses, measured on commands whose use is known."""

import os
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from jobs import family
from jobs.family import kind_of, quarters, run
from pipeline.errors import JobError

BURN = "import time\nwhile time.process_time() < 1.0: pass\nprint('done')"


@pytest.fixture
def child(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """A program that burns a second and ends once that was seen: what comes after the last look is not."""
    seen = tmp_path / "seen"
    look = family._look

    def looking(
        member: Any, first_pid: int, at_s: float | None, spent: dict[Any, Any], weights: list[Any]
    ) -> None:
        look(member, first_pid, at_s, spent, weights)
        if any(kind != "driver" and cpu_s > 0.95 for kind, cpu_s in spent.values()):
            seen.touch()

    monkeypatch.setattr(family, "_look", looking)
    monkeypatch.setattr(family, "WEIGH_EVERY_S", 0.0)
    return f"{BURN}\nimport os\nwhile not os.path.exists({str(seen)!r}): time.sleep(0.05)"


def test_cpu_time_of_children_counts(child: str) -> None:
    command = [sys.executable, "-c", f"import subprocess,sys;subprocess.run([sys.executable,'-c',{child!r}])"]
    said, use = run(command, dict(os.environ))
    assert said == "done\n"
    assert use.cpu_s > 0.9
    assert use.cpu_s_of["driver"] < use.cpu_s / 2
    assert max(use.memory_mb["driver"]) > 1


def test_a_process_whose_title_is_gone_is_still_of_its_kind(
    child: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is about to end has none any more."""
    seen: list[int] = []
    title = psutil.Process.cmdline

    def vanishing(process: psutil.Process) -> list[str]:
        words = title(process)
        seen.extend([process.pid] * ("pipeline.child" in words))
        return [] if seen.count(process.pid) > 1 else words

    monkeypatch.setattr(psutil.Process, "cmdline", vanishing)
    decoder = [sys.executable, "-c", child, "pipeline.child"]
    _, use = run([sys.executable, "-c", f"import subprocess;subprocess.run({decoder!r})"], dict(os.environ))
    assert set(use.cpu_s_of) == {"driver", "decoder"}
    assert use.cpu_s_of["decoder"] > 0.9


def test_a_command_that_fails_says_why() -> None:
    with pytest.raises(JobError, match="exit code 3: out of luck"):
        run(
            [sys.executable, "-c", "import sys;sys.stderr.write('out of luck');sys.exit(3)"], dict(os.environ)
        )


def test_highest_per_quarter() -> None:
    samples = [(0.0, "a", 5.0), (1.5, "a", 3.0), (4.0, "a", 9.0), (2.5, "b", 1.0)]
    assert quarters(samples) == {"a": [5.0, 3.0, 0.0, 9.0], "b": [0.0, 0.0, 1.0, 0.0]}


@pytest.mark.parametrize(
    ("title", "kind"),
    [
        ("ray::MapWorker(MapBatches(Scorer)).submit", "Scorer"),
        ("ray::MapBatches(plan_window)->MapBatches(AnswerActor)->MapBatches(stage_windows)", "task worker"),
        ("ray::MapBatches(read_slices)->MapBatches(sample_window)", "task worker"),
        ("/usr/lib/raylet --x", "Ray itself"),
        ("python -c from multiprocessing.spawn import spawn_main", "loop process"),
    ],
)
def test_kinds(title: str, kind: str) -> None:
    assert kind_of(title.split()) == kind
