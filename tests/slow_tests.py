"""No test becomes slow unnoticed: one above the limit is listed in slow_tests.txt, with its reason.

In CI (`CI=true`) a slow test that is not listed fails the run; elsewhere it is printed. `--deep` is
exempt, for it is there to take long.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

LIMIT_S = 30.0
LIST = Path(__file__).with_name("slow_tests.txt")


def listed(text: str | None = None) -> dict[str, str]:
    """Return the reason of each listed test by the test's name."""
    lines = (LIST.read_text() if text is None else text).splitlines()
    rows = [line.split("  ", 1) for line in lines if line and not line.startswith("#")]
    return {name: reason.strip() for name, reason in rows}


def name_of(nodeid: str) -> str:
    """Return a test's name without the group that xdist appends to it."""
    return nodeid.rpartition("@")[0] if nodeid.rfind("@") > nodeid.rfind("]") else nodeid


def unlisted(durations_s: Mapping[str, float], reasons: Mapping[str, str]) -> dict[str, float]:
    """Return the tests above the limit that have no line in the list."""
    return {
        name: seconds
        for name, seconds in durations_s.items()
        if seconds > LIMIT_S and name not in reasons
    }


class Watch:
    """Notes how long each test's own code took, on whichever worker it ran."""

    def __init__(self, config: pytest.Config) -> None:
        self.fails = os.environ.get("CI") == "true" and not config.getoption("--deep")
        self.durations_s: dict[str, float] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call":
            self.durations_s[name_of(report.nodeid)] = report.duration

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.fails and unlisted(self.durations_s, listed()) and session.exitstatus == 0:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for name, seconds in unlisted(self.durations_s, listed()).items():
            terminalreporter.write_line(
                f"{name} took {seconds:.0f} s, and the limit is {LIMIT_S:.0f} s: make it faster, "
                f"or list it in {LIST.name} with a reason",
                red=self.fails,
                yellow=not self.fails,
            )


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Watch(config))
