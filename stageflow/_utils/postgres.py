"""PostgreSQL: URLs of databases, and calls of psycopg that end in time."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Coroutine
from typing import Any, TypeVar

from stageflow._utils.tasks import shielded
from stageflow._utils.text import connection_settings, shown_address

T = TypeVar("T")

#: The fix for what `checked` refuses.
FIX = "give postgresql://user:password@host:port/database"

_SCHEMES = ("postgresql://", "postgres://")
_HIDDEN = "postgresql://…"


def is_postgres(where: str) -> bool:
    """Return whether `where` is a URL or connection string, not the name of a file."""
    return where.startswith(_SCHEMES) or bool(connection_settings(where))


def shown(url: str) -> str:
    """Return a URL or connection string as `shown_address` does; hide all of any other text."""
    text = shown_address(url)
    return text if text.startswith("postgresql://") else _HIDDEN


def checked(url: str) -> str:
    """Return the URL or connection string; raise `ValueError` if psycopg cannot read it.

    The error of psycopg would show the part that it cannot read, which may be the password.
    """
    from psycopg import ProgrammingError  # noqa: PLC0415 - an extra
    from psycopg.conninfo import conninfo_to_dict  # noqa: PLC0415 - an extra

    try:
        port = conninfo_to_dict(url).get("port") or ""
    except (ProgrammingError, UnicodeError):
        port = None
    if port is None or not re.fullmatch(r"[\d,]*", str(port)):
        raise ValueError(f"not the URL of a PostgreSQL database; {FIX}") from None
    return url


async def cancelled_in_time(work: Coroutine[Any, Any, T], grace_s: float = 0.1) -> T:
    """Await work with psycopg; if the caller is cancelled, end it within about `grace_s` seconds.

    A connection that is cancelled asks the server to cancel the query, and waits for its answer;
    one that is cancelled again closes at once.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.cancel()
        again = asyncio.get_running_loop().call_later(grace_s, task.cancel)
        await shielded(task)
        again.cancel()
        del task  # the traceback keeps this frame, and the task a half-open connection
        raise
