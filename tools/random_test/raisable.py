"""Exceptions that stages raise: ordinary ones, and those of careless libraries."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from typing import Any, NoReturn

from stageflow import StageTimeoutError
from stageflow.errors import StageFailedError
from stageflow.testing import ScriptedError


class PlannedBaseError(BaseException):
    """Not an `Exception`, as what ``pytest.fail`` raises."""


class UnshowableError(Exception):
    """An error that has no text."""

    def __str__(self) -> NoReturn:
        raise ValueError("this error cannot be shown")

    __repr__ = __str__


class OddTextError(Exception):
    """An error whose text is not a text."""

    def __str__(self) -> str:
        return 7  # type: ignore[return-value]  # noqa: PLE0307 - the point of it


class FalsyError(Exception):
    """An error that is false, empty, and equal to nothing."""

    def __bool__(self) -> bool:
        return False

    def __len__(self) -> int:
        return 0

    def __eq__(self, other: object) -> NoReturn:
        raise ValueError("not to be compared")

    __hash__ = None  # type: ignore[assignment]


class AttributesError(Exception):
    """An error whose attributes cannot be read."""

    def __getattr__(self, name: str) -> NoReturn:
        raise ValueError(f"{name} cannot be read")


class StatusError(Exception):
    """An error of an HTTP client."""

    def __init__(self, status_code: Any) -> None:
        super().__init__("status")
        self.status_code = status_code


def _circle(attribute: str) -> Exception:
    first, second = ValueError("first"), ConnectionError("second")
    setattr(first, attribute, second)
    setattr(second, attribute, first)
    return first


def _caused(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


def _nested(depth: int) -> Exception:
    error: Exception = ConnectionError("innermost")
    for _ in range(depth):
        error = ExceptionGroup("nested", [error])
    return error


def _chain(length: int) -> BaseException:
    error: BaseException = ConnectionError("first")
    for _ in range(length):
        error = _caused(ValueError("next"), error)
    return error


#: Makers of errors by name.
RAISABLE: dict[str, Callable[[], BaseException]] = {
    "value": lambda: ValueError("planned"),
    "connection": lambda: ConnectionError("planned"),
    "timeout_error": TimeoutError,
    "disk": lambda: OSError(errno.ENOSPC, "no space left"),
    "status_503": lambda: StatusError(503),
    "status_odd": lambda: StatusError("503"),
    "status_list": lambda: StatusError([float("nan")]),
    "memory": MemoryError,
    "assertion": lambda: AssertionError(("odd", 1)),
    "key": lambda: KeyError("s1.a"),
    "stage_timeout": lambda: StageTimeoutError(2.0),
    "stage_failed": lambda: StageFailedError("planned"),
    "scripted": lambda: ScriptedError("planned"),
    "stop_async": StopAsyncIteration,
    "cancelled": lambda: asyncio.CancelledError("by hand"),
    "cancelled_cause": lambda: _caused(ValueError("planned"), asyncio.CancelledError()),
    "generator_exit": GeneratorExit,
    "base": lambda: PlannedBaseError("planned"),
    "group": lambda: ExceptionGroup("planned", [ValueError("one"), ConnectionError("two")]),
    "base_group": lambda: BaseExceptionGroup("planned", [PlannedBaseError(), ValueError("one")]),
    "cancelled_group": lambda: BaseExceptionGroup("planned", [asyncio.CancelledError()]),
    "nested": lambda: _nested(1_500),
    "chain": lambda: _chain(3_000),
    "cause_circle": lambda: _circle("__cause__"),
    "context_circle": lambda: _circle("__context__"),
    "unshowable": UnshowableError,
    "odd_text": OddTextError,
    "attributes": AttributesError,
    "falsy": FalsyError,
    "surrogate": lambda: ValueError("\ud800 \x00 \x1b[31m"),
    "huge": lambda: ValueError("x" * 200_000),
    "arguments": lambda: ValueError({1: object()}, [float("nan")]),
}
