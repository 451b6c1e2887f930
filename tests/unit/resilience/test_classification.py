"""How errors of HTTP clients, sockets and exception chains are classified."""

from __future__ import annotations

import asyncio
import email.message
import email.utils
import errno
import math
import os
import socket
import ssl
import sys
import urllib.error
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import httpx
import pytest

from stageflow import errors as err
from stageflow.errors import ErrorCategory
from stageflow.resilience import classify
from stageflow.resilience.classification import retry_after_s
from tests.utils.commands import run_command
from tests.utils.errors import code_of

_URL = "http://127.0.0.1/v1"


def http_error(status: int, **headers: str) -> httpx.HTTPStatusError:
    """Return httpx's error for such a reply."""
    response = httpx.Response(
        status,
        headers={name.replace("_", "-"): value for name, value in headers.items()},
        request=httpx.Request("POST", _URL),
    )
    with pytest.raises(httpx.HTTPStatusError) as raised:
        response.raise_for_status()
    return raised.value


@pytest.mark.parametrize(
    ("status", "becomes", "retryable"),
    [
        (400, "request_rejected", False),
        (401, "credentials_rejected", False),
        (403, "credentials_rejected", False),
        (404, "request_rejected", False),
        (407, "credentials_rejected", False),
        (408, "operation_timeout", True),
        (413, "request_too_long", False),
        (422, "request_rejected", False),
        (425, "service_unavailable", True),
        (429, "rate_limited", True),
        (500, "service_unavailable", True),
        (501, "request_rejected", False),
        (502, "service_unavailable", True),
        (503, "service_unavailable", True),
        (504, "operation_timeout", True),
        (505, "request_rejected", False),
        (529, "service_unavailable", True),
    ],
)
def test_the_status_of_a_reply_says_what_it_means(
    status: int, becomes: str, retryable: bool
) -> None:
    """Each status that a provider answers with has a class, and only what may pass is retried."""
    raised = http_error(status)
    failure = classify(raised)
    assert code_of(failure) == becomes
    assert failure.retryable is retryable
    assert failure.__cause__ is raised


@pytest.mark.parametrize(
    ("status", "code", "text", "too_long"),
    [
        (400, "context_length_exceeded", "Too much.", True),
        (None, "context_length_exceeded", "Too much.", True),  # in the middle of a stream
        (400, None, "exceeds the available context size (512 tokens)", True),
        (400, None, "max_tokens is too large: 5000", False),
        (400, None, "unknown parameter", False),
        (404, "context_length_exceeded", "no such model", False),
        (500, None, "context size", False),
        (None, None, "context size", False),
    ],
)
def test_a_refusal_for_length_is_known_by_code_or_text(
    status: int | None, code: str | None, text: str, too_long: bool
) -> None:
    """Services have no status of their own for it; a text alone is not a refusal."""
    error = AttributeStatusError(status or 0, {})
    error.args = (text,)
    error.code = code  # type: ignore[attr-defined]
    assert (classify(error).code == "request_too_long") is too_long


class StatusError(Exception):
    """As the clients of the large model providers raise it: status, reply, body."""

    def __init__(self, response: httpx.Response) -> None:
        super().__init__("error from the API")
        self.response = response
        self.status_code = response.status_code
        self.code = None


class AttributeStatusError(Exception):
    """As aiohttp raises it: the status and the headers on the exception itself."""

    def __init__(self, status: int, headers: dict[str, str]) -> None:
        super().__init__(f"{status}")
        self.status = status
        self.headers = headers


def test_each_client_keeps_the_status_elsewhere() -> None:
    """Status and headers are found on the exception and on its reply, in any spelling."""
    reply = httpx.Response(429, headers={"retry-after": "7"})
    headers = email.message.Message()
    headers["Retry-After"] = "7"
    failures = [
        classify(StatusError(reply)),
        classify(AttributeStatusError(429, {"RETRY-AFTER": "7"})),
        classify(urllib.error.HTTPError(_URL, 429, "slow down", headers, None)),
    ]
    assert [(code_of(f), f.retry_after_s) for f in failures] == [("rate_limited", 7.0)] * 3


@pytest.mark.parametrize(
    ("headers", "retry_after_s"),
    [
        ({"Retry_After": "12"}, 12.0),
        ({"Retry_After": "0.25"}, 0.25),
        ({"Retry_After": "0"}, 0.0),
        (
            {
                "Retry_After": "Wed, 21 Oct 2015 07:30:00 GMT",
                "Date": "Wed, 21 Oct 2015 07:28:00 GMT",
            },
            120.0,
        ),
        (
            {
                "Retry_After": "Wed, 21 Oct 2015 07:28:00 GMT",
                "Date": "Wed, 21 Oct 2015 07:30:00 GMT",
            },
            None,
        ),
        ({"Retry_After": "Wed, 21 Oct 2015 07:30:00 GMT"}, None),
        ({"Retry_After": "Wed, 21 Oct 2015 07:30:00 GMT", "Date": "yesterday"}, None),
        # RFC 9110 has three forms of a date; any two of them may meet.
        (
            {
                "Retry_After": "Wednesday, 21-Oct-15 07:30:00 GMT",
                "Date": "Wed Oct 21 07:28:00 2015",
            },
            120.0,
        ),
        (
            {"Retry_After": "Sun Nov  6 00:00:07 1994", "Date": "Sunday, 06-Nov-94 00:00:00 GMT"},
            7.0,
        ),
        (  # 1999 is over; 2066 is at most 50 years away, and 2067 is not
            {"Retry_After": "Friday, 01-Jan-66 00:00:01 GMT", "Date": "Fri Jan  1 00:00:00 2066"},
            1.0,
        ),
        (
            {
                "Retry_After": "Saturday, 01-Jan-67 00:00:00 GMT",
                "Date": "Thu, 31 Dec 2016 23:59:59 GMT",
            },
            None,
        ),
        (
            {
                "Retry_After": "Sat, 31 Dec 2016 23:59:60 GMT",
                "Date": "Sat, 31 Dec 2016 23:59:00 GMT",
            },
            59.0,
        ),
        ({"Retry_After": "Wed, 31 Feb 2115 07:28:00 GMT"}, None),
        ({"Retry_After": "Wed, 21 Okt 2115 07:28:00 GMT"}, None),
        ({"Retry_After": "Wed, 21 Oct 99999 07:28:00 GMT"}, None),
        ({"Retry_After": ", : GMT"}, None),
        ({"retry_after_ms": "1500"}, 1.5),
        ({"retry_after_ms": "250", "Retry_After": "9"}, 0.25),
        ({"retry_after_ms": "soon", "Retry_After": "9"}, 9.0),
        ({}, None),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_seconds_or_a_date_on_the_servers_clock(
    status: int, headers: dict[str, str], retry_after_s: float | None
) -> None:
    """The time to wait is the one that RFC 9110 gives to the header, or unknown."""
    assert classify(http_error(status, **headers)).retry_after_s == retry_after_s


@pytest.mark.parametrize("name", ["Retry-After", "retry-after-ms"])
@pytest.mark.parametrize(
    "absurd", ["", "soon", "-5", "inf", "nan", "1_0", "1e3", "0x5", "٣", "²", "9" * 400]
)
def test_an_absurd_wait_of_a_header_is_ignored(name: str, absurd: str) -> None:
    """It is neither a number of digits nor a date."""
    assert retry_after_s({name: absurd}) is None


def test_a_date_without_the_servers_clock_is_taken_from_this_machines() -> None:
    """A service whose answer has no Date is waited for all the same."""
    until = datetime.now(UTC) + timedelta(hours=2)
    wait_s = retry_after_s({"Retry-After": email.utils.format_datetime(until, usegmt=True)})
    assert wait_s == pytest.approx(7200.0, abs=60.0)


@pytest.mark.parametrize("own", [-1, math.nan, math.inf, 10**400, "soon"])
def test_an_absurd_wait_of_an_exception_is_ignored(own: object) -> None:
    """The headers count instead, if there are any."""
    error = http_error(429, Retry_After="9")
    error.retry_after_s = own  # type: ignore[attr-defined]
    assert classify(error).retry_after_s == 9.0


def test_a_failure_that_no_retry_can_fix_names_no_time_to_wait() -> None:
    """A Retry-After on a refusal does not make it retryable."""
    failure = classify(http_error(403, Retry_After="3"))
    assert (failure.retryable, failure.retry_after_s) == (False, None)


def test_an_error_that_wraps_a_reply_keeps_its_time_to_wait() -> None:
    """A client's own exception around a 429 means the same, down to the seconds."""
    raised = RuntimeError("the model could not be asked")
    raised.__cause__ = http_error(429, Retry_After="9")
    failure = classify(raised)
    assert code_of(failure) == "rate_limited"
    assert failure.retry_after_s == 9.0
    assert failure.__cause__ is raised


@pytest.mark.parametrize("headers", [None, 5, [("Retry-After", "5")], Mock(), {5: b"5"}, "text"])
def test_headers_of_no_known_kind_name_no_time_to_wait(headers: object) -> None:
    """For any value in place of the headers, the status is understood."""
    raised = AttributeStatusError(429, headers)  # type: ignore[arg-type]
    failure = classify(raised)
    assert (code_of(failure), failure.retry_after_s) == ("rate_limited", None)


@pytest.mark.parametrize("status", [200, 302, 399, 600, None, "500", 404.0])
def test_a_status_that_is_not_an_error_says_nothing(status: object) -> None:
    """Only an integer from 400 to 599 is taken for the status of a reply."""
    raised = AttributeStatusError(0, {})
    raised.status = status  # type: ignore[assignment]
    assert code_of(classify(raised)) == "stage_raised"


async def _httpx_error(url: str, **options: Any) -> httpx.HTTPError:
    if asyncio.get_running_loop().get_task_factory() is not None:
        pytest.skip("anyio, with which httpx connects, does not support eager tasks")
    async with httpx.AsyncClient(trust_env=False, **options) as client:
        with pytest.raises(httpx.HTTPError) as raised:
            await client.get(url)
    return raised.value


async def test_httpx_that_finds_nobody_listening_has_no_connection() -> None:
    """A refused connection is one that failed, and may succeed later."""
    with closing(socket.socket()) as bound:
        bound.bind(("127.0.0.1", 0))
        raised = await _httpx_error(f"http://127.0.0.1:{bound.getsockname()[1]}")
    failure = classify(raised)
    assert code_of(failure) == "connection_failed"
    assert failure.retryable


async def test_httpx_without_an_answer_has_timed_out() -> None:
    """A server that accepts and says nothing is a timeout, not a broken connection."""
    with closing(socket.socket()) as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        raised = await _httpx_error(url, timeout=0.05)
    assert code_of(classify(raised)) == "operation_timeout"


async def test_httpx_asked_for_an_unknown_protocol_is_not_retried() -> None:
    """A wrong URL is a wrong request."""
    failure = classify(await _httpx_error("gopher://127.0.0.1"))
    assert code_of(failure) == "request_rejected"


@pytest.mark.parametrize(
    ("raised", "becomes"),
    [
        (httpx.RemoteProtocolError("peer closed connection"), "connection_failed"),
        (httpx.ReadError(""), "connection_failed"),
        (httpx.PoolTimeout(""), "operation_timeout"),
        (asyncio.IncompleteReadError(b"", 4), "connection_failed"),
        (ssl.SSLError("handshake failure"), "connection_failed"),
        (BrokenPipeError(), "connection_failed"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_a_connection_lost_midway_has_failed_whatever_the_library_calls_it(
    raised: Exception, becomes: str
) -> None:
    """Exceptions that carry nothing are known by their class."""
    assert code_of(classify(raised)) == becomes


def test_a_name_that_cannot_be_resolved_is_a_failed_connection() -> None:
    """The resolver's own numbers are not taken for those of the system."""
    with pytest.raises(socket.gaierror) as raised:
        socket.getaddrinfo("nobody.invalid", 80, flags=socket.AI_NUMERICHOST)
    assert code_of(classify(raised.value)) == "connection_failed"


@pytest.mark.parametrize(
    ("number", "becomes", "category"),
    [
        (errno.ECONNREFUSED, "connection_failed", ErrorCategory.TRANSIENT),
        (errno.ECONNRESET, "connection_failed", ErrorCategory.TRANSIENT),
        (errno.EPIPE, "connection_failed", ErrorCategory.TRANSIENT),
        (errno.EHOSTUNREACH, "connection_failed", ErrorCategory.TRANSIENT),
        (errno.ENETUNREACH, "connection_failed", ErrorCategory.TRANSIENT),
        (errno.ETIMEDOUT, "operation_timeout", ErrorCategory.TRANSIENT),
        (errno.ENOSPC, "storage_failed", ErrorCategory.SYSTEMIC),
        (errno.EDQUOT, "storage_failed", ErrorCategory.SYSTEMIC),
        (errno.EROFS, "storage_failed", ErrorCategory.SYSTEMIC),
        (errno.EIO, "storage_failed", ErrorCategory.SYSTEMIC),
        (errno.EMFILE, "out_of_resources", ErrorCategory.SYSTEMIC),
        (errno.ENOMEM, "out_of_resources", ErrorCategory.SYSTEMIC),
        (errno.ENOENT, "stage_raised", ErrorCategory.LOGIC),
        (errno.EINVAL, "stage_raised", ErrorCategory.LOGIC),
    ],
    ids=lambda value: errno.errorcode[value] if isinstance(value, int) else None,
)
def test_an_operating_system_error_is_known_by_its_number(
    number: int, becomes: str, category: ErrorCategory
) -> None:
    """Network, disk and memory have different categories; a missing file stays a bug."""
    failure = classify(OSError(number, os.strerror(number)))
    assert (code_of(failure), failure.category) == (becomes, category)


def test_a_full_device_fails_the_storage() -> None:
    """The kernel's own error for a full disk is understood."""
    with Path("/dev/full").open("wb", buffering=0) as full, pytest.raises(OSError) as raised:  # noqa: PT011
        full.write(b"x")
    assert code_of(classify(raised.value)) == "storage_failed"


def test_no_file_descriptor_left_is_out_of_resources() -> None:
    """The error says that the process may not open anything more."""
    # The limit comes last: once it holds, no module can be loaded any more.
    code = (
        "import resource, socket\n"
        "from stageflow.resilience import classify\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))\n"
        "try:\n    socket.socket()\n"
        "except OSError as error:\n    print(classify(error).code)\n"
    )
    done = run_command([sys.executable, "-c", code], check=True)
    assert done.stdout.strip() == "out_of_resources"


def _raised_from(cause: BaseException, depth: int) -> BaseException:
    for level in range(depth):
        outer = RuntimeError(f"level {level}")
        outer.__cause__ = cause
        cause = outer
    return cause


@pytest.mark.parametrize("depth", [1, 2, 10, 5_000])
def test_the_cause_decides_however_deep_it_lies(depth: int) -> None:
    """A library's own exception means what it was raised from."""
    raised = _raised_from(ConnectionResetError("gone"), depth)
    failure = classify(raised)
    assert code_of(failure) == "connection_failed"
    assert failure.__cause__ is raised


def test_the_nearest_exception_that_says_something_decides() -> None:
    """A 401 that was raised from a timeout is a 401."""
    raised = http_error(401)
    raised.__cause__ = TimeoutError()
    assert code_of(classify(raised)) == "credentials_rejected"


def test_a_circle_of_causes_ends() -> None:
    """Exceptions that name each other as their cause are classified like any other."""
    one, other = RuntimeError("one"), RuntimeError("other")
    one.__cause__, other.__cause__ = other, one
    assert code_of(classify(one)) == "stage_raised"
    one.__cause__ = one
    assert code_of(classify(one)) == "stage_raised"


def test_a_circle_of_wrapped_exceptions_ends() -> None:
    """The same holds along SQLAlchemy's `orig`, and what lies beside the circle is found."""

    class WrappingError(Exception):
        orig: BaseException | None = None

    one, other = WrappingError(), WrappingError()
    one.orig, other.orig = other, one
    other.__cause__ = TimeoutError()
    assert code_of(classify(one)) == "operation_timeout"


def test_what_was_only_being_handled_decides_nothing() -> None:
    """A bug in an error handler is a bug, whatever error it was handling."""

    def handle_badly() -> None:
        try:
            raise ConnectionResetError("gone")
        except ConnectionResetError:
            int("no number")

    with pytest.raises(ValueError, match="no number") as raised:
        handle_badly()
    assert isinstance(raised.value.__context__, ConnectionResetError)
    assert code_of(classify(raised.value)) == "stage_raised"


def test_what_was_raised_from_an_error_of_ours_is_not_taken_for_it() -> None:
    """A stage that turns one of our errors into its own has decided so."""
    raised = RuntimeError("given up")
    raised.__cause__ = err.StageRaisedError(ConnectionResetError("gone"), "connection_failed")
    assert code_of(classify(raised)) == "stage_raised"


async def test_a_group_counts_as_its_first_member_that_no_retry_fixes() -> None:
    """A group's error is retried only if each of its failures may pass."""

    async def fail(error: BaseException) -> None:
        await asyncio.sleep(0)  # an eager task would end the group before the next one is made
        raise error

    async def group_of(*errors: BaseException) -> BaseException:
        try:
            async with asyncio.TaskGroup() as tasks:
                for error in errors:
                    tasks.create_task(fail(error))
        except BaseExceptionGroup as group:
            return group
        raise AssertionError("nothing was raised")

    reset, bug = ConnectionResetError("gone"), KeyError("bug")
    transient = classify(await group_of(TimeoutError(), reset))
    assert code_of(transient) == "operation_timeout"
    mixed = classify(await group_of(reset, bug))
    assert (code_of(mixed), mixed.__cause__) == ("stage_raised", bug)
    ours = err.NoProgressError("llm", 1.0)
    assert classify(await group_of(ours)) is ours


class HostileError(Exception):
    """An exception that cannot even be looked at."""

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("__"):
            return super().__getattribute__(name)
        raise RuntimeError(f"do not touch {name}")


def test_an_exception_whose_attributes_raise_is_classified_all_the_same() -> None:
    """Classifying never raises, or the failure that it is about would be lost."""
    raised = HostileError("boom")
    raised.__cause__ = TimeoutError()
    assert code_of(classify(raised)) == "operation_timeout"
    # httpx is of that kind: its request raises when there is none.
    assert code_of(classify(httpx.ReadError("gone"))) == "connection_failed"
