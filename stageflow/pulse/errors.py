"""What can go wrong while the benchmark history is measured, published or served."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stageflow.errors import ErrorCategory, StageflowError


class PulseError(StageflowError):
    """The benchmark history could not be measured, published or served; the text says the mend."""

    code = "pulse_error"
    category = ErrorCategory.SYSTEMIC


class AsvMissingError(PulseError):
    """asv, or virtualenv that it needs, is not installed for the running interpreter."""

    code = "pulse_asv_missing"


class AsvFailedError(PulseError):
    """An asv command ended in a way that leaves nothing to go on with."""

    code = "pulse_asv_failed"


class NotOfflineError(PulseError):
    """The published site would load something that is not part of it."""

    code = "pulse_site_not_offline"


class GateSettingsError(PulseError):
    """A file of the gate's settings is wrong.

    Attributes:
        path: The file.
        problems: One sentence each, with line and mend.
    """

    code = "pulse_gate_settings"

    def __init__(self, path: Path, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.path = path
        self.problems = tuple(problems)


class TooFewSamplesError(PulseError):
    """There are not enough samples for a percentile or an interval, and none is guessed."""

    code = "pulse_too_few_samples"


class WorkerFailedError(PulseError):
    """A process that runs the timed works did not start, ended early, or hung."""

    code = "pulse_worker_failed"
