"""What concerns every test: a run that is cut short has said what failed so far, and how properties are searched.

Without a clock, because the machine may be busy with other work, and the same cases every time, so that a commit passes
or does not; REELSIFT_SEARCH=1 looks for new ones.
"""

import os

import pytest
from hypothesis import HealthCheck, settings

# more threads of torch only wait for each other over arrays as small as those of the properties
os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile(
    "reelsift",
    deadline=None,
    derandomize=os.environ.get("REELSIFT_SEARCH") != "1",
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("reelsift")

LAST_CHARS = 3000
"""Of a failure, as much is shown at once; all of it stands at the end."""


class FailuresAtOnce:
    """Prints a failure when it happens."""

    def __init__(self, terminal: pytest.TerminalReporter):
        self._terminal = terminal

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._terminal.write_line(f"\n{report.nodeid} ({report.when}, {report.duration:.0f} s)")
            self._terminal.write_line(report.longreprtext[-LAST_CHARS:])


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Once, where the terminal is: not in the processes that run the tests."""
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    if isinstance(terminal, pytest.TerminalReporter) and not hasattr(config, "workerinput"):
        config.pluginmanager.register(FailuresAtOnce(terminal))
