"""What a timeline shows, found in the events of a run."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from stageflow.errors import ErrorCategory, StageflowError
from stageflow.events import STARTED, TERMINAL, Event
from stageflow.timeline.words import format_ms, printable

#: How a stage ended, in the words of the chart: those of `StageStatus`, and three of its own.
NEVER_STARTED = "never started"
RUNNING = "running"
WAITING = "waiting"


class InvalidEventsError(StageflowError):
    """What was to be drawn are not the events of one run."""

    code = "invalid_events"
    category = ErrorCategory.LOGIC


@dataclass(frozen=True, slots=True)
class Bar:
    """One stage of a timeline.

    Attributes:
        stage: Its name, fit to be printed.
        status: completed, failed, skipped, cancelled, running or never started.
        start_ms: When it started, in milliseconds since the run began.
        end_ms: When it ended.
        note: Why it failed or was skipped; empty if there is nothing to say.
        critical: Whether the run waited for it.
    """

    stage: str
    status: str
    start_ms: float
    end_ms: float
    note: str = ""
    critical: bool = False

    @property
    def duration_ms(self) -> float:
        """How long it ran, in milliseconds."""
        return self.end_ms - self.start_ms

    @property
    def took(self) -> str:
        """How long it ran, in words."""
        if self.status in {NEVER_STARTED, WAITING}:
            return "-"
        return format_ms(self.duration_ms)


@dataclass(frozen=True, slots=True)
class Timeline:
    """A run as a chart shows it.

    Attributes:
        pipeline: Name of the pipeline; "run" if the events do not tell.
        status: How the run ended; running if it has not.
        total_ms: How long it took, in milliseconds.
        bars: Its stages in the order in which they started, those that never did at the end.
        note: Why the run failed, and in which stage; empty if it did not.
    """

    pipeline: str
    status: str
    total_ms: float
    bars: tuple[Bar, ...]
    note: str = ""

    @property
    def heading(self) -> str:
        """The chart's first line."""
        stages = f"{len(self.bars)} stage{'' if len(self.bars) == 1 else 's'}"
        return f"{self.pipeline}: {self.status} in {format_ms(self.total_ms)}, {stages}"


def read_events(lines: Iterable[str]) -> list[dict[str, Any]]:
    """Events from JSON lines, one `Event.to_dict` each; empty lines are passed over.

    Raises:
        InvalidEventsError: A line is no JSON object; it is named by its number.
    """
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InvalidEventsError(f"line {number} is no JSON: {error}") from error
        if not isinstance(row, dict):
            raise InvalidEventsError(f"line {number} is no JSON object, but {line.strip()[:40]!r}")
        rows.append(row)
    return rows


def timeline(events: Iterable[Event | Mapping[str, Any]]) -> Timeline:
    """Arrange the events of one run, complete or not, as a timeline.

    The stages marked critical are those that the run waited for. They are found from its end
    backwards: the stage that failed the run or ended last, then the one that had ended last when
    that one started, and so on.

    Args:
        events: Events, or what `Event.to_dict` made of them, in any order.

    Raises:
        InvalidEventsError: There are none, they are of several runs, or one lacks a field.
    """
    rows = sorted(map(_row, events), key=lambda row: row["sequence"])
    if not rows:
        raise InvalidEventsError("there is no event to draw")
    runs = sorted({row["pipeline_run_id"] for row in rows})
    if len(runs) > 1:
        raise InvalidEventsError(
            f"these are events of {len(runs)} runs ({', '.join(runs[:3])}); draw one at a time"
        )
    end = next((r for r in reversed(rows) if r["stage"] is None and r["what"] in TERMINAL), None)
    verdict = end["data"] if end is not None else {}
    failed_stage, note = verdict.get("failed_stage"), _note(verdict)
    return Timeline(
        pipeline=printable(str(rows[0]["data"].get("pipeline", "run"))),
        status=end["what"] if end is not None else RUNNING,
        total_ms=max(row["offset_ms"] for row in rows),
        bars=_bars(rows, failed_stage),
        note=f"{failed_stage}: {note}" if failed_stage is not None else note,
    )


def _row(event: Event | Mapping[str, Any]) -> dict[str, Any]:
    given = event.to_dict() if isinstance(event, Event) else event
    try:
        row: dict[str, Any] = {
            "sequence": int(given["sequence"]),
            "what": str(given["type"]).rpartition(".")[2],
            "offset_ms": float(given["offset_ms"]),
            "pipeline_run_id": str(given["pipeline_run_id"]),
            "stage": None if given["stage"] is None else str(given["stage"]),
            "data": dict(given["data"]),
        }
    except KeyError as error:
        raise InvalidEventsError(f"the event {printable(str(given))} lacks {error}") from error
    except (TypeError, ValueError) as error:
        raise InvalidEventsError(f"the event {printable(str(given))} is none: {error}") from error
    if not math.isfinite(row["offset_ms"]):
        raise InvalidEventsError(f"event {row['sequence']} has the offset {row['offset_ms']} ms")
    return row


def _bars(rows: list[dict[str, Any]], failed_stage: str | None) -> tuple[Bar, ...]:
    started: dict[str, dict[str, Any]] = {}
    ended: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row["stage"] is not None and row["what"] == STARTED:
            started[row["stage"]] = row
        elif row["stage"] is not None and row["what"] in TERMINAL:
            ended[row["stage"]] = row
    critical = _critical(started, ended, failed_stage)
    end_ms = max(row["offset_ms"] for row in rows)
    bars: list[Bar] = []
    for name in dict.fromkeys((*started, *ended)):
        start, end = started.get(name), ended.get(name)
        status = end["what"] if end is not None else RUNNING
        bars.append(
            Bar(
                stage=printable(name),
                status=status if start is not None else NEVER_STARTED,
                start_ms=start["offset_ms"] if start is not None else end_ms,
                end_ms=end["offset_ms"] if end is not None else end_ms,
                note=_note(end["data"] if end is not None else {}),
                critical=name in critical,
            )
        )
    return tuple(bars)


def _note(data: Mapping[str, Any]) -> str:
    parts = (data.get("error_code"), data.get("error_message", data.get("reason")))
    return printable(": ".join(str(part) for part in parts if part))


def _critical(
    started: Mapping[str, dict[str, Any]],
    ended: Mapping[str, dict[str, Any]],
    failed_stage: str | None,
) -> set[str]:
    # By number, not by time: in a run of 0 ms all times are the same.
    by_end = sorted(
        (ended[name]["sequence"], started[name]["sequence"], name)
        for name in started.keys() & ended.keys()
    )
    before = math.inf
    if failed_stage is not None and failed_stage in ended:
        before = ended[failed_stage]["sequence"] + 1
    found: set[str] = set()
    for end, start, name in reversed(by_end):
        if end < before:
            found.add(name)
            before = start
    return found
