"""How a stage, or the run that holds it, fails."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from stageflow.errors.base import ErrorCategory, StageflowError, did_you_mean, shown


class StageError(StageflowError):
    """A stage failed, or the run as a whole."""

    code = "stage_error"


class StageFailedError(StageError):
    """A stage returned a failed `StageOutput`."""

    code = "stage_failed"

    def __init__(self, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.retryable = retryable
        self.category = ErrorCategory.TRANSIENT if retryable else ErrorCategory.PERMANENT


class StageRaisedError(StageError):
    """A stage raised an exception of its own; `__cause__` holds it."""

    code = "stage_raised"
    category = ErrorCategory.LOGIC

    def __init__(self, cause: BaseException) -> None:
        said = f"{type(cause).__name__}: {cause}" if str(cause) else type(cause).__name__
        super().__init__(said + _mend_of(cause))
        self.__cause__ = cause


#: What Python says of the commonest mistakes around `await`, and what to write instead.
_MENDS = (
    ("async_generator can't be used in 'await'", "it comes in pieces: async for piece in …"),
    ("can't be used in 'await' expression", "what is awaited is no coroutine: remove await"),
    ("cannot be called from a running event loop", "a stage runs in the loop already: write await"),
    ("async_generator", "it comes in pieces: async for piece in …"),
    ("coroutine", "write await before the call that returned it"),
)


def _mend_of(cause: BaseException) -> str:
    """The end of a sentence that names the mend; empty unless Python itself said what is wrong."""
    if type(cause) not in (TypeError, AttributeError, RuntimeError):
        return ""
    said = str(cause)
    return next((f"; {mend}" for part, mend in _MENDS if part in said), "")


class ConnectionFailedError(StageRaisedError):
    """A stage could not reach what it calls."""

    code = "connection_failed"
    category = ErrorCategory.TRANSIENT
    retryable = True
    user_message = "A service we need cannot be reached right now. Please try again."


class OperationTimeoutError(StageRaisedError):
    """Something that a stage waited for took too long by the stage's own measure."""

    code = "operation_timeout"
    category = ErrorCategory.TRANSIENT
    retryable = True
    user_message = "That took too long. Please try again."

    def __init__(self, cause: BaseException) -> None:
        super().__init__(cause)
        self.message = f"timeout inside the stage ({self.message})"


class ServiceUnavailableError(StageRaisedError):
    """A provider answered that it cannot serve now (HTTP 5xx, a database that shuts down)."""

    code = "service_unavailable"
    category = ErrorCategory.TRANSIENT
    retryable = True
    user_message = "A service we need is having trouble. Please try again in a moment."


class RateLimitedError(StageRaisedError):
    """A provider wants fewer calls (HTTP 429)."""

    code = "rate_limited"
    category = ErrorCategory.TRANSIENT
    retryable = True
    user_message = "We are very busy right now. Please try again in a moment."

    def __init__(self, cause: BaseException, retry_after_s: float | None = None) -> None:
        super().__init__(cause)
        self.retry_after_s = retry_after_s


class CredentialsRejectedError(StageRaisedError):
    """A provider does not accept our key (HTTP 401, 403)."""

    code = "credentials_rejected"
    category = ErrorCategory.SYSTEMIC


class RequestRejectedError(StageRaisedError):
    """A provider will never accept this request (other HTTP 4xx)."""

    code = "request_rejected"
    category = ErrorCategory.PERMANENT


class DatabaseBusyError(StageRaisedError):
    """A database could not serve in time: a lock is held, or no connection is free."""

    code = "database_busy"
    category = ErrorCategory.TRANSIENT
    retryable = True


class StorageFailedError(StageRaisedError):
    """The disk is full or cannot be written."""

    code = "storage_failed"
    category = ErrorCategory.SYSTEMIC


class OutOfResourcesError(StageRaisedError):
    """Memory or the call stack ran out."""

    code = "out_of_resources"
    category = ErrorCategory.SYSTEMIC


class StageTimeoutError(StageError):
    """A stage took longer than its timeout.

    Attributes:
        timeout_s: The limit in seconds.
    """

    code = "stage_timeout"
    category = ErrorCategory.TRANSIENT
    retryable = True
    user_message = "That took too long. Please try again."

    def __init__(self, timeout_s: float) -> None:
        super().__init__(f"timeout: not finished after {timeout_s:g} s")
        self.timeout_s = timeout_s


class DeadlineExceededError(StageError):
    """The run took longer than its context allows.

    Attributes:
        deadline_s: The limit in seconds since the run began.
    """

    code = "deadline_exceeded"
    category = ErrorCategory.SYSTEMIC
    user_message = "That took too long. Please try again."

    def __init__(self, deadline_s: float) -> None:
        super().__init__(f"timeout: the run passed its deadline of {deadline_s:g} s")
        self.deadline_s = deadline_s


class StrayCancellationError(StageError):
    """A stage let a cancellation escape that nobody had asked for."""

    code = "stray_cancellation"
    category = ErrorCategory.LOGIC

    def __init__(self) -> None:
        super().__init__(
            "asyncio.CancelledError escaped although nobody cancelled the stage: something that"
            " it awaited was cancelled; catch it there"
        )


class InvalidOutputError(StageError):
    """A stage returned something else than a `StageOutput`."""

    code = "invalid_output"
    category = ErrorCategory.LOGIC

    def __init__(self, found: object) -> None:
        super().__init__(
            f"returned {shown(found)} of type {type(found).__name__} instead of a StageOutput;"
            " write 'return StageOutput.ok(key=value)'"
        )


class UnawaitedOutputError(StageError):
    """A stage has returned a coroutine among its outputs: a call that was never awaited.

    Found when the outputs are read: looking at each as it is written would cost every run 3 %.

    Attributes:
        key: The output.
    """

    code = "unawaited_output"
    category = ErrorCategory.LOGIC

    def __init__(self, key: str, coroutine: object) -> None:
        self.key = key
        call = getattr(coroutine, "__qualname__", "…")
        super().__init__(
            f"the output {key!r} is a coroutine that nobody awaited; write {key}=await {call}(…)"
        )


class OutputMismatchError(StageError):
    """A stage's outputs are not the ones that it declares.

    Attributes:
        undeclared: Keys that it returned without declaring them.
        missing: Keys that it declared and did not return.
        unopened: Streams that it declared and did not open.
    """

    code = "output_mismatch"
    category = ErrorCategory.LOGIC

    def __init__(
        self, undeclared: Sequence[str], missing: Sequence[str], unopened: Sequence[str] = ()
    ) -> None:
        self.undeclared = tuple(undeclared)
        self.missing = tuple(missing)
        self.unopened = tuple(unopened)
        parts = []
        if undeclared:
            mend = did_you_mean(undeclared[0], missing) or ": add them to its outputs"
            parts.append(f"returned {list(undeclared)} undeclared{mend}")
        if missing:
            parts.append(f"did not return {list(missing)}, which it declares")
        if unopened:
            parts.append(
                f"did not open the streams {list(unopened)}, which it declares:"
                f" write ctx.open({unopened[0]!r}), or return StageOutput.skip(reason)"
            )
        super().__init__("; ".join(parts))


class UndeclaredInputError(StageError):
    """A stage read a key that it does not declare as an input."""

    code = "undeclared_input"
    category = ErrorCategory.LOGIC

    def __init__(self, key: object, declared: Iterable[str]) -> None:
        names = sorted(declared)
        self.key = key
        hint = did_you_mean(key, names) if isinstance(key, str) else "; keys are strings"
        super().__init__(
            f"read {key!r} without declaring it; write inputs=[{key!r}, …]"
            f" (declared: {names}){hint}"
        )


class AbsentInputError(StageError):
    """A stage read a declared input whose producer did not provide it.

    Attributes:
        key: The input.
    """

    code = "absent_input"
    category = ErrorCategory.LOGIC

    def __init__(self, key: str, reason: str) -> None:
        self.key = key
        super().__init__(
            f"the input {key!r} is absent: {reason}; read it with ctx.get({key!r}) and handle None"
        )


class ChildRunError(StageError):
    """A child run failed, and so the stage that started it.

    Attributes:
        child_run_id: Id of the child run.
        child_pipeline: Name of its pipeline.
        cause: What failed there.
    """

    code = "child_run_failed"

    def __init__(self, child_pipeline: str, child_run_id: str, cause: StageflowError) -> None:
        where = f", stage {cause.stage!r}" if cause.stage else ""
        super().__init__(
            f"child run {child_run_id} of pipeline {child_pipeline!r}{where} failed: {cause}"
        )
        self.child_pipeline = child_pipeline
        self.child_run_id = child_run_id
        self.cause = cause
        self.__cause__ = cause
        self.category = cause.category
        self.retryable = cause.retryable
        self.user_message = cause.user_message
