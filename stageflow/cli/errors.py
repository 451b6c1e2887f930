"""What can be wrong with a command line beyond what its parser sees."""

from __future__ import annotations

from stageflow.errors import ErrorCategory, StageflowError


class UsageError(StageflowError):
    """An argument names something that is not there, or not of its kind."""

    code = "usage"
    category = ErrorCategory.LOGIC


class FileError(StageflowError):
    """A file could not be read or written."""

    code = "file"
    category = ErrorCategory.SYSTEMIC

    def __init__(self, action: str, path: str, error: OSError | UnicodeError) -> None:
        reason = getattr(error, "strerror", None) or error
        super().__init__(f"cannot {action} {path}: {reason}")
        self.path = path
