"""Events as lines of JSON in a file, for other tools."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from stageflow._utils.files import is_at
from stageflow.errors import InvalidConfigError, shown
from stageflow.events.log import Event
from stageflow.providers.ports import Audio
from stageflow.telemetry.database import TelemetryError

T = TypeVar("T")
#: In place of the number of an open file.
_CLOSED = -1
_log = logging.getLogger("stageflow.telemetry")


class JsonLinesSink:
    """An `EventSink` that appends each event to a file, as one line of `Event.to_dict`.

    A batch is one write of whole lines. A process that is killed meanwhile leaves a torn line; the
    next writer begins a new line after it. Several processes may append to one file on a local
    disk, unless `max_bytes` rotates it. If the file is moved or deleted, a new one is created.
    """

    def __init__(self, path: str | Path, *, max_bytes: int | None = None, backups: int = 3) -> None:
        """Open the file.

        Args:
            path: The file; created if missing.
            max_bytes: Begin a new file before one grows beyond this, unless a single batch does;
                the old one becomes ``<path>.1``, that one ``<path>.2``. None: never.
            backups: How many old files are kept.

        Raises:
            InvalidConfigError: A number is not positive.
            TelemetryError: The file cannot be opened.
        """
        for name, number in (("max_bytes", max_bytes), ("backups", backups)):
            if number is not None and number < 1:
                raise InvalidConfigError("JsonLinesSink", name, number, "give a positive integer")
        self.path = Path(path)
        self._max_bytes = max_bytes
        self._backups = backups
        self._file = self._guarded("open", self._open)

    def write(self, events: Sequence[Event]) -> None:
        """Append a batch; raise `TelemetryError` if it cannot be written as a whole."""
        lines = "".join(map(_line, events)).encode()
        if lines:
            self._guarded("write", lambda: self._append(lines))

    def close(self) -> None:
        """Close the file; calling it again does nothing."""
        file, self._file = self._file, _CLOSED
        if file != _CLOSED:
            os.close(file)

    def _append(self, lines: bytes) -> None:
        if not is_at(os.fstat(self._file), self.path):
            self._reopen()
        if size := os.fstat(self._file).st_size:
            os.lseek(self._file, -1, os.SEEK_END)
            if os.read(self._file, 1) != b"\n":  # a writer was killed within a line
                lines = b"\n" + lines
        if self._max_bytes is not None and size and size + len(lines) > self._max_bytes:
            self._rotate()
        left = memoryview(lines)
        while left:
            left = left[os.write(self._file, left) :]

    def _rotate(self) -> None:
        if self.path.exists():  # or it was moved when no new file could be opened
            for number in range(self._backups, 0, -1):
                newer = self._numbered(number - 1)
                if newer.exists():
                    newer.replace(self._numbered(number))
        self._reopen()

    def _reopen(self) -> None:
        # In this order: as soon as it is closed, the number may be that of another file.
        old, self._file = self._file, self._open()
        os.close(old)

    def _numbered(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}") if number else self.path

    def _open(self) -> int:
        return os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)

    def _guarded(self, action: str, work: Callable[[], T]) -> T:
        try:
            return work()
        except OSError as error:
            raise TelemetryError.file_failed(action, str(self.path), error) from error


def _line(event: Event) -> str:
    row = event.to_dict()
    # Separately: if the data cannot be encoded, the rest is still written.
    data = to_json(row.pop("data"))
    return f'{to_json(row)[:-1]},"data":{data}}}\n'


def read_events(path: str | Path) -> Iterator[Event]:
    """Yield the events of a file in order; others may still write to it.

    A line that is not an event, as a killed writer leaves it, is skipped and logged as a warning.

    Raises:
        TelemetryError: The file cannot be read, or is a database of a `SQLiteSink`.
    """
    try:
        with Path(path).open("rb") as lines:
            if lines.read(16) == b"SQLite format 3\0":
                what = "is a database, not lines of events: read it with TelemetryStore"
                raise TelemetryError.invalid_file(str(path), what)
            lines.seek(0)
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    try:
                        row = json.loads(line)
                        at = datetime.fromisoformat(row["timestamp"])
                        yield Event(**{**row, "timestamp": at})
                    except (ValueError, KeyError, TypeError) as error:
                        _log.warning("%s, line %d is not an event: %s", path, number, error)
    except OSError as error:
        raise TelemetryError.file_failed("read", str(path), error) from error


def plain(value: Any) -> Any:
    """Return `value` in types that JSON has; all other values become a description."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else repr(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, Audio):
        return {"duration_s": value.duration_s, "sample_rate_hz": value.sample_rate_hz}
    return shown(value)


def to_json(value: Mapping[str, Any]) -> str:
    """Return `value` as one line of JSON in ASCII; never raise."""
    try:
        # Fast path: data of the engine and of interceptors is plain.
        return json.dumps(value, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        pass
    try:
        return json.dumps(plain(value), separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        return json.dumps({"not_encodable": shown(error)})
