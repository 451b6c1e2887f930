"""The errors of measuring, judging, publishing and serving."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stageflow.errors import SYSTEMIC, StageflowError


class PulseError(StageflowError, code="pulse_error", traits=SYSTEMIC):
    """The benchmark history could not be measured, published or served; the text names the fix."""

    codes = dict.fromkeys(
        (
            "pulse_asv_missing",
            "pulse_asv_failed",
            "pulse_site_not_offline",
            "pulse_alert_state",
            "pulse_alert_secret",
        ),
        SYSTEMIC,
    )


class GateSettingsError(PulseError, code="pulse_gate_settings"):
    """A file of the gate's settings is wrong: `problems` are sentences with line and fix."""

    def __init__(self, path: Path, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.path = path
        self.problems = tuple(problems)


class TooFewSamplesError(PulseError, code="pulse_too_few_samples"):
    """There are not enough samples for a percentile or an interval."""


class WorkerFailedError(PulseError, code="pulse_worker_failed"):
    """A process that runs the timed operations did not start, ended early, or hung."""
