"""Exact figures: the same on every machine, to the last digit. Any rise fails the gate."""

from __future__ import annotations

from newproject.turn import turn

from benchmarks._lib.turns import context, in_virtual_time


class Turn:
    """A turn in virtual time, with a model of 512 ms and a database of 64 ms."""

    version = "1"

    def track_ms(self) -> float:
        """Return how long the customer waits: a lost overlap of the two calls adds 64 ms."""
        return in_virtual_time(turn, context(llm_ms=512.0, db_ms=64.0)).duration_ms

    track_ms.unit = "ms"  # type: ignore[attr-defined]

    def track_events(self) -> int:
        """Count the events of a turn: two of the run, and two of each stage."""
        return len(in_virtual_time(turn, context(llm_ms=512.0, db_ms=64.0)).events)

    track_events.unit = "events"  # type: ignore[attr-defined]
