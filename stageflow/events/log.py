"""The events of a run: frozen records, numbered without a gap."""

from __future__ import annotations

import copyreg
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Protocol, TypeAlias

RUN_STARTED = "pipeline.started"
"""Type of the event that begins a run."""
RUN_COMPLETED = "pipeline.completed"
"""Type of the last event of a run that completed."""
RUN_FAILED = "pipeline.failed"
"""Type of the last event of a run that failed."""
RUN_CANCELLED = "pipeline.cancelled"
"""Type of the last event of a run whose caller was cancelled."""

STARTED = "started"
"""Last part of the type of an event: the stage started."""
COMPLETED = "completed"
"""Last part of the type of an event: the stage completed."""
FAILED = "failed"
"""Last part of the type of an event: the stage failed."""
SKIPPED = "skipped"
"""Last part of the type of an event: the stage was skipped."""
CANCELLED = "cancelled"
"""Last part of the type of an event: the stage was cancelled."""

STREAM_OPENED = "stream_opened"
"""Last part of the type of an event: the stage opened a stream."""
STREAM_FIRST_ITEM = "stream_first_item"
"""Last part of the type of an event: the first item was put into a stream."""
STREAM_CLOSED = "stream_closed"
"""Last part of the type of an event: a stream was closed."""

STREAMING = (STREAM_OPENED, STREAM_FIRST_ITEM, STREAM_CLOSED)
"""Last parts of the types of a stream's events: each once, in this order, before its stage ends."""

FIRST_AUDIO = "first_audio"
"""Last part of the type of an event that a stage emits when its run can first be heard:
``ctx.emit("first_audio")``. Sinks measure the time until the first such event.
"""

USAGE = "usage"
"""Last part of the type of an event that says what a call of a provider has used."""

USAGE_UNITS = ("prompt_tokens", "completion_tokens", "characters", "audio_s", "cost")
"""The units of such an event; its ``cost`` is in the currency of the user's prices."""

TERMINAL = frozenset({COMPLETED, FAILED, SKIPPED, CANCELLED})
"""Last parts of the types of events that end a stage."""

_ENDS = tuple(f".{what}" for what in sorted(TERMINAL))


class StageStatus(StrEnum):
    """How a stage ended, in the words of its last event."""

    COMPLETED = COMPLETED
    FAILED = FAILED
    SKIPPED = SKIPPED
    CANCELLED = CANCELLED


# Python neither pickles nor copies read-only mappings by itself.
def _read_only(values: dict[str, Any]) -> MappingProxyType[str, Any]:
    return MappingProxyType(values)


def _pickled(proxy: MappingProxyType[str, Any]) -> tuple[Any, ...]:
    # Looked up: the table of copyreg outlives a module that is imported again.
    return sys.modules[__name__]._read_only, (dict(proxy),)


copyreg.pickle(MappingProxyType, _pickled)

_NOTHING: Mapping[str, Any] = MappingProxyType({})


def stage_event_type(stage: str, what: str) -> str:
    """Return the type of a stage's event, such as ``stage.llm.completed``."""
    return f"stage.{stage}.{what}"


@dataclass(frozen=True, slots=True)
class Event:
    """An event of a run.

    Attributes:
        sequence: Number of the event in its run, from 1.
        type: ``pipeline.<what>`` or ``stage.<name>.<what>``.
        timestamp: Time in UTC: the wall clock at the run's start, plus the offset.
        pipeline_run_id: Id of the run.
        offset_ms: Milliseconds since the run began, by the loop's clock.
        stage: Name of the stage; None for an event of the run.
        data: Further facts, such as ``duration_ms`` or ``error_code``.
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
        """The last part of the type, such as started or completed."""
        return self.type.rpartition(".")[2]

    def to_dict(self) -> dict[str, Any]:
        """Return the event as plain values for JSON."""
        return {
            "sequence": self.sequence,
            "type": self.type,
            "timestamp": self.timestamp.isoformat(),
            "pipeline_run_id": self.pipeline_run_id,
            "offset_ms": self.offset_ms,
            "stage": self.stage,
            "data": dict(self.data),
        }


RawEvent: TypeAlias = tuple[str, float, str | None, Mapping[str, Any] | float | None]
"""An event as the engine keeps it: type, loop time in seconds, stage, and its data or, for a
completed stage, its start in loop time.
"""


class EventLog(Sequence[Event]):
    """The events of one run, in order, kept as tuples and read as `Event` objects."""

    __slots__ = ("_events", "_raw", "append", "pipeline_run_id", "started_at", "wall_started_at")

    def __init__(self, pipeline_run_id: str, started_at: float, wall_started_at: float) -> None:
        """Create an empty log of a run.

        `started_at` is its start in seconds of the loop's clock, `wall_started_at` since the epoch.
        """
        self.pipeline_run_id = pipeline_run_id
        self.started_at = started_at
        self.wall_started_at = wall_started_at
        self._raw: list[RawEvent] = []
        self._events: list[Event] = []
        self.append = self._raw.append

    def __reduce__(self) -> tuple[Any, ...]:
        began = (self.pipeline_run_id, self.started_at, self.wall_started_at)
        return EventLog, began, None, iter(self._raw)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, EventLog):
            return NotImplemented
        return self.snapshot() == other.snapshot()

    __hash__ = None  # type: ignore[assignment]

    def detach(self) -> None:
        """Stop handing events to sinks."""
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
        """Return all events so far."""
        events = self._events
        for position in range(len(events), len(self._raw)):
            events.append(self.event_at(position))
        return tuple(events)

    def begun(self) -> dict[str | None, float | None]:
        """Return when each stage started, in seconds of the loop's clock; None if it has ended."""
        begun: dict[str | None, float | None] = {}
        for kind, at, stage, _ in self._raw:
            what = kind.rpartition(".")[2]
            if what == STARTED:
                begun[stage] = at
            elif what in TERMINAL:
                begun[stage] = None
        return begun

    def has_ended(self, stage: str) -> bool:
        """Return whether the latest event of a stage is its end."""
        for raw in reversed(self._raw):
            if raw[2] == stage:
                return raw[0].endswith(_ENDS)
        return False

    def raw_at(self, position: int) -> RawEvent:
        """Return the stored event at `position`, counted from 0; callable from any thread."""
        return self._raw[position]

    def event_at(self, position: int) -> Event:
        """Return a new object of the event at `position`; callable from any thread."""
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
    """Events of any number of runs for a sink.

    Each read creates new objects. A fast sink reads `entries` instead.

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
    """Stores events in a file, a database, a metrics system.

    A thread of its own calls a sink with one batch at a time, so it may block.
    """

    def write(self, events: Sequence[Event]) -> None:
        """Take events in order; if it raises, the whole batch counts as lost."""

    def close(self) -> None:
        """Write buffered events and release all resources."""
