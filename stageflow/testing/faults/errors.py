"""What services, sockets and drivers raise when they fail, as stand-ins without their libraries.

None of these is a `StageflowError`, on purpose: what an exception means is for
`stageflow.classification.classify` to find out, from what it carries.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class InjectedResponse:
    """What an HTTP client keeps of a response.

    Attributes:
        status_code: The status.
        headers: The headers, by the names that RFC 9110 gives them.
    """

    status_code: int
    headers: Mapping[str, str] = field(default_factory=dict)


class InjectedHTTPError(Exception):
    """An answer that is an error, in the shape that HTTP clients and their SDKs raise it.

    Attributes:
        status_code: The HTTP status.
        response: What is kept of the response.
    """

    def __init__(
        self, message: str, status_code: int, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status_code = status_code
        self.response = InjectedResponse(status_code, dict(headers or {}))


class InjectedDatabaseError(Exception):
    """An error of a database, in the shape that drivers raise it.

    Attributes:
        sqlstate: Its SQLSTATE; see PostgreSQL's Appendix A.
    """

    def __init__(self, message: str, sqlstate: str) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate


def connection_reset(provider: str, when: str) -> ConnectionResetError:
    """What a socket raises when the other side is gone."""
    return ConnectionResetError(
        errno.ECONNRESET, f"connection to {provider!r} reset by peer, {when}"
    )
