"""What concerns every test: a run that is cut short has said what failed so far."""

import pytest

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
