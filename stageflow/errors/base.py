"""The root of all errors, and what every error says of itself."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from enum import StrEnum


class ErrorCategory(StrEnum):
    """What kind of trouble an error is, and so who can mend it."""

    TRANSIENT = "transient"  # may well succeed when tried again
    PERMANENT = "permanent"  # the same call fails the same way again
    LOGIC = "logic"  # the code of a stage or of a pipeline is wrong
    SYSTEMIC = "systemic"  # the surroundings are broken: memory, disk, a deadline
    POLICY = "policy"  # refused on purpose


GENERIC_USER_MESSAGE = "Something went wrong on our side. Please try again."


class StageflowError(Exception):
    """Root of all errors of stageflow.

    Attributes:
        code: Stable, machine-readable name of the error.
        category: Who can mend it; see `ErrorCategory`.
        retryable: Whether the same call may succeed when it is made again.
        user_message: Text that is safe to show to the person in the conversation.
        retry_after_s: How long to wait before the next try, in seconds, if that is known.
        stage: Name of the stage concerned, if any.
        pipeline_run_id: Id of the run concerned, if any.
    """

    code: str = "stageflow_error"
    category: ErrorCategory = ErrorCategory.PERMANENT
    retryable: bool = False
    user_message: str = GENERIC_USER_MESSAGE
    retry_after_s: float | None = None

    def __init__(
        self, message: str, *, stage: str | None = None, pipeline_run_id: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.stage = stage
        self.pipeline_run_id = pipeline_run_id

    def __str__(self) -> str:
        return self.message

    def located(self, stage: str, pipeline_run_id: str) -> StageflowError:
        """Fill in where the error happened, unless it is known already.

        Returns:
            Itself; if it is of another run, a copy that was raised from it. A child's failure may
            be raised on by its parent, and several runs may raise one object.
        """
        if self.pipeline_run_id not in (None, pipeline_run_id):
            # Not by copy.copy, which would call a constructor that takes something else.
            here = type(self).__new__(type(self), *self.args)
            vars(here).update(vars(self), stage=stage, pipeline_run_id=pipeline_run_id)
            here.__cause__ = self
            return here
        self.stage = self.stage or stage
        self.pipeline_run_id = pipeline_run_id
        return self


def shown(value: object) -> str:
    """A value as an error shows it; of one that cannot be shown, its type and why."""
    try:
        return repr(value)
    except Exception as error:  # nested deeper than the stack, or a __repr__ that raises
        return f"<{type(value).__name__} whose repr raises {type(error).__name__}>"


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The name among `known` that `name` most likely is a misspelling of, if any."""
    matches = difflib.get_close_matches(name, list(known), n=1)
    return matches[0] if matches else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a sentence that names the nearest of `known`; empty if none is near."""
    found = nearest(name, known)
    return f"; did you mean {found!r}?" if found else ""
