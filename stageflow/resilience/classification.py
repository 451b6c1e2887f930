"""Classification of exceptions of any library, none of which it imports.

An exception is recognised by an attribute (an HTTP status code, an SQLSTATE, a result code of
SQLite), by its cause, or else by the name of its class.
"""

from __future__ import annotations

import asyncio
import errno
import math
import re
import socket
import ssl
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from stageflow.errors import StageflowError, StageRaisedError, shown

_DECIMAL = re.compile(r"\d+(?:\.\d+)?", re.ASCII)

_CONNECTION = (ConnectionError, asyncio.IncompleteReadError, socket.gaierror, ssl.SSLError)
# The first match decides.
_BY_TYPE: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], str], ...] = (
    (TimeoutError, "operation_timeout"),
    (_CONNECTION, "connection_failed"),
    ((MemoryError, RecursionError), "out_of_resources"),
)

# Texts of services for a request that is too long for a model; there is no status for it.
_TOO_LONG = re.compile(
    r"context[ _](?:length|size|window)|string_above_max_length|maximum number of tokens"
    r"|(?:prompt|input|request) (?:is )?too (?:long|large)|too many (?:input )?tokens"
    r"|maximum prompt length|reduce the length|inputs.{0,3} (?:tokens|must have less than)",
    re.IGNORECASE,
)

# HTTP statuses, or the first digit of all others.
_BY_STATUS: Mapping[int, str] = {
    4: "request_rejected",
    5: "service_unavailable",
    401: "credentials_rejected",
    403: "credentials_rejected",
    407: "credentials_rejected",
    408: "operation_timeout",
    413: "request_too_long",
    425: "service_unavailable",  # too early
    429: "rate_limited",
    501: "request_rejected",  # not implemented
    504: "operation_timeout",
    505: "request_rejected",
}

_BY_ERRNO: Mapping[int, str] = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO), "storage_failed"),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE, errno.ENOMEM), "out_of_resources"),
    **dict.fromkeys((errno.EHOSTUNREACH, errno.EHOSTDOWN), "connection_failed"),
    **dict.fromkeys((errno.ENETDOWN, errno.ENETUNREACH), "connection_failed"),
    errno.ETIMEDOUT: "operation_timeout",
}

# Library and class of exceptions without such an attribute.
_BY_NAME: Mapping[str, str] = {
    "aiohttp.ClientConnectionError": "connection_failed",
    "aiohttp.ClientPayloadError": "connection_failed",
    "httpx.TimeoutException": "operation_timeout",
    "httpx.TransportError": "connection_failed",
    "httpx.UnsupportedProtocol": "request_rejected",
    "openai.APIConnectionError": "connection_failed",
    "openai.APIError": "service_unavailable",  # within a stream, without a status
    "openai.APITimeoutError": "operation_timeout",
    "psycopg.ConnectionTimeout": "operation_timeout",
    "psycopg.OperationalError": "connection_failed",  # other than those with an SQLSTATE
    "sqlalchemy.TimeoutError": "database_busy",  # no connection of the pool is free
}

# Classes and codes of PostgreSQL's Appendix A, by their first characters, the longest first.
_BY_SQLSTATE: tuple[tuple[str, str], ...] = (
    ("55P03", "database_busy"),  # lock_not_available
    ("57014", "operation_timeout"),  # query_canceled, by a statement_timeout
    ("40", "database_busy"),  # serialization failure, deadlock
    ("08", "connection_failed"),
    ("3D", "request_rejected"),  # no such database
    ("25006", "service_unavailable"),  # read-only, as a standby is until it takes over
    ("28", "credentials_rejected"),
    ("42501", "credentials_rejected"),  # insufficient_privilege
    ("53100", "storage_failed"),  # disk_full
    ("53", "database_busy"),  # out of connections or memory
    ("57P", "service_unavailable"),  # shutting down, starting up
    ("58", "storage_failed"),
)

# libpq passes on a refused connection as text only.
_REFUSALS = {
    r"FATAL: .*(?:authentication failed|pg_hba\.conf|role .* does not exist)": "28000",
    r"FATAL: .*permission denied": "42501",
    r"FATAL: .*database .* does not exist": "3D000",
    r"FATAL: .*(?:too many|connection slots)": "53300",
    r"FATAL: .*the database system is ": "57P03",
}

# Primary result codes, https://sqlite.org/rescode.html. Importing sqlite3 for their names would
# take longer than importing the engine.
_BY_SQLITE: Mapping[int, str] = {
    **dict.fromkeys((5, 6, 15), "database_busy"),  # BUSY, LOCKED, PROTOCOL: lost a race for a lock
    **dict.fromkeys((3, 8, 10, 11), "storage_failed"),  # PERM, READONLY, IOERR, CORRUPT
    **dict.fromkeys((13, 14, 26), "storage_failed"),  # FULL, CANTOPEN, NOTADB
    7: "out_of_resources",  # NOMEM
}


def classify(error: BaseException) -> StageflowError:
    """Return any exception as a `StageflowError`, whose `__cause__` it is.

    The exception itself counts before its causes. A group counts as its first member that is not
    retryable, or else as its first.
    """
    failures, waiting = [], [error]
    try:
        while waiting:
            member = waiting.pop()
            if isinstance(member, BaseExceptionGroup):
                waiting += reversed(member.exceptions)
            else:
                failures.append(_classify_one(member))
        return next((f for f in failures if not f.retryable), failures[0])
    except Exception:  # raised by the exception's own code
        return StageRaisedError(error)


def _classify_one(error: BaseException) -> StageflowError:
    if isinstance(error, StageflowError):
        return error
    for link in _chain(error):
        status = _http_status(link)
        code = (
            _by_length(status, link)
            or (None if status is None else _BY_STATUS.get(status) or _BY_STATUS[status // 100])
            or _by_sqlstate(link)
            or _by_type(link)
            or _by_name(link)
        )
        if code is not None:
            failure = StageRaisedError(error, code)
            if status is not None and failure.retryable:
                failure.retry_after_s = _retry_after_of(link)
            return failure
    if any(_attribute(link, "connection_invalidated") is True for link in _chain(error)):
        return StageRaisedError(error, "connection_failed")
    return StageRaisedError(error)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield the exception and its causes, the nearest first, each once."""
    waiting, seen = deque([error]), {id(error)}
    while waiting:
        link = waiting.popleft()
        yield link
        # SQLAlchemy keeps the driver's exception in `orig`, which need not be the cause.
        for inner in (_attribute(link, "orig"), link.__cause__):
            if isinstance(inner, BaseException) and id(inner) not in seen:
                seen.add(id(inner))
                # An error of ours was replaced on purpose.
                if not isinstance(inner, StageflowError):
                    waiting.append(inner)


def _attribute(holder: object, name: str) -> Any:
    """Return an attribute, or None if there is none or a property raises."""
    try:
        return getattr(holder, name, None)
    except Exception:
        return None


def _http_status(error: BaseException) -> int | None:
    for holder in (error, _attribute(error, "response")):
        for name in ("status_code", "status"):
            status = _attribute(holder, name)
            if isinstance(status, int) and 400 <= status <= 599:
                return int(status)
    return None


def _by_length(status: int | None, error: BaseException) -> str | None:
    """Look at the service's code and, for a rejected request, at the text of the answer."""
    texts = [_attribute(error, "code")]
    if status in (400, 422):
        texts += [shown(error, str), _attribute(_attribute(error, "response"), "text")]
    elif status is not None:
        return None
    found = any(isinstance(text, str) and _TOO_LONG.search(text) for text in texts)
    return "request_too_long" if found else None


def _retry_after_of(error: BaseException) -> float | None:
    own = _attribute(error, "retry_after_s")
    if isinstance(own, int | float) and 0 <= own <= sys.float_info.max:
        return float(own)
    headers = _attribute(_attribute(error, "response"), "headers")
    return retry_after_s(_attribute(error, "headers") if headers is None else headers)


def retry_after_s(headers: object) -> float | None:
    """Return how many seconds the headers of a service ask to wait; None if none or malformed.

    These are ``retry-after-ms`` and Retry-After (RFC 9110, section 10.2.3), which is in seconds or
    a date on the service's clock.
    """
    wait_s = _decimal(_header(headers, "retry-after-ms"), 1_000.0)
    if wait_s is not None:
        return wait_s
    given = _header(headers, "Retry-After")
    wait_s = _decimal(given, 1.0)
    if wait_s is None and given is not None:
        now = datetime.now(UTC)
        start = _http_date(_header(headers, "Date") or "", now) or now
        until = _http_date(given, start)
        wait_s = None if until is None else (until - start).total_seconds()
    return wait_s if wait_s is not None and wait_s >= 0 else None


def _decimal(text: str | None, divisor: float) -> float | None:
    if text is None or _DECIMAL.fullmatch(text.strip()) is None:
        return None
    number = float(text) / divisor
    return number if number < math.inf else None


def _header(headers: Any, name: str) -> str | None:
    # Some clients' headers keep the case of names, or are not a Mapping.
    try:
        found = (value for key, value in headers.items() if key.lower() == name.lower())
        return next((value for value in found if isinstance(value, str)), None)
    except Exception:
        return None


def _http_date(text: str, near: datetime) -> datetime | None:
    """Return a date of RFC 9110, section 5.6.7; a year of two digits is at most 50 after `near`."""
    from email.utils import parsedate_tz  # noqa: PLC0415 - takes as long to import as the engine

    try:
        found = parsedate_tz(text)
        if found is None:
            return None
        year, month, day, hour, minute, second = found[:6]
        if "-" in text:  # RFC 850
            year = year % 100 + (near.year + 50 - year % 100) // 100 * 100
        # A leap second is the sixtieth of its minute.
        date = datetime(year, month, day, hour, minute, min(second, 59), tzinfo=UTC)
        return date - timedelta(seconds=found[9] or 0)
    except (ArithmeticError, LookupError, ValueError):
        return None


def _by_sqlstate(error: BaseException) -> str | None:
    state = _attribute(error, "sqlstate") or _attribute(error, "pgcode")
    if state is None and type(error).__module__.partition(".")[0] == "psycopg":
        text = shown(error, str)
        state = next((code for form, code in _REFUSALS.items() if re.search(form, text)), None)
    if isinstance(state, str):
        for start, code in _BY_SQLSTATE:
            if state.startswith(start):
                return code
    return None


def _by_type(error: BaseException) -> str | None:
    code = _attribute(error, "sqlite_errorcode")
    # The low byte of an extended result code is the primary one.
    if isinstance(code, int) and (code & 0xFF) in _BY_SQLITE:
        return _BY_SQLITE[code & 0xFF]
    found = next((known for kind, known in _BY_TYPE if isinstance(error, kind)), None)
    return _BY_ERRNO.get(error.errno or 0) if not found and isinstance(error, OSError) else found


def _by_name(error: BaseException) -> str | None:
    for kind in type(error).__mro__:
        name = f"{kind.__module__.partition('.')[0]}.{kind.__name__}"
        if name in _BY_NAME:
            return _BY_NAME[name]
    return None
