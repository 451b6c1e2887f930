"""Make text and addresses of unknown content safe to show."""

from __future__ import annotations

import re

_HOST = r"(?:\[[0-9A-Fa-f:.]+\]|[\w.-]*)(?::\d{1,5})?"
#: Hosts, ports and path. Anything else might be part of a password.
_PLACE = re.compile(rf"{_HOST}(?:,{_HOST})*(?:/[\w./~%+-]*)?")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_MAY_BE_ADDRESS = re.compile(r"@|//|\bpassword\b", re.IGNORECASE)
#: A setting of a PostgreSQL connection string.
_SETTING = r"\s*(\w+)\s*=\s*('(?:[^'\\]|\\.)*'|(?!')(?:[^\s\\]|\\.)*)(?=\s|$)"


def printable(text: str) -> str:
    """Return `text` on one line, without characters that control a terminal or are not XML."""
    spaced = re.sub(r"[\t\n\r]", " ", text)
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in spaced)


def printable_lines(text: str) -> str:
    """Return `text` with its line breaks, each line as `printable` returns it."""
    return "\n".join(map(printable, text.replace("\r\n", "\n").split("\n")))


def connection_settings(text: str) -> dict[str, str]:
    """Return the settings of a PostgreSQL connection string; of any other text, none."""
    if not re.fullmatch(f"(?:{_SETTING})+\\s*", text):
        return {}
    settings = {key: value.strip("'") for key, value in re.findall(_SETTING, text)}
    return settings if settings.keys() & {"host", "dbname", "password"} else {}


def shown_address(address: str) -> str:
    """Return an address without user, password and settings; never raise.

    A connection string of PostgreSQL is shown as a URL, and the name of a file as it is. Text that
    may be part of a password is replaced by "…".
    """
    if settings := connection_settings(address):
        host, port, database = map(settings.get, ("host", "port", "dbname"))
        place = f"{host or ''}{f':{port}' if port else ''}{f'/{database}' if database else ''}"
        address = f"postgresql://{place}"
    if not _MAY_BE_ADDRESS.search(address):
        return printable(address)
    scheme = _SCHEME.match(address)
    prefix = scheme[0] if scheme else ""
    credentials, at, place = address[len(prefix) :].rpartition("@")
    if not at:
        place = re.split("[?#]", place, maxsplit=1)[0]
    # An "@" behind a "?" ends no credentials: it may be within a password among the settings.
    hidden = "?" in credentials or not _PLACE.fullmatch(place := re.split("[?#]", place)[0])
    return prefix.replace("postgres://", "postgresql://") + ("…" if hidden else place)
