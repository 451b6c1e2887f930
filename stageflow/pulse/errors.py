"""What can go wrong while the benchmark history is measured, published or served."""

from __future__ import annotations

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
