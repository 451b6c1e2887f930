"""The demonstration of Central Pulse shows what it promises."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.utils.asv_repo import ROOT
from tests.utils.commands import run_command

pytestmark = pytest.mark.slow


def _demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tools.pulse_demo", *arguments]
    return run_command(command, cwd=ROOT)


def test_each_alert_arrives_and_is_resolved() -> None:
    """Each trouble's alert arrives by Slack and e-mail, is resolved, and can be looked at."""
    done = _demo("--once", "--port", "0")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert len(re.findall(r"http://127\.0\.0\.1:\d+", done.stdout)) == 3
    for alert in ("ErrorRateHigh", "FirstAudioOverBudget"):
        said = [line.split("  ✓ ")[1] for line in done.stdout.splitlines() if f" {alert}" in line]
        assert said == [
            f"arrived at Slack: FIRING 1: {alert}",
            f"arrived by e-mail: FIRING 1: {alert}",
            f"arrived at Slack: RESOLVED: {alert}",
        ]


@pytest.mark.parametrize("arguments", [["--port", "x"], ["--twice"]])
def test_bad_arguments(arguments: list[str]) -> None:
    """Nothing is started for what makes no sense."""
    assert _demo(*arguments).returncode == 2
