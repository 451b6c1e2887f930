"""Files of settings in TOML: each mistake is reported with its line and its fix."""

from __future__ import annotations

import datetime as dt
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import Any, get_args, get_type_hints

from stageflow.errors.base import did_you_mean
from stageflow.pulse.errors import GateSettingsError

VERSION = 1
_KINDS: Mapping[type, str] = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    dt.date: "a date",
    dt.datetime: "a time such as 2026-01-31T18:00:00Z",
    bool: "true or false",
}


@dataclass(frozen=True, slots=True)
class Key:
    """A key that a table may have: the type of its value, and whether the key is required."""

    kind: type
    required: bool = True


def keys_of(kind: type[Any], *others: str) -> dict[str, Key]:
    """Return the keys of tables that become data classes; those of `others` come from elsewhere."""
    found, kinds = {}, get_type_hints(kind)
    for one in fields(kind):
        first, *more = get_args(kinds[one.name]) or (kinds[one.name],)
        if one.name not in others:
            found[one.name] = Key(first, one.default is MISSING and not more)
    return found


@dataclass(slots=True)
class Table:
    """A table of a file of settings: the name and line of its header, valid entries, problems."""

    settings: Settings
    name: str
    line: int
    values: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def complain(self, problem: str, key: str | None = None) -> None:
        """Add a problem with a key, or with the whole table, and its fix."""
        self.problems.append(problem)
        line = self.line if key is None else self.settings.line_of(self, key)
        self.settings.complain(line, problem)


@dataclass
class Settings:
    """A file of settings while it is checked, and its problems, each with line and fix."""

    path: Path
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        try:
            self._text = self.path.read_text(encoding="utf-8-sig")
            self._content = tomllib.loads(self._text)
        except OSError as error:
            raise GateSettingsError(self.path, [f"{self.path}: {error.strerror}"]) from error
        except UnicodeDecodeError as error:
            text = f"{self.path}: not UTF-8 text at byte {error.start}: save it as UTF-8"
            raise GateSettingsError(self.path, [text]) from error
        except tomllib.TOMLDecodeError as error:
            found = re.search(r"line (\d+)", str(error))
            line = int(found[1]) if found else self._text.count("\n") + 1
            text = f"{self.path}:{line}: not TOML: {error}"
            raise GateSettingsError(self.path, [text]) from error
        except RecursionError:
            raise GateSettingsError(self.path, [f"{self.path}: nested too deeply"]) from None
        self._lines = self._text.splitlines()

    def complain(self, line: int | None, problem: str) -> None:
        """Add a problem and its fix; without a line, where something would be added."""
        self.problems.append(f"{self.path}:{line or max(1, len(self._lines))}: {problem}")

    def finish(self) -> None:
        """Raise a `GateSettingsError` that names all problems, if there are any."""
        if self.problems:
            raise GateSettingsError(self.path, self.problems)

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
        header = re.compile(rf"\s*\[{{1,2}}\s*{re.escape(name)}\s*\]{{1,2}}")
        lines = (n for n, text in enumerate(self._lines, 1) if header.match(text))
        tables = [Table(self, name, next(lines, 1)) for _ in found]
        for table, content in zip(tables, found, strict=True):
            _read(table, content, keys)
        return tables

    def table(self, name: str, keys: Mapping[str, Key], *, required: bool = False) -> Table | None:
        """Check the one table ``[name]``; return None if it is missing, a problem if required."""
        found = self.tables(name, keys)
        if required and not found:
            self.complain(1, f"[{name}] is missing: write it with {', '.join(keys)}")
        return found[0] if found else None

    def check_once(self, tables: Iterable[Table], text: Callable[[Table], str]) -> None:
        """Check that no two tables have the same `text`."""
        first: dict[str, Table] = {}
        for table in tables:
            earlier = first.setdefault(text(table), table)
            if earlier is not table:
                table.complain(f"{text(table)} in line {earlier.line} already: remove one")

    def line_of(self, table: Table, key: str) -> int:
        """Return the line of a key of a table, or of the table if it has no such key."""
        end = self._find(r"\s*\[", table.line, len(self._lines)) or len(self._lines) + 1
        pattern = rf"\s*[\"']?{re.escape(key)}[\"']?\s*="
        return self._find(pattern, table.line, end - 1) or table.line

    def _find(self, pattern: str, start: int, end: int) -> int | None:
        """Return the first line after `start`, up to `end`, that begins with `pattern`."""
        for number in range(start + 1, min(end, len(self._lines)) + 1):
            if re.match(pattern, self._lines[number - 1]):
                return number
        return None


def _read(table: Table, content: object, keys: Mapping[str, Key]) -> None:
    name = table.name
    if not isinstance(content, dict):
        table.complain(f"{name!r} has to be a table: write [[{name}]]")
        return
    for key, value in content.items():
        if key not in keys:
            table.complain(f"[{name}] has no key {key!r}{did_you_mean(key, keys)}", key)
        elif _is(value, kind := keys[key].kind):
            table.values[key] = kind(value) if issubclass(kind, StrEnum) else value
        elif issubclass(kind, StrEnum):
            table.complain(f"{key} = {value!r} is not known: write {_described(kind)}", key)
        else:
            table.complain(f"{key!r} has to be {_described(kind)}, not {value!r}", key)
    for key, wanted in keys.items():
        if wanted.required and key not in content:
            table.complain(f"[{name}] lacks the key {key!r}: write {_described(wanted.kind)}")


def _described(kind: type) -> str:
    return " or ".join(f'"{w}"' for w in kind) if issubclass(kind, StrEnum) else _KINDS[kind]


def _is(value: object, kind: type) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is str:
        return isinstance(value, str) and bool(value.strip())
    return value in list(kind) if issubclass(kind, StrEnum) else type(value) is kind
