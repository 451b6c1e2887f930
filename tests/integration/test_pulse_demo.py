"""The demonstration of Central Pulse shows what it promises."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.utils.asv_repo import ROOT
from tests.utils.commands import run_command

pytestmark = pytest.mark.slow


def _demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tools.pulse_demo", *arguments]
    return run_command(command, cwd=ROOT)


def test_an_alert_arrives_and_is_resolved() -> None:
    """It comes by Slack and e-mail, says what and where, is resolved, and can be looked at.

    That of a model that fails is followed by test_alerts_end_to_end.py.
    """
    done = _demo("--once", "--only", "stt", "--port", "0")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    shown = [line.split()[0] for line in done.stdout.splitlines() if " http://127.0.0.1:" in line]
    assert shown[:3] == ["Central", "Prometheus", "Alertmanager"]
    alert = "FirstAudioOverBudget"
    said = [line.split("  ✓ ")[1] for line in done.stdout.splitlines() if f" {alert}" in line]
    assert said == [
        f"arrived at Slack: FIRING 1: {alert}",
        f"arrived by e-mail: FIRING 1: {alert}",
        f"arrived at Slack: RESOLVED: {alert}",
    ]
    assert "P99 time to first audio of streaming_voice is " in done.stdout
    # Not which stage: on a slow machine the turns are over their budget before the trouble begins.
    assert "likely stage " in done.stdout
    assert "trouble: llm" not in done.stdout


@pytest.mark.parametrize("arguments", [["--port", "x"], ["--twice"], ["--only", "x"]])
def test_bad_arguments(arguments: list[str]) -> None:
    """Nothing is started for what makes no sense."""
    assert _demo(*arguments).returncode == 2
