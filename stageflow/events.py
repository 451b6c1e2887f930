"""What happened in a run: frozen records, numbered without a gap."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Protocol, TypeAlias

RUN_STARTED = "pipeline.started"
RUN_COMPLETED = "pipeline.completed"
RUN_FAILED = "pipeline.failed"
RUN_CANCELLED = "pipeline.cancelled"

STARTED = "started"
COMPLETED = "completed"
FAILED = "failed"
SKIPPED = "skipped"
CANCELLED = "cancelled"

STREAM_OPENED = "stream_opened"
STREAM_FIRST_ITEM = "stream_first_item"
STREAM_CLOSED = "stream_closed"

#: The last part of the types of events by which the engine records the life of a stream; each
#: once, in this order, and all before the end of the stage that writes it.
STREAMING = (STREAM_OPENED, STREAM_FIRST_ITEM, STREAM_CLOSED)

#: The last part of the type of an event after which its stage is at rest.
TERMINAL = frozenset({COMPLETED, FAILED, SKIPPED, CANCELLED})


class StageStatus(StrEnum):
    """How a stage ended; the words are those of its last event."""

    COMPLETED = COMPLETED
    FAILED = FAILED
    SKIPPED = SKIPPED
    CANCELLED = CANCELLED


_NOTHING: Mapping[str, Any] = MappingProxyType({})


def stage_event_type(stage: str, what: str) -> str:
    """The type of a stage's event, such as ``stage.llm.completed``."""
    return f"stage.{stage}.{what}"


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened in a run.

    Attributes:
        sequence: 1 for the run's first event, then one more each.
        type: ``pipeline.<what>`` or ``stage.<name>.<what>``.
        timestamp: When, in UTC, by the wall clock as it stood at the run's start.
        pipeline_run_id: Which run.
        offset_ms: When, in milliseconds since the run began, by the loop's clock.
        stage: Name of the stage, None for an event of the run.
        data: What else is known, such as ``duration_ms`` or ``error_code``.
    """

    sequence: int
    type: str
    timestamp: datetime
    pipeline_run_id: str
    offset_ms: float = 0.0
    stage: str | None = None
    data: Mapping[str, Any] = field(default_factory=lambda: _NOTHING, hash=False)

    @property
    def what(self) -> str:
        """The last part of the type: started, completed, failed, skipped or cancelled."""
        return self.type.rpartition(".")[2]

    def to_dict(self) -> dict[str, Any]:
        """The event as plain values, ready for JSON."""
        return {
            "sequence": self.sequence,
            "type": self.type,
            "timestamp": self.timestamp.isoformat(),
            "pipeline_run_id": self.pipeline_run_id,
            "offset_ms": self.offset_ms,
            "stage": self.stage,
            "data": dict(self.data),
        }


#: An event as the engine keeps it: type, loop time in seconds, stage, and either its data or, for
#: a completed stage, the loop time in seconds at which it started.
RawEvent: TypeAlias = tuple[str, float, str | None, Mapping[str, Any] | float | None]


class EventLog(Sequence[Event]):
    """The events of one run, in order.

    They are kept as tuples, which cost the run a fraction of what objects would, and become
    `Event` objects when they are read.
    """

    __slots__ = ("_events", "_raw", "append", "pipeline_run_id", "started_at", "wall_started_at")

    def __init__(self, pipeline_run_id: str, started_at: float, wall_started_at: float) -> None:
        """Begin an empty log.

        Args:
            pipeline_run_id: Id of the run.
            started_at: When it began, in seconds of the loop's clock.
            wall_started_at: The same moment in seconds since the epoch.
        """
        self.pipeline_run_id = pipeline_run_id
        self.started_at = started_at
        self.wall_started_at = wall_started_at
        self._raw: list[RawEvent] = []
        self._events: list[Event] = []
        self.append = self._raw.append

    def __len__(self) -> int:
        return len(self._raw)

    def __iter__(self) -> Iterator[Event]:
        return iter(self.snapshot())

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.snapshot()[index]
        return self.event_at(range(len(self._raw))[index])

    def snapshot(self) -> tuple[Event, ...]:
        """All events so far."""
        events = self._events
        for position in range(len(events), len(self._raw)):
            events.append(self.event_at(position))
        return tuple(events)

    def raw_at(self, position: int) -> RawEvent:
        """The event at `position`, counted from 0, as it is kept; safe to call from any thread."""
        return self._raw[position]

    def event_at(self, position: int) -> Event:
        """The event at `position`, counted from 0, made anew; safe to call from any thread."""
        kind, at, stage, payload = self._raw[position]
        offset_s = at - self.started_at
        data: Mapping[str, Any]
        if payload is None:
            data = _NOTHING
        elif isinstance(payload, float):
            data = MappingProxyType({"duration_ms": (at - payload) * 1000.0})
        else:
            data = MappingProxyType(dict(payload))
        return Event(
            sequence=position + 1,
            type=kind,
            timestamp=datetime.fromtimestamp(self.wall_started_at + offset_s, UTC),
            pipeline_run_id=self.pipeline_run_id,
            offset_ms=offset_s * 1000.0,
            stage=stage,
            data=data,
        )


class EventBatch(Sequence[Event]):
    """Events of any number of runs, as a sink is given them.

    They become objects when they are read, each time anew. A sink that has to be cheap reads
    `entries` instead: making the objects costs more than writing them to a database.

    Attributes:
        entries: For each event its log, and its position there, counted from 0.
    """

    __slots__ = ("entries",)

    def __init__(self, entries: Sequence[tuple[EventLog, int]]) -> None:
        self.entries = entries

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[Event]:
        for log, position in self.entries:
            yield log.event_at(position)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return EventBatch(self.entries[index])
        log, position = self.entries[index]
        return log.event_at(position)


class EventSink(Protocol):
    """Where events go that shall outlive the run: a file, a database, a metrics system.

    A sink is called from a thread of its own, one batch at a time, so it may block.
    """

    def write(self, events: Sequence[Event]) -> None:
        """Take some events, in order; raising counts the whole batch as lost."""

    def close(self) -> None:
        """Write out what is held back and release everything."""
