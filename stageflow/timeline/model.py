"""The contents of a timeline, computed from the events of a run."""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from stageflow._utils.text import printable
from stageflow.errors import LOGIC, StageflowError
from stageflow.events.log import STARTED, TERMINAL, Event

#: Statuses of the chart besides those of `StageStatus`.
NEVER_STARTED = "never started"
RUNNING = "running"
WAITING = "waiting"


class InvalidEventsError(StageflowError, code="invalid_events", traits=LOGIC):
    """The input is not the events of one run."""


@dataclass(frozen=True, slots=True)
class Bar:
    """One stage of a timeline; `critical` if the run waited for it. Times count from its start."""

    stage: str
    status: str
    start_ms: float
    end_ms: float
    note: str = ""
    critical: bool = False

    @property
    def took(self) -> str:
        """Duration as text."""
        never = self.status in {NEVER_STARTED, WAITING}
        return "-" if never else format_ms(self.end_ms - self.start_ms)


@dataclass(frozen=True, slots=True)
class Timeline:
    """A run as a chart shows it: stages that never started come last.

    The pipeline is "run" if unknown. `note` has the stage and the reason of a failure.
    """

    pipeline: str
    status: str
    total_ms: float
    bars: tuple[Bar, ...]
    note: str = ""

    @property
    def heading(self) -> str:
        """First line of the chart."""
        stages = f"{len(self.bars)} stage{'' if len(self.bars) == 1 else 's'}"
        return f"{self.pipeline}: {self.status} in {format_ms(self.total_ms)}, {stages}"

    @property
    def signs(self) -> list[str]:
        """Legend of the statuses."""
        found = {bar.status for bar in self.bars}
        return [f"{sign} {status}" for status, sign in SIGNS.items() if status in found]


def read_events(lines: Iterable[str]) -> list[dict[str, Any]]:
    """Read events from JSON lines, one `Event.to_dict` each; skip empty lines."""
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InvalidEventsError(f"line {number} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise InvalidEventsError(f"line {number} is not a JSON object: {line.strip()[:40]!r}")
        rows.append(row)
    return rows


def timeline(events: Iterable[Event | Mapping[str, Any]]) -> Timeline:
    """Arrange the events of one run, complete or not and in any order, as a timeline.

    Raises:
        InvalidEventsError: There are no events, they are of several runs, or one lacks a field.
    """
    rows = sorted(map(_row, events), key=lambda row: row["sequence"])
    if not rows:
        raise InvalidEventsError("there are no events to draw")
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
    except (KeyError, TypeError, ValueError) as error:
        what = "lacks" if isinstance(error, KeyError) else "is not valid:"
        raise InvalidEventsError(f"the event {printable(str(given))} {what} {error}") from error
    if not math.isfinite(row["offset_ms"]):
        raise InvalidEventsError(f"event {row['sequence']} has the offset {row['offset_ms']} ms")
    return row


def _bars(rows: list[dict[str, Any]], failed_stage: str | None) -> tuple[Bar, ...]:
    of_stages = [row for row in rows if row["stage"] is not None]
    started = {row["stage"]: row for row in of_stages if row["what"] == STARTED}
    ended = {row["stage"]: row for row in of_stages if row["what"] in TERMINAL}
    critical = _critical(started, ended, failed_stage)
    end_ms = max(row["offset_ms"] for row in rows)
    bars: list[Bar] = []
    for name in dict.fromkeys((*started, *ended)):
        start, end = started.get(name), ended.get(name)
        status = end["what"] if end is not None else RUNNING
        status = status if start is not None else NEVER_STARTED
        from_ms, to_ms = (end_ms if row is None else row["offset_ms"] for row in (start, end))
        note = _note(end["data"] if end is not None else {})
        bars.append(Bar(printable(name), status, from_ms, to_ms, note, name in critical))
    return tuple(bars)


def _note(data: Mapping[str, Any]) -> str:
    parts = (data.get("error_code"), data.get("error_message", data.get("reason")))
    return printable(": ".join(str(part) for part in parts if part))


def _critical(started: dict[str, Any], ended: dict[str, Any], failed_stage: str | None) -> set[str]:
    """Follow back the stages that the run waited for: each began after the one before it ended."""
    # By number, not by time: in a run of 0 ms all times are equal.
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


#: A sign for each status, so that the chart is readable without colour.
SIGNS: Mapping[str, str] = {
    "completed": "✓",
    "failed": "✗",
    "skipped": "↷",
    "cancelled": "⊘",
    "running": "…",
    "never started": "·",
    "waiting": "·",
}


def axis_unit(total_ms: float) -> tuple[str, float]:
    """Return the unit of an axis that is `total_ms` long, and the unit in milliseconds."""
    return ("s", 1000.0) if total_ms >= 10_000 else ("ms", 1.0)


def ticks_ms(total_ms: float, most: int) -> list[float]:
    """Return values from 0 to `total_ms`, in at most this many steps of 1, 2 or 5 times 10**n."""
    if total_ms <= 0:
        return [0.0]
    least = total_ms / max(most, 1)
    power = 10.0 ** math.floor(math.log10(least))
    step = next((factor * power for factor in (1, 2, 5) if factor * power >= least), 10 * power)
    # Rounding must not lose the last tick.
    count = math.floor(total_ms / step + 1e-9)
    return [number * step for number in range(count + 1)]


def format_ms(duration_ms: float) -> str:
    """Return a duration in a readable unit and precision."""
    if duration_ms == 0:
        return "0 ms"
    if duration_ms < 10:
        return f"{duration_ms:.2f} ms"
    return f"{duration_ms:.1f} ms" if duration_ms < 10_000 else f"{duration_ms / 1000:.1f} s"


def columns(text: str) -> int:
    """Return how many columns of a terminal `text` takes."""
    shown = [character for character in text if not unicodedata.combining(character)]
    return len(shown) + sum(unicodedata.east_asian_width(character) in "WF" for character in shown)


def fit(text: str, width: int) -> str:
    """Return `text` in exactly `width` columns; shorten it in the middle."""
    if columns(text) > width:
        head, tail = text[: len(text) // 2], text[len(text) // 2 :]
        while columns(head) + 1 + columns(tail) > width:
            if columns(head) > columns(tail):
                head = head[:-1]
            else:
                tail = tail[1:]
        text = f"{head}…{tail}"
    return text + " " * (width - columns(text))
