"""Files of settings in TOML whose every mistake is told with its line and its mend.

`tomllib` keeps no positions, so lines are found again in the text: the n-th header of a table,
and the key below it.
"""

from __future__ import annotations

import datetime as dt
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stageflow.errors.base import did_you_mean
from stageflow.pulse.errors import GateSettingsError

VERSION = 1
_KINDS: Mapping[type, str] = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    dt.date: "a date",
}


@dataclass(frozen=True, slots=True)
class Key:
    """A key that a table may have: the type of its value, and whether it must be there."""

    kind: type
    required: bool = True


@dataclass(frozen=True, slots=True)
class Table:
    """One table of a file of settings.

    Attributes:
        name: What stands in its header.
        line: The line of that header.
        values: Its sound entries; whatever is not sound has been complained about.
        sound: Whether all of it is.
    """

    name: str
    line: int
    values: Mapping[str, Any]
    sound: bool


@dataclass
class Settings:
    """A file of settings that is being checked.

    Attributes:
        path: The file.
        problems: What is wrong with it, one sentence each, with line and mend.
    """

    path: Path
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        try:
            self._text = self.path.read_text(encoding="utf-8")
            self._content = tomllib.loads(self._text)
        except OSError as error:
            raise GateSettingsError(self.path, [f"{self.path}: {error.strerror}"]) from error
        except UnicodeDecodeError as error:
            text = f"{self.path}: not UTF-8 text at byte {error.start}: save it as UTF-8"
            raise GateSettingsError(self.path, [text]) from error
        except tomllib.TOMLDecodeError as error:
            found = re.search(r"line (\d+)", str(error))
            line = int(found[1]) if found else self._text.count("\n") + 1
            raise GateSettingsError(
                self.path, [f"{self.path}:{line}: not TOML: {error}"]
            ) from error
        self._lines = self._text.splitlines()

    def complain(self, line: int, problem: str) -> None:
        """Note a problem and its mend."""
        self.problems.append(f"{self.path}:{line}: {problem}")

    def finish(self) -> None:
        """End the check.

        Raises:
            GateSettingsError: There were problems; it names them all.
        """
        if self.problems:
            raise GateSettingsError(self.path, self.problems)

    @property
    def last_line(self) -> int:
        """Where something would be added."""
        return max(1, len(self._lines))

    def check_top(self, tables: Mapping[str, type]) -> None:
        """Check the version, and that there are no tables but `tables` (of type dict or list)."""
        for name, value in self._content.items():
            line = self._find(rf"\s*\[*\s*{re.escape(name)}\b", 0, len(self._lines)) or 1
            if name == "version":
                if value != VERSION:
                    self.complain(line, f"version {value!r} is not known: write version = 1")
            elif name not in tables:
                near = did_you_mean(name, [*tables, "version"])
                self.complain(line, f"nothing is called {name!r} here{near}")
            elif not isinstance(value, tables[name]):
                shape = f"[[{name}]]" if tables[name] is list else f"[{name}]"
                self.complain(line, f"{name!r} has to be a table: write {shape}")
        if "version" not in self._content:
            self.complain(1, "the version of the format is missing: write version = 1")

    def tables(self, name: str, keys: Mapping[str, Key]) -> list[Table]:
        """Check all tables ``[[name]]``, or the one table ``[name]``, against `keys`."""
        value = self._content.get(name, [])
        found = value if isinstance(value, list) else [value]
        return [self._table(name, index, table, keys) for index, table in enumerate(found)]

    def line_of(self, table: Table, key: str) -> int:
        """The line of a key of a table, or of the table when it has no such key."""
        end = self._find(r"\s*\[", table.line, len(self._lines)) or len(self._lines) + 1
        return (
            self._find(rf"\s*[\"']?{re.escape(key)}[\"']?\s*=", table.line, end - 1) or table.line
        )

    def _table(self, name: str, index: int, content: object, keys: Mapping[str, Key]) -> Table:
        headers = [n for n, text in enumerate(self._lines, 1) if _is_header(text, name)]
        table = Table(name, headers[index] if index < len(headers) else 1, {}, sound=False)
        if not isinstance(content, dict):
            self.complain(table.line, f"{name!r} has to be a table: write [[{name}]]")
            return table
        before = len(self.problems)
        values = {}
        for key, value in content.items():
            line = self.line_of(table, key)
            if key not in keys:
                self.complain(line, f"[{name}] has no key {key!r}{did_you_mean(key, keys)}")
            elif not _is(value, keys[key].kind):
                kind = _KINDS[keys[key].kind]
                self.complain(line, f"{key!r} has to be {kind}, not {value!r}")
            else:
                values[key] = value
        for key, wanted in keys.items():
            if wanted.required and key not in content:
                kind = _KINDS[wanted.kind]
                self.complain(table.line, f"[{name}] lacks the key {key!r}: write {kind}")
        return Table(name, table.line, values, sound=len(self.problems) == before)

    def _find(self, pattern: str, start: int, end: int) -> int | None:
        """The first line after line `start`, up to line `end`, that begins with `pattern`."""
        for number in range(start + 1, min(end, len(self._lines)) + 1):
            if re.match(pattern, self._lines[number - 1]):
                return number
        return None


def _is_header(line: str, name: str) -> bool:
    return re.match(rf"\s*\[{{1,2}}\s*{re.escape(name)}\s*\]{{1,2}}", line) is not None


def _is(value: object, kind: type) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is str:
        return isinstance(value, str) and bool(value.strip())
    return type(value) is kind
