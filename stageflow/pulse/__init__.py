"""Measure a repository's commits, judge them, show how a running system is, and alert.

The parts import only those before them: history, gate, alerts, dashboard. Only the command line
imports this package, and it needs the extra ``stageflow[bench]``.
"""

# ruff: noqa: F403, F405 - the list below says which names are public

from stageflow.pulse.errors import *

__all__ = ["GateSettingsError", "PulseError", "TooFewSamplesError", "WorkerFailedError"]
