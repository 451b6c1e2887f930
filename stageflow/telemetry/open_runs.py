"""What a sink remembers of the runs that are under way."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar

from stageflow.kernels.streaming_voice import FIRST_AUDIO

T = TypeVar("T")


@dataclass(slots=True)
class OpenRun:
    """A run that has begun.

    Attributes:
        pipeline: Name of the pipeline.
        heard: Whether its first audio has been told, or can no longer be.
    """

    pipeline: str
    heard: bool = field(default=False, kw_only=True)

    def begins_to_sound(self, event_type: str) -> bool:
        """Whether an event of that type is the run's first audio; told once a run."""
        if self.heard or event_type not in FIRST_AUDIO:
            return False
        self.heard = True
        return True


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
