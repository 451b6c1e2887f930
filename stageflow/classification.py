"""What an exception from anywhere means: the one place that knows.

Libraries are recognised without importing them: by what their exceptions carry (HTTP clients a
status code, PostgreSQL drivers an SQLSTATE, SQLite a result code), by what they were raised from,
and, where that says nothing, by the name of their class.
"""

from __future__ import annotations

import asyncio
import errno
import math
import re
import socket
import ssl
from collections import deque
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
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

_HTTP_DATE = re.compile(r"[A-Z][a-z]{2}, (\d\d) ([A-Z][a-z]{2}) (\d{4}) (\d\d):(\d\d):(\d\d) GMT")
_MONTHS = "JanFebMarAprMayJunJulAugSepOctNovDec"

# The first line that fits decides.
_BY_TYPE: tuple[tuple[type[BaseException], type[StageRaisedError]], ...] = (
    (TimeoutError, OperationTimeoutError),
    (ConnectionError, ConnectionFailedError),
    (asyncio.IncompleteReadError, ConnectionFailedError),
    (socket.gaierror, ConnectionFailedError),
    (ssl.SSLError, ConnectionFailedError),
    (MemoryError, OutOfResourcesError),
    (RecursionError, OutOfResourcesError),
)

# Other 4xx are rejections, other 5xx mean that the service is unavailable.
_BY_STATUS: Mapping[int, type[StageRaisedError]] = {
    401: CredentialsRejectedError,
    403: CredentialsRejectedError,
    407: CredentialsRejectedError,
    408: OperationTimeoutError,
    425: ServiceUnavailableError,  # too early
    429: RateLimitedError,
    501: RequestRejectedError,  # not implemented
    504: OperationTimeoutError,
    505: RequestRejectedError,
}

_BY_ERRNO: Mapping[int, type[StageRaisedError]] = {
    errno.ENOSPC: StorageFailedError,
    errno.EDQUOT: StorageFailedError,
    errno.EROFS: StorageFailedError,
    errno.EIO: StorageFailedError,
    errno.EMFILE: OutOfResourcesError,
    errno.ENFILE: OutOfResourcesError,
    errno.ENOMEM: OutOfResourcesError,
    errno.EHOSTUNREACH: ConnectionFailedError,
    errno.EHOSTDOWN: ConnectionFailedError,
    errno.ENETDOWN: ConnectionFailedError,
    errno.ENETUNREACH: ConnectionFailedError,
    errno.ETIMEDOUT: OperationTimeoutError,
}

# Library and class of what carries nothing that could be read.
_BY_NAME: Mapping[str, type[StageRaisedError]] = {
    "aiohttp.ClientConnectionError": ConnectionFailedError,
    "aiohttp.ClientPayloadError": ConnectionFailedError,
    "httpx.TimeoutException": OperationTimeoutError,
    "httpx.TransportError": ConnectionFailedError,
    "httpx.UnsupportedProtocol": RequestRejectedError,
    "openai.APIConnectionError": ConnectionFailedError,
    "openai.APIError": ServiceUnavailableError,  # told in the middle of a stream, without a status
    "openai.APITimeoutError": OperationTimeoutError,
    "sqlalchemy.TimeoutError": DatabaseBusyError,  # no connection of the pool is free
}

# Classes and codes of PostgreSQL's Appendix A, by their first characters, the longest first.
_BY_SQLSTATE: tuple[tuple[str, type[StageRaisedError]], ...] = (
    ("55P03", DatabaseBusyError),  # lock_not_available
    ("57014", OperationTimeoutError),  # query_canceled, by a statement_timeout
    ("40", DatabaseBusyError),  # serialization failure, deadlock
    ("08", ConnectionFailedError),
    ("25006", ServiceUnavailableError),  # read-only, as a standby is until it takes over
    ("28", CredentialsRejectedError),
    ("42501", CredentialsRejectedError),  # insufficient_privilege
    ("53100", StorageFailedError),  # disk_full
    ("53", DatabaseBusyError),  # out of connections or memory
    ("57P", ServiceUnavailableError),  # shutting down, starting up
    ("58", StorageFailedError),
)

# Primary result codes, https://sqlite.org/rescode.html; as numbers, since importing sqlite3 would
# take longer than importing the engine's own modules.
_BY_SQLITE: Mapping[int, type[StageRaisedError]] = {
    5: DatabaseBusyError,  # SQLITE_BUSY
    6: DatabaseBusyError,  # SQLITE_LOCKED
    15: DatabaseBusyError,  # SQLITE_PROTOCOL: lost the race for a lock
    13: StorageFailedError,  # SQLITE_FULL
    10: StorageFailedError,  # SQLITE_IOERR
    8: StorageFailedError,  # SQLITE_READONLY
    14: StorageFailedError,  # SQLITE_CANTOPEN
    3: StorageFailedError,  # SQLITE_PERM
    11: StorageFailedError,  # SQLITE_CORRUPT
    26: StorageFailedError,  # SQLITE_NOTADB
    7: OutOfResourcesError,  # SQLITE_NOMEM
}


def classify(error: BaseException) -> StageflowError:
    """Turn whatever a stage raised into a `StageflowError`; the original is its `__cause__`.

    What an exception itself says goes before what it was raised from. For a group stands its
    first member that no retry can mend, or if there is none its first.
    """
    if isinstance(error, StageflowError):
        return error
    if isinstance(error, BaseExceptionGroup):
        failures = [classify(member) for member in error.exceptions]
        return next((f for f in failures if not f.retryable), failures[0])
    for link in _chain(error):
        status = _http_status(link)
        becomes = (
            _by_http(status)
            or _by_sqlstate(link)
            or _by_sqlite(link)
            or _by_type(link)
            or _by_name(link)
        )
        if becomes is not None:
            return _told(becomes(error), link if status is not None else None)
    if any(_attribute(link, "connection_invalidated") is True for link in _chain(error)):
        return ConnectionFailedError(error)
    return StageRaisedError(error)


def _told(failure: StageRaisedError, reply: BaseException | None) -> StageRaisedError:
    """The failure, with the time to wait that an HTTP reply names."""
    if reply is not None and failure.retryable:
        failure.retry_after_s = _retry_after_s(reply)
    return failure


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The exception, and what it was raised from, the nearest first; each once."""
    waiting, seen = deque([error]), {id(error)}
    while waiting:
        link = waiting.popleft()
        yield link
        # SQLAlchemy keeps the driver's exception in `orig`, also where it is not the cause.
        for inner in (_attribute(link, "orig"), link.__cause__):
            if isinstance(inner, BaseException) and id(inner) not in seen:
                seen.add(id(inner))
                # What was raised from an error of ours was made of it on purpose.
                if not isinstance(inner, StageflowError):
                    waiting.append(inner)


def _attribute(holder: object, name: str) -> Any:
    """An attribute, or None; those of foreign exceptions may be properties that raise."""
    try:
        return getattr(holder, name, None)
    except Exception:
        return None


# ── HTTP ────────────────────────────────────────────────────────────────────────────────────


def _http_status(error: BaseException) -> int | None:
    for holder in (error, _attribute(error, "response")):
        for name in ("status_code", "status"):
            status = _attribute(holder, name)
            if isinstance(status, int) and 400 <= status <= 599:
                return int(status)
    return None


def _by_http(status: int | None) -> type[StageRaisedError] | None:
    if status is None:
        return None
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    return ServiceUnavailableError if status >= 500 else RequestRejectedError


def _retry_after_s(error: BaseException) -> float | None:
    """The Retry-After header (RFC 9110, section 10.2.3): seconds, or a date."""
    seconds = _attribute(error, "retry_after_s")
    if not isinstance(seconds, int | float):
        headers = _attribute(_attribute(error, "response"), "headers")
        if headers is None:
            headers = _attribute(error, "headers")
        given = _header(headers, "Retry-After")
        if given is None:
            return None
        try:
            seconds = float(given)
        except ValueError:
            seconds = _seconds_between(_header(headers, "Date"), given)
    return float(seconds) if 0 <= seconds < math.inf else None


def _header(headers: Any, name: str) -> str | None:
    # Not every client's mapping ignores the case of names, and not every one is a Mapping.
    items = _attribute(headers, "items")
    try:
        pairs = list(items()) if callable(items) else []
    except Exception:
        return None
    for pair in pairs:
        match pair:
            case (str(key), str(value)) if key.lower() == name.lower():
                return value
    return None


def _seconds_between(start: str | None, end: str) -> float:
    # By the server's own clock, which is the one that its date was taken from.
    try:
        return (_http_date(end) - _http_date(start or "")).total_seconds()
    except ValueError:
        return math.nan


def _http_date(text: str) -> datetime:
    """A date in the one form that may still be sent (RFC 9110, section 5.6.7).

    Parsed here because email.utils would double the time that importing this package takes.

    Raises:
        ValueError: It has another form.
    """
    found = _HTTP_DATE.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is no date such as 'Sun, 06 Nov 1994 08:49:37 GMT'")
    month = _MONTHS.index(found[2]) // 3 + 1
    day, year, hour, minute, second = (int(found[n]) for n in (1, 3, 4, 5, 6))
    return datetime(year, month, day, hour, minute, second, tzinfo=UTC)


# ── databases, sockets, libraries ───────────────────────────────────────────────────────────


def _by_sqlstate(error: BaseException) -> type[StageRaisedError] | None:
    state = _attribute(error, "sqlstate") or _attribute(error, "pgcode")
    if isinstance(state, str):
        for start, becomes in _BY_SQLSTATE:
            if state.startswith(start):
                return becomes
    return None


def _by_sqlite(error: BaseException) -> type[StageRaisedError] | None:
    code = _attribute(error, "sqlite_errorcode")
    # The low byte of an extended result code is the primary one.
    return _BY_SQLITE.get(code & 0xFF) if isinstance(code, int) else None


def _by_type(error: BaseException) -> type[StageRaisedError] | None:
    for kind, becomes in _BY_TYPE:
        if isinstance(error, kind):
            return becomes
    if isinstance(error, OSError) and error.errno is not None:
        return _BY_ERRNO.get(error.errno)
    return None


def _by_name(error: BaseException) -> type[StageRaisedError] | None:
    for kind in type(error).__mro__:
        name = f"{kind.__module__.partition('.')[0]}.{kind.__name__}"
        if name in _BY_NAME:
            return _BY_NAME[name]
    return None
