"""Measure a repository's commits, judge them, show how a running system is, and alert.

The parts import only those before them: history, gate, alerts, dashboard. Only the command line
imports this package, and it needs the extra ``stageflow[bench]``.
"""

from __future__ import annotations

from stageflow.pulse.errors import (
    GateSettingsError,
    PulseError,
    TooFewSamplesError,
    WorkerFailedError,
)

__all__ = ["GateSettingsError", "PulseError", "TooFewSamplesError", "WorkerFailedError"]
