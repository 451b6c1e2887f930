"""What a provider raised, as JSON, and raised again.

Built-in exceptions come back as they were. Everything else comes back as what
`stageflow.classification.classify` makes of it, which is all that the engine sees.
"""

from __future__ import annotations

import builtins
from collections.abc import Iterator
from typing import Any

from stageflow.classification import classify
from stageflow.dlq.codec import LetterCodec
from stageflow.dlq.reproduce import RecordedError
from stageflow.errors import StageflowError
from stageflow.testing.recording.turn_file import unstorable_in


def plain_error(error: Exception, codec: LetterCodec) -> dict[str, Any]:
    """An exception as JSON can hold it."""
    known = classify(error)
    told: dict[str, Any] = {
        "code": known.code,
        "category": str(known.category),
        "message": known.message,
        "user_message": known.user_message,
        "retryable": known.retryable,
        "retry_after_s": known.retry_after_s,
    }
    arguments = codec.to_plain(list(error.args))
    if type(error).__module__ == "builtins" and unstorable_in(arguments) is None:
        told["builtin"] = [type(error).__name__, arguments]
    return told


def error_again(told: dict[str, Any], codec: LetterCodec) -> Exception:
    """An exception to raise in the place of the one that was recorded."""
    if "builtin" in told:
        name, arguments = told["builtin"]
        cls = getattr(builtins, name)
        if issubclass(cls, Exception):
            made: Exception = cls(*codec.from_plain(arguments))
            return made
    for known in _classes(StageflowError):
        if known.code == told["code"]:
            return _with(known.__new__(known, told["message"]), told)
    return _with(RecordedError(told["code"], told["category"], told["message"]), told)


def _with(error: StageflowError, told: dict[str, Any]) -> StageflowError:
    """The error, told as it was; what its own constructor wants to know is not on record."""
    StageflowError.__init__(error, told["message"])
    for name in ("code", "user_message", "retryable", "retry_after_s"):
        setattr(error, name, told[name])
    return error


def _classes(cls: type[StageflowError]) -> Iterator[type[StageflowError]]:
    yield cls
    for known in cls.__subclasses__():
        yield from _classes(known)
