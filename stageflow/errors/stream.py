"""What can go wrong with streams."""

from __future__ import annotations

from collections.abc import Iterable

from stageflow.errors.base import ErrorCategory, StageflowError, did_you_mean
from stageflow.errors.stage import StageError


class StreamError(StageError):
    """A stream was used wrongly, or whoever writes it has failed.

    Attributes:
        key: The stream's key.
    """

    code = "stream_error"
    category = ErrorCategory.LOGIC

    def __init__(self, key: object, message: str) -> None:
        super().__init__(message)
        self.key = key


class UndeclaredStreamError(StreamError):
    """A stage opened a stream that it does not declare."""

    code = "undeclared_stream"

    def __init__(self, key: object, declared: Iterable[str]) -> None:
        names = sorted(declared)
        hint = did_you_mean(key, names) if isinstance(key, str) else "; keys are strings"
        super().__init__(
            key,
            f"opened {key!r} without declaring it; write streams=[{key!r}, …]"
            f" (declared: {names}){hint}",
        )


class StreamReopenedError(StreamError):
    """A stage opened a stream again after it had put items into it."""

    code = "stream_reopened"

    def __init__(self, key: str, items: int) -> None:
        super().__init__(
            key,
            f"opened the stream {key!r} again after putting {items} items into it; open it once,"
            " and run no stage again that has put something: what was said cannot be unsaid",
        )


class StreamClosedError(StreamError):
    """Something was put into a stream, or one was opened, after its stage had ended."""

    code = "stream_closed"

    def __init__(self, key: str, producer: str) -> None:
        super().__init__(
            key,
            f"the stream {key!r} is closed, as stage {producer!r} has ended; let the stage wait for"
            " all of its tasks before it returns",
        )


class StreamNotKeptError(StreamError):
    """Items were asked for that a stream does not have any more, or not yet."""

    code = "stream_not_kept"

    def __init__(self, key: str, why: str) -> None:
        super().__init__(
            key,
            f"the stream {key!r} does not hold all of its items: {why}; to have them afterwards,"
            " let a stage that reads it put what is needed into its outputs",
        )


class StreamFailedError(StreamError):
    """The stage that writes a stream failed, and so does who reads on.

    Attributes:
        producer: Name of the stage that failed.
        cause: Why; category, retryability and user message are its own.
    """

    code = "stream_failed"

    def __init__(self, key: str, producer: str, cause: StageflowError | None) -> None:
        super().__init__(
            key, f"stage {producer!r}, which writes the stream {key!r}, failed: {cause}"
        )
        self.producer = producer
        self.cause = cause
        if cause is not None:
            self.__cause__ = cause
            self.category = cause.category
            self.retryable = cause.retryable
            self.user_message = cause.user_message


class StreamCancelledError(StreamError):
    """The stage that writes a stream was cancelled, and its reader was not."""

    code = "stream_cancelled"
    category = ErrorCategory.PERMANENT

    def __init__(self, key: str, producer: str) -> None:
        super().__init__(key, f"stage {producer!r}, which writes the stream {key!r}, was cancelled")
        self.producer = producer
