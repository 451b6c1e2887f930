"""Events as lines of JSON in a file: for a look, for other tools, for runs that nobody sums up."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from stageflow.errors import InvalidConfigError
from stageflow.events import Event
from stageflow.telemetry.encoding import to_json
from stageflow.telemetry.errors import TelemetryFileError

T = TypeVar("T")

#: In place of the number of an open file.
_CLOSED = -1

_log = logging.getLogger("stageflow.telemetry")


class JsonLinesSink:
    """An `EventSink` that appends each event to a file, as one line of `Event.to_dict`.

    A batch is one write of whole lines. What a process leaves that is killed within that is a torn
    line at the end; the next writer begins a new one, so that no other event is hidden by it.
    Several processes may append to one file on a local disk, unless it is rotated.
    """

    def __init__(self, path: str | Path, *, max_bytes: int | None = None, backups: int = 3) -> None:
        """Open the file.

        Args:
            path: The file; made if there is none.
            max_bytes: Begin a new file before one grows beyond this; the old one becomes
                ``<path>.1``, that one ``<path>.2``. None: never. A single batch may be larger.
            backups: How many old files are kept.

        Raises:
            InvalidConfigError: A number is not positive.
            TelemetryFileError: The file cannot be opened.
        """
        for name, number in (("max_bytes", max_bytes), ("backups", backups)):
            if number is not None and number < 1:
                raise InvalidConfigError("JsonLinesSink", name, number, "give a positive integer")
        self.path = Path(path)
        self._max_bytes = max_bytes
        self._backups = backups
        self._file = self._guarded("open", self._open)
        self._torn = self._guarded("open", self._is_torn)

    def write(self, events: Sequence[Event]) -> None:
        """Append a batch.

        Raises:
            TelemetryFileError: It could not be written whole, for want of room, say.
        """
        lines = "".join(map(_line, events)).encode()
        if lines:
            self._guarded("write", lambda: self._append(lines))

    def close(self) -> None:
        """Close the file; once more does nothing."""
        file, self._file = self._file, _CLOSED
        if file != _CLOSED:
            os.close(file)

    def _append(self, lines: bytes) -> None:
        if self._torn:
            lines = b"\n" + lines
        size = os.fstat(self._file).st_size
        if self._max_bytes is not None and size and size + len(lines) > self._max_bytes:
            self._rotate()
        # Until all of it is written, who comes next has to begin a line.
        self._torn = True
        left = memoryview(lines)
        while left:
            left = left[os.write(self._file, left) :]
        self._torn = False

    def _rotate(self) -> None:
        if self.path.exists():  # or it was moved when no new file could be opened
            for number in range(self._backups, 0, -1):
                newer = self._numbered(number - 1)
                if newer.exists():
                    newer.replace(self._numbered(number))
        # Its number is another's as soon as it is closed.
        old, self._file = self._file, self._open()
        os.close(old)

    def _numbered(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}") if number else self.path

    def _open(self) -> int:
        return os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)

    def _is_torn(self) -> bool:
        """Whether somebody was killed while writing the last line."""
        if not os.fstat(self._file).st_size:
            return False
        os.lseek(self._file, -1, os.SEEK_END)
        return os.read(self._file, 1) != b"\n"

    def _guarded(self, action: str, work: Callable[[], T]) -> T:
        try:
            return work()
        except OSError as error:
            raise TelemetryFileError(action, str(self.path), error) from error


def _line(event: Event) -> str:
    row = event.to_dict()
    # By itself: data that no JSON can hold costs the data alone.
    data = to_json(row.pop("data"))
    return f'{to_json(row)[:-1]},"data":{data}}}\n'


def read_events(path: str | Path) -> Iterator[Event]:
    """The events of a file, in order; a file that is still written to may be read.

    A line that is no event is passed over, and logged as a warning with its number: it was torn
    when its writer was killed.

    Raises:
        TelemetryFileError: The file cannot be read.
    """
    try:
        with Path(path).open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    try:
                        yield _event(json.loads(line))
                    except (ValueError, KeyError, TypeError) as error:
                        _log.warning("%s, line %d is no event: %s", path, number, error)
    except OSError as error:
        raise TelemetryFileError("read", str(path), error) from error


def _event(row: dict[str, Any]) -> Event:
    return Event(**{**row, "timestamp": datetime.fromisoformat(row["timestamp"])})
