"""What an exception from anywhere means: the one place that knows.

Libraries are recognised by what their exceptions carry, not by importing them: HTTP clients by a
status code, PostgreSQL drivers by an SQLSTATE, SQLAlchemy by the exception that it wraps.
"""

from __future__ import annotations

import errno
import math
import sqlite3
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from stageflow.errors import (
    ConnectionFailedError,
    CredentialsRejectedError,
    DatabaseBusyError,
    OperationTimeoutError,
    OutOfResourcesError,
    RateLimitedError,
    RequestRejectedError,
    ServiceUnavailableError,
    StageflowError,
    StageRaisedError,
    StorageFailedError,
)

# The first line that fits decides.
_BY_TYPE: tuple[tuple[type[BaseException], type[StageRaisedError]], ...] = (
    (TimeoutError, OperationTimeoutError),
    (ConnectionError, ConnectionFailedError),
    (MemoryError, OutOfResourcesError),
    (RecursionError, OutOfResourcesError),
)

_BY_ERRNO: Mapping[int, type[StageRaisedError]] = {
    errno.ENOSPC: StorageFailedError,
    errno.EDQUOT: StorageFailedError,
    errno.EROFS: StorageFailedError,
    errno.EIO: StorageFailedError,
    errno.EMFILE: OutOfResourcesError,
    errno.ENFILE: OutOfResourcesError,
    errno.ENOMEM: OutOfResourcesError,
    errno.EHOSTUNREACH: ConnectionFailedError,
    errno.ENETUNREACH: ConnectionFailedError,
    errno.ETIMEDOUT: OperationTimeoutError,
}

# Classes and codes of PostgreSQL's Appendix A, by their first characters, the longest first.
_BY_SQLSTATE: tuple[tuple[str, type[StageRaisedError]], ...] = (
    ("55P03", DatabaseBusyError),  # lock_not_available
    ("57014", OperationTimeoutError),  # query_canceled, by a statement_timeout
    ("40", DatabaseBusyError),  # serialization failure, deadlock
    ("08", ConnectionFailedError),
    ("28", CredentialsRejectedError),
    ("53100", StorageFailedError),  # disk_full
    ("53", DatabaseBusyError),  # out of connections or memory
    ("57P", ServiceUnavailableError),  # shutting down, starting up
    ("58", StorageFailedError),
)

# Primary result codes, https://sqlite.org/rescode.html
_BY_SQLITE: Mapping[int, type[StageRaisedError]] = {
    sqlite3.SQLITE_BUSY: DatabaseBusyError,
    sqlite3.SQLITE_LOCKED: DatabaseBusyError,
    sqlite3.SQLITE_FULL: StorageFailedError,
    sqlite3.SQLITE_IOERR: StorageFailedError,
    sqlite3.SQLITE_READONLY: StorageFailedError,
    sqlite3.SQLITE_CANTOPEN: StorageFailedError,
    sqlite3.SQLITE_CORRUPT: StorageFailedError,
    sqlite3.SQLITE_NOMEM: OutOfResourcesError,
}


def classify(error: BaseException) -> StageflowError:
    """Turn whatever a stage raised into a `StageflowError`; the original is its `__cause__`."""
    if isinstance(error, StageflowError):
        return error
    status = _http_status(error)
    if status == 429:
        return RateLimitedError(error, _retry_after_s(error))
    becomes = (
        _by_http(status)
        or _by_sqlstate(error)
        or _by_sqlite(error)
        or _by_type(error)
        or _by_wrapped(error)
        or StageRaisedError
    )
    return becomes(error)


def _http_status(error: BaseException) -> int | None:
    for holder in (error, getattr(error, "response", None)):
        for name in ("status_code", "status"):
            status = getattr(holder, name, None)
            if isinstance(status, int) and 400 <= status <= 599:
                return status
    return None


def _by_http(status: int | None) -> type[StageRaisedError] | None:
    if status is None:
        return None
    if status in (401, 403):
        return CredentialsRejectedError
    if status in (408, 504):
        return OperationTimeoutError
    return ServiceUnavailableError if status >= 500 else RequestRejectedError


def _retry_after_s(error: BaseException) -> float | None:
    """The Retry-After header (RFC 9110, section 10.2.3): seconds, or a date."""
    given = getattr(error, "retry_after_s", None)
    headers: Any = getattr(getattr(error, "response", None), "headers", None) or {}
    if given is None:
        given = headers.get("Retry-After", headers.get("retry-after"))
    if given is None:
        return None
    try:
        seconds = float(given)
    except ValueError:
        seconds = _seconds_between(headers.get("Date", headers.get("date")), given)
    return seconds if 0 <= seconds < math.inf else None


def _seconds_between(start: Any, end: Any) -> float:
    # By the server's own clock, which is the one that its date was taken from.
    try:
        return (parsedate_to_datetime(end) - parsedate_to_datetime(start)).total_seconds()
    except (TypeError, ValueError):
        return math.nan


def _by_sqlstate(error: BaseException) -> type[StageRaisedError] | None:
    state = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    if isinstance(state, str):
        for start, becomes in _BY_SQLSTATE:
            if state.startswith(start):
                return becomes
    return None


def _by_sqlite(error: BaseException) -> type[StageRaisedError] | None:
    code = getattr(error, "sqlite_errorcode", None)
    # The low byte of an extended result code is the primary one.
    return _BY_SQLITE.get(code & 0xFF) if isinstance(code, int) else None


def _by_type(error: BaseException) -> type[StageRaisedError] | None:
    for kind, becomes in _BY_TYPE:
        if isinstance(error, kind):
            return becomes
    if isinstance(error, OSError) and error.errno is not None:
        return _BY_ERRNO.get(error.errno)
    return None


def _by_wrapped(error: BaseException) -> type[StageRaisedError] | None:
    """What a library's own exception was raised from says more than its name."""
    for inner in (getattr(error, "orig", None), error.__cause__):
        if isinstance(inner, BaseException) and inner is not error:
            if isinstance(inner, StageflowError):
                return None
            found = type(classify(inner))
            if issubclass(found, StageRaisedError) and found is not StageRaisedError:
                return found
    return None
