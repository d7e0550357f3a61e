"""The console script: commands, exit codes, and that help is cheap."""

import subprocess
import sys
from pathlib import Path

import pytest

from jobs import __main__ as console
from pipeline.errors import ConfigError, ModelError, StoreError

ROOT = Path(__file__).parents[2]


def run(monkeypatch: pytest.MonkeyPatch, *argv: str) -> int:
    monkeypatch.setattr(sys, "argv", ["reelsift", *argv])
    return console.main()


def test_help_names_every_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--help") == 0
    text = capsys.readouterr().out
    assert all(f"  {name} " in text for name in console.COMMANDS)
    assert run(monkeypatch) == 2
    assert capsys.readouterr().err == text


def test_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "--version") == 0
    assert capsys.readouterr().out.startswith("reelsift ")


def test_an_unknown_command_names_the_nearest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "anwser") == 2
    assert capsys.readouterr().err == "reelsift: no command 'anwser'; did you mean 'answer'?\n"
    assert run(monkeypatch, "zzz") == 2
    assert (
        capsys.readouterr().err
        == "reelsift: no command 'zzz'; known: answer, index, show, compact, status, check-cluster, submit, train,"
        " world, bench\n"
    )


def test_a_command_gets_its_arguments(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run(monkeypatch, "show", str(tmp_path / "nothing")) == 2
    assert capsys.readouterr().err == f"reelsift: {tmp_path}/nothing: no such folder\n"


@pytest.mark.parametrize(
    ("error", "code", "trace"),
    [
        (ConfigError("bad setting"), 2, False),
        (ModelError("no weights"), 3, False),
        (StoreError("no bucket"), 3, False),
        (KeyError("bug"), 3, True),
    ],
)
def test_errors_have_exit_codes(
    error: Exception, code: int, trace: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_: list[str]) -> int:
        raise error

    assert console.run_command(broken, []) == code
    printed = capsys.readouterr().err
    assert ("Traceback" in printed) == trace
    assert trace or printed == f"reelsift: {error}\n"


def test_a_command_s_own_exit_code_is_kept() -> None:
    assert console.run_command(len, ["a"]) == 1


def test_a_reader_that_leaves_early_is_no_error() -> None:
    program = "import sys; from jobs.__main__ import run_command\n"
    program += "sys.exit(run_command(lambda _: print('line\\n' * 100000) or 0, []))"
    done = subprocess.run(
        ["bash", "-c", f'set -o pipefail; {sys.executable} -c "$0" | head -1', program],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "line\n", "")


def test_help_loads_nothing_heavy() -> None:
    program = "import sys; sys.argv = ['reelsift', '--help']; from jobs.__main__ import main; main()\n"
    program += "assert not {'torch', 'ray', 'numpy', 'pyarrow', 'tyro'} & {*sys.modules}"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True).returncode == 0
