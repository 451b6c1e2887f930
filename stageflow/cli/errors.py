"""What can be wrong with a command line beyond what its parser sees."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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


@contextmanager
def needing(extra: str) -> Iterator[None]:
    """What is imported here comes with an extra of the package.

    Raises:
        UsageError: It is not installed; says how to install it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise UsageError(
            f"{error.name} is not installed: pip install 'stageflow[{extra}]'"
            f" (in a clone: pip install -e '.[{extra}]')"
        ) from error
