"""What names a PostgreSQL database of ours: its URL, and how that is shown."""

from __future__ import annotations

from urllib.parse import urlsplit

_SCHEMES = ("postgresql://", "postgres://")


def is_postgres(where: str) -> bool:
    """Whether `where` is the URL of a database, and not the name of a file."""
    return where.startswith(_SCHEMES)


def shown(url: str) -> str:
    """The URL without user, password and settings, as errors and logs show it."""
    parts = urlsplit(url)
    port = f":{parts.port}" if parts.port else ""
    return f"postgresql://{parts.hostname or ''}{port}{parts.path}"
