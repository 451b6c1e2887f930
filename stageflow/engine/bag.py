"""The write-once store of a run's outputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from itertools import takewhile
from operator import is_not
from typing import Any

from stageflow.errors import BagError, DataConflictError, MissingKeyError, shown


class ContextBag(Mapping[str, Any]):
    """A mapping in which each key is written once, with the name of its writer.

    Read it like any mapping. Writes never suspend, so tasks of one loop can share a bag without a
    lock. A bag is not bound to a loop.
    """

    __slots__ = ("_values", "_writers")

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}
        self._writers: dict[str, str] = {}

    async def write(self, key: str, value: Any, writer: str) -> None:
        """Write one key; the awaitable form of `put`. The value is stored without a copy.

        Raises:
            DataConflictError: The key has been written already, by any writer.
            BagError: The key is not a string.
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
        """Write all of these keys, or none; raise as `write` does."""
        values, writers = self._values, self._writers
        for key, value in outputs.items():
            if type(key) is not str or key in values:
                try:
                    self._refuse(key, writer)
                except BagError:
                    for written in takewhile(partial(is_not, key), outputs):
                        del values[written], writers[written]
                    raise
            values[key] = value
            writers[key] = writer

    def _refuse(self, key: Any, writer: str) -> None:
        if not isinstance(key, str):
            problem = f"{writer!r} used the key {shown(key)} of type {type(key).__name__}"
            raise BagError(key, f"{problem}; keys are strings", code="invalid_key", stage=writer)
        if key in self._values:
            raise DataConflictError(key, self._writers[key], writer)

    def read(self, key: str) -> Any:
        """Return the value of `key`; raise `MissingKeyError` if nobody has written it."""
        try:
            return self._values[key]
        except (KeyError, TypeError):
            raise MissingKeyError(key, self._values) from None

    __getitem__ = read

    def writer_of(self, key: str) -> str:
        """Return the name of the writer of `key`; raise as `read` does."""
        try:
            return self._writers[key]
        except (KeyError, TypeError):
            raise MissingKeyError(key, self._values) from None

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of `key`, or `default` if nobody has written it."""
        return self._values.get(key, default)

    def __contains__(self, key: object) -> bool:
        # The inherited method reads, and would build a MissingKeyError for each absent key.
        return key in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        entries = ", ".join(f"{key!r} by {writer!r}" for key, writer in self._writers.items())
        return f"ContextBag({entries})"
