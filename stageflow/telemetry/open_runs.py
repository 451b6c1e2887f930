"""What a sink remembers of the runs that are under way."""

from __future__ import annotations

from typing import TypeVar

T = TypeVar("T")


class OpenRuns(dict[str, T]):
    """Something for each run that has begun and not ended, by its id.

    It is bounded: of a run whose end was dropped on the way to the sink, nobody hears again.
    """

    def __init__(self, limit: int = 100_000) -> None:
        """Keep at most `limit` runs."""
        super().__init__()
        self._limit = limit

    def begin(self, run_id: str, value: T) -> T | None:
        """Keep `value` for a run, and return that of another run which had to go for it."""
        self.pop(run_id, None)
        gone = self.pop(next(iter(self))) if len(self) >= self._limit else None
        self[run_id] = value
        return gone
