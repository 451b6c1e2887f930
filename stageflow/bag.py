"""The write-once store of a run's outputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import takewhile
from typing import Any

from stageflow.errors import BagError, DataConflictError, InvalidKeyError, MissingKeyError


class ContextBag(Mapping[str, Any]):
    """A mapping in which each key is written once, and which knows who wrote it.

    Reading is that of any mapping. One event loop and any number of tasks may share a bag: no
    write awaits in its middle, so no lock is needed, and a bag belongs to no particular loop.
    """

    __slots__ = ("_values", "_writers")

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}
        self._writers: dict[str, str] = {}

    async def write(self, key: str, value: Any, writer: str) -> None:
        """Write one key; the awaitable form of `put`.

        Args:
            key: Any string that has not been written before.
            value: Any object; it is stored as it is, not copied.
            writer: Who writes, usually the stage's name.

        Raises:
            DataConflictError: The key has been written before, by whomever.
            InvalidKeyError: The key is not a string.
        """
        values = self._values
        if type(key) is not str or key in values:
            self._refuse(key, writer)
        values[key] = value
        self._writers[key] = writer

    def put(self, key: str, value: Any, writer: str) -> None:
        """Write one key without awaiting; see `write`."""
        values = self._values
        if type(key) is not str or key in values:
            self._refuse(key, writer)
        values[key] = value
        self._writers[key] = writer

    def put_all(self, outputs: Mapping[str, Any], writer: str) -> None:
        """Write several keys, all or none; raises as `write` does."""
        values, writers = self._values, self._writers
        for key, value in outputs.items():
            if type(key) is not str or key in values:
                try:
                    self._refuse(key, writer)
                except BagError:
                    self._take_back(outputs, key)
                    raise
            values[key] = value
            writers[key] = writer

    def _take_back(self, outputs: Mapping[str, Any], refused: Any) -> None:
        """Undo the part of `outputs` before the key that was refused."""
        for key in takewhile(lambda key: key is not refused, outputs):
            del self._values[key], self._writers[key]

    def _refuse(self, key: Any, writer: str) -> None:
        if not isinstance(key, str):
            raise InvalidKeyError(key, writer)
        if key in self._values:
            raise DataConflictError(key, self._writers[key], writer)

    def read(self, key: str) -> Any:
        """The value of `key`.

        Raises:
            MissingKeyError: Nobody has written it.
        """
        try:
            return self._values[key]
        except (KeyError, TypeError):
            raise MissingKeyError(key, self._values) from None

    __getitem__ = read

    def writer_of(self, key: str) -> str:
        """Who wrote `key`.

        Raises:
            MissingKeyError: Nobody has written it.
        """
        try:
            return self._writers[key]
        except (KeyError, TypeError):
            raise MissingKeyError(key, self._values) from None

    def get(self, key: str, default: Any = None) -> Any:
        """The value of `key`, or `default` if nobody has written it."""
        return self._values.get(key, default)

    def __contains__(self, key: object) -> bool:
        # The inherited one reads, and would compose a MissingKeyError for each absent key.
        return key in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        entries = ", ".join(f"{key!r} by {writer!r}" for key, writer in self._writers.items())
        return f"ContextBag({entries})"
