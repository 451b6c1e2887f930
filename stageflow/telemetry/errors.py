"""What can go wrong with files of telemetry."""

from __future__ import annotations

from stageflow.errors import ErrorCategory, StageflowError


class TelemetryError(StageflowError):
    """Telemetry could not be written or read."""

    code = "telemetry_error"


class InvalidTelemetryFileError(TelemetryError):
    """A file or database holds no telemetry, or that of a newer stageflow.

    Attributes:
        where: The file or database.
    """

    code = "invalid_telemetry_file"
    category = ErrorCategory.LOGIC

    def __init__(self, where: str, problem: str) -> None:
        super().__init__(f"{where} {problem}")
        self.where = where


class TelemetryFileError(TelemetryError):
    """A file or database of telemetry could not be opened, read or written; see `__cause__`.

    Attributes:
        where: The file or database.
    """

    code = "telemetry_file_failed"
    category = ErrorCategory.SYSTEMIC

    def __init__(
        self,
        action: str,
        where: str,
        cause: BaseException,
        mend: str = "the file is there, that the disk has room, and that no other process holds"
        " it locked",
    ) -> None:
        reason = f"{type(cause).__name__}: {cause}"
        super().__init__(f"cannot {action} the telemetry in {where} ({reason}); see that {mend}")
        self.where = where
        self.__cause__ = cause


class UnknownRunError(TelemetryError):
    """There is no telemetry of such a run."""

    code = "unknown_run"
    category = ErrorCategory.LOGIC

    def __init__(self, run_id: str, where: str) -> None:
        super().__init__(f"{where} holds no run {run_id!r}: it was pruned, or written elsewhere")
        self.run_id = run_id
