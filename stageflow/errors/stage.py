"""Failures of stages, runs and streams."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from types import CoroutineType
from typing import ClassVar

from stageflow.errors.base import (
    BUSY,
    IN_TROUBLE,
    LOGIC,
    SYSTEMIC,
    TOO_LONG,
    TOO_SLOW,
    UNREACHABLE,
    ErrorCategory,
    StageflowError,
    Traits,
    did_you_mean,
    shown,
)


class StageError(StageflowError):
    """A stage or a run failed."""

    code = "stage_error"

    def _explain_by(self, cause: StageflowError) -> None:
        self.__cause__ = cause
        self.category, self.retryable = cause.category, cause.retryable
        self.user_message = cause.user_message


class StageFailedError(StageError):
    """A stage returned a failed `StageOutput`."""

    code = "stage_failed"

    def __init__(
        self, message: str, *, retryable: bool = False, user_message: str | None = None
    ) -> None:
        super().__init__(message)
        self.retryable = retryable
        self.category = ErrorCategory.TRANSIENT if retryable else ErrorCategory.PERMANENT
        if user_message is not None:
            self.user_message = user_message


class StageRaisedError(StageError):
    """A stage raised the exception `__cause__`; `stageflow.resilience.classify` chose the code."""

    code = "stage_raised"
    category = ErrorCategory.LOGIC
    codes: ClassVar = {
        "connection_failed": Traits(ErrorCategory.TRANSIENT, True, UNREACHABLE),
        # The stage's own limit for something that it waits for.
        "operation_timeout": Traits(ErrorCategory.TRANSIENT, True, TOO_SLOW),
        # HTTP 5xx, a database that shuts down.
        "service_unavailable": Traits(ErrorCategory.TRANSIENT, True, IN_TROUBLE),
        "rate_limited": Traits(ErrorCategory.TRANSIENT, True, BUSY),  # HTTP 429
        "credentials_rejected": SYSTEMIC,  # HTTP 401, 403
        "request_rejected": Traits(ErrorCategory.PERMANENT),  # other HTTP 4xx
        # HTTP 413, ``context_length_exceeded``: kernels then send less of the conversation.
        "request_too_long": Traits(ErrorCategory.PERMANENT, False, TOO_LONG),
        "database_busy": Traits(ErrorCategory.TRANSIENT, True),
        "storage_failed": SYSTEMIC,
        "out_of_resources": SYSTEMIC,  # memory, the call stack
    }

    def __init__(
        self, cause: BaseException, code: str | None = None, *, retry_after_s: float | None = None
    ) -> None:
        text = shown(cause, str)
        text = f"{type(cause).__name__}: {text}" if text else type(cause).__name__
        text += _fix_of(cause)
        super().__init__(
            f"timeout inside the stage ({text})" if code == "operation_timeout" else text, code=code
        )
        self.retry_after_s = retry_after_s
        self.__cause__ = cause


#: Text before the name of a type in Python's messages.
_OF_TYPE = r"""(?:['"]|got |type |not |instance, |non-iterable )"""
#: Parts of Python's messages about common mistakes with `await`, and the fix of each.
_FIXES = (
    (r"\bStreamReader\b", "it comes in pieces: async for item in ctx[key]"),
    ("async_generator can't be used in 'await'", "it comes in pieces: async for piece in …"),
    ("can't be used in 'await' expression", "this is not a coroutine: remove await"),
    ("a running event loop|already running", "a stage runs in the loop already: write await"),
    ("reuse already awaited coroutine", "call the function again for each await"),
    ("raised StopIteration", "next() found no item: give it a default"),
    (_OF_TYPE + "async_generator", "it comes in pieces: async for piece in …"),
    (_OF_TYPE + "coroutine", "write await before the call that returned it"),
)


def _fix_of(cause: BaseException) -> str:
    """Return the end of a sentence with the fix; empty if it is not known."""
    if type(cause) not in (TypeError, AttributeError, RuntimeError):
        return ""
    text = shown(cause, str)
    return next((f"; {fix}" for part, fix in _FIXES if re.search(part, text)), "")


class StageTimeoutError(StageError):
    """A stage took longer than its timeout of `timeout_s` seconds."""

    code = "stage_timeout"
    category = ErrorCategory.TRANSIENT
    retryable = True
    user_message = TOO_SLOW

    def __init__(self, timeout_s: float) -> None:
        super().__init__(f"timeout: not finished after {timeout_s:g} s")
        self.timeout_s = timeout_s


class DeadlineExceededError(StageError):
    """The run took longer than its context allows, which is `deadline_s` seconds."""

    code = "deadline_exceeded"
    category = ErrorCategory.SYSTEMIC
    user_message = TOO_SLOW

    def __init__(self, deadline_s: float) -> None:
        super().__init__(f"timeout: the run passed its deadline of {deadline_s:g} s")
        self.deadline_s = deadline_s


class StageDefectError(StageError):
    """A stage breaks its declaration of `keys` or a rule of the engine; the code says which."""

    code = "stage_defect"
    category = ErrorCategory.LOGIC
    codes = dict.fromkeys(
        (
            "stray_cancellation",
            "not_ended",
            "invalid_output",
            "unawaited_output",
            "output_mismatch",
            "undeclared_input",
        ),
        LOGIC,
    )

    def __init__(
        self, message: str, *, code: str | None = None, keys: Iterable[object] = ()
    ) -> None:
        super().__init__(message, code=code)
        self.keys = tuple(keys)

    @staticmethod
    def stray_cancellation() -> StageDefectError:
        """Return the error of a stage that raises CancelledError without being cancelled."""
        return StageDefectError(
            "asyncio.CancelledError escaped although nobody cancelled the stage: something that"
            " it awaited was cancelled; catch it there",
            code="stray_cancellation",
        )

    @staticmethod
    def not_ended(grace_s: float) -> StageDefectError:
        """Return the error of a stage that runs on after its grace period."""
        return StageDefectError(
            f"did not end within the grace period of {grace_s:g} s: let CancelledError pass, and"
            " limit the clean-up",
            code="not_ended",
        )

    @staticmethod
    def invalid_output(found: object, declared: Collection[str]) -> StageDefectError:
        """Return the error of a stage whose return value cannot be its declared outputs."""
        fix = "write 'return StageOutput.ok(key=value)'"
        if len(declared) > 1:
            fix += f", or a mapping, dataclass or NamedTuple with the keys {sorted(declared)}"
        elif not declared and found is not None:
            fix = "declare an output: outputs=[…]"
        if isinstance(found, CoroutineType):
            found.close()  # avoids Python's warning later
            fix = "write 'return await …'"
        return StageDefectError(
            f"returned {shown(found)} of type {type(found).__name__} instead of a StageOutput;"
            f" {fix}",
            code="invalid_output",
        )

    @staticmethod
    def unawaited_output(key: str, coroutine: object) -> StageDefectError:
        """Return the error of an output that is a coroutine."""
        call = getattr(coroutine, "__qualname__", "…")
        return StageDefectError(
            f"the output {key!r} is a coroutine that nobody awaited; write {key}=await {call}(…)",
            code="unawaited_output",
            keys=(key,),
        )

    @staticmethod
    def output_mismatch(
        undeclared: Sequence[str] = (), missing: Sequence[str] = (), unopened: Sequence[str] = ()
    ) -> StageDefectError:
        """Return the error of a stage whose outputs differ from its declaration."""
        parts = []
        if undeclared:
            fix = did_you_mean(undeclared[0], missing) or ": add them to its outputs"
            parts.append(f"returned {list(undeclared)} undeclared{fix}")
        if missing:
            parts.append(f"did not return {list(missing)}, which it declares")
        if unopened:
            parts.append(
                f"did not open the streams {list(unopened)}, which it declares:"
                f" write ctx.open({unopened[0]!r}), or return StageOutput.skip(reason)"
            )
        return StageDefectError(
            "; ".join(parts), code="output_mismatch", keys=(*undeclared, *missing, *unopened)
        )

    @staticmethod
    def undeclared_input(key: object, declared: Iterable[str]) -> StageDefectError:
        """Return the error of a stage that read a key without declaring it."""
        names = sorted(declared)
        return StageDefectError(
            f"read {key!r} without declaring it; write inputs=[{key!r}, …]"
            f" (declared: {names}){did_you_mean(key, names)}",
            code="undeclared_input",
            keys=(key,),
        )


class AbsentInputError(StageError):
    """A stage read a declared input, `key`, whose producer did not provide it."""

    code = "absent_input"
    category = ErrorCategory.LOGIC

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(
            f"the input {key!r} is absent: {reason}; read it with ctx.get({key!r}) and handle None"
        )
        self.key = key


class ChildRunError(StageError):
    """A child run failed; its failure, `cause`, sets category, retryability and user message."""

    code = "child_run_failed"

    def __init__(self, child_pipeline: str, child_run_id: str, cause: StageflowError) -> None:
        where = f", stage {cause.stage!r}" if cause.stage else ""
        super().__init__(
            f"child run {child_run_id} of pipeline {child_pipeline!r}{where} failed: {cause}"
        )
        self.child_pipeline = child_pipeline
        self.child_run_id = child_run_id
        self.cause = cause
        self._explain_by(cause)


class StreamError(StageError):
    """A stream, `key`, was used wrongly, or its stage has ended early."""

    code = "stream_error"
    category = ErrorCategory.LOGIC
    codes: ClassVar = {
        "undeclared_stream": LOGIC,
        "stream_reopened": LOGIC,
        "stream_closed": LOGIC,
        "stream_not_kept": LOGIC,
        "stream_cancelled": Traits(ErrorCategory.PERMANENT),
    }

    def __init__(self, key: object, message: str, *, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.key = key

    @staticmethod
    def undeclared(key: object, declared: Iterable[str]) -> StreamError:
        """Return the error of a stage that opened a stream without declaring it."""
        names = sorted(declared)
        message = (
            f"opened {key!r} without declaring it; write streams=[{key!r}, …]"
            f" (declared: {names}){did_you_mean(key, names)}"
        )
        return StreamError(key, message, code="undeclared_stream")

    @staticmethod
    def reopened(key: str, items: int) -> StreamError:
        """Return the error of a stage that opened a stream again after writing to it."""
        message = (
            f"opened the stream {key!r} again after putting {items} items into it; open it once,"
            " and do not run the stage again: readers have seen these items"
        )
        return StreamError(key, message, code="stream_reopened")

    @staticmethod
    def closed(key: str, producer: str) -> StreamError:
        """Return the error of a `put` or `open` after the stage has ended."""
        message = (
            f"the stream {key!r} is closed, as stage {producer!r} has ended; let the stage wait for"
            " all of its tasks before it returns"
        )
        return StreamError(key, message, code="stream_closed")

    @staticmethod
    def not_kept(key: str, why: str) -> StreamError:
        """Return the error of reading items that the stream does not hold."""
        message = (
            f"the stream {key!r} does not hold all of its items: {why}; to have them afterwards,"
            " let a stage that reads it put what is needed into its outputs"
        )
        return StreamError(key, message, code="stream_not_kept")

    @staticmethod
    def cancelled(key: str, producer: str, why: str = "") -> StreamError:
        """Return the error of a reader whose stream ended because its stage was cancelled."""
        message = f"stage {producer!r}, which writes the stream {key!r}, was cancelled{why}"
        return StreamError(key, message, code="stream_cancelled")


class StreamFailedError(StreamError):
    """The stage that writes a stream failed, and so its reader; `cause` sets the traits."""

    code = "stream_failed"

    def __init__(self, key: str, producer: str, cause: StageflowError | None) -> None:
        super().__init__(
            key, f"stage {producer!r}, which writes the stream {key!r}, failed: {cause}"
        )
        self.producer = producer
        self.cause = cause
        if cause is not None:
            self._explain_by(cause)
