"""State that all sinks keep: runs under way, outcomes, first audio, states of breakers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar

from stageflow.events.log import COMPLETED, FAILED, FIRST_AUDIO

T = TypeVar("T")
#: Name of the pipeline of a run whose start was dropped on the way to the sink.
UNKNOWN = "unknown"
#: The outcomes of stages and runs whose duration counts as latency.
MEASURED = frozenset({COMPLETED, FAILED})
#: Stored as the outcome of a stream's first item, as `FIRST_AUDIO` is for runs.
FIRST_ITEM = "first_item"
#: Usage is counted in millionths of its units.
USAGE_PARTS = 1_000_000
#: The events of circuit breakers' transitions, and the number of the new state in metrics.
BREAKER_STATES = {"breaker_closed": 0, "breaker_half_open": 1, "breaker_open": 2}


@dataclass(slots=True)
class OpenRun:
    """A run that has begun; `heard` once its first audio was reported or may have been lost."""

    pipeline: str
    heard: bool = field(default=False, kw_only=True)

    def begins_to_sound(self, what: str) -> bool:
        """Return whether an event of a stage is the run's first audio; true once a run."""
        if self.heard or what != FIRST_AUDIO:
            return False
        self.heard = True
        return True


class OpenRuns(dict[str, T]):
    """A value for each run that has begun and not ended, by the run's id.

    The number is bounded, since the end of a run may be dropped on the way to the sink.
    """

    def __init__(self, limit: int = 100_000) -> None:
        super().__init__()
        self._limit = limit

    def begin(self, run_id: str, value: T) -> T | None:
        """Store the value of a run; return that of the oldest run if the limit removed it."""
        self.pop(run_id, None)
        gone = self.pop(next(iter(self))) if len(self) >= self._limit else None
        self[run_id] = value
        return gone


class FirstValues(set[str]):
    """Values of a label of a metric: beyond `limit` different ones, each is ``other``."""

    def __init__(self, limit: int = 200) -> None:
        super().__init__()
        self._limit = limit

    def __call__(self, value: object) -> str:
        """Return the value of the label."""
        text = str(value)[:100]
        if len(self) < self._limit:
            self.add(text)
        return text if text in self else "other"
