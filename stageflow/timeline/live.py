"""A run that goes on: as a chart to be drawn again and again, and as one line an event."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from stageflow.events import (
    STARTED,
    STREAM_CLOSED,
    STREAM_FIRST_ITEM,
    STREAM_OPENED,
    TERMINAL,
    Event,
)
from stageflow.timeline.model import NEVER_STARTED, RUNNING, WAITING, Bar, timeline
from stageflow.timeline.text import Scale, painted
from stageflow.timeline.words import SIGNS, columns, fit, format_ms, printable, ticks_ms

#: A chart of fewer columns tells nothing, and is left out.
_LEAST_CHART = 12

#: Room for "1234.5 ms".
_TOOK_WIDTH = 9


@dataclass(frozen=True)
class Moment:
    """A run at one moment.

    Attributes:
        pipeline: Name of the pipeline.
        stages: Names of all its stages, in the order in which they are drawn.
        events: What has happened, in order.
        at_ms: Now, in milliseconds since the run's start.
        notes: What is told beside a stage, by its name, such as how many items its stream has.
        first_sound_ms: When the user could first hear something; None if not yet, or never.
    """

    pipeline: str
    stages: Sequence[str]
    events: Sequence[Event] = ()
    at_ms: float = 0.0
    notes: Mapping[str, str] = field(default_factory=dict)
    first_sound_ms: float | None = None

    def bars(self) -> list[Bar]:
        """A bar for each stage; what runs ends now."""
        known = {bar.stage: bar for bar in timeline(self.events).bars} if self.events else {}
        over = any(event.stage is None and event.what in TERMINAL for event in self.events)
        bars = []
        for stage in self.stages:
            name = printable(stage)
            bar = known.get(name, Bar(name, NEVER_STARTED if over else WAITING, 0.0, 0.0))
            bars.append(replace(bar, end_ms=self.at_ms) if bar.status == RUNNING else bar)
        return bars


def live_lines(moment: Moment, width: int, height: int, *, color: bool = False) -> list[str]:
    """Draw a run that goes on; each line fits into a terminal, and all of them do.

    Args:
        moment: What to draw.
        width: Columns of the terminal.
        height: Lines of the terminal.
        color: Whether to colour bars and signs.
    """
    width -= 1  # a full line would make some terminals begin another
    bars = moment.bars()
    notes = {printable(stage): printable(note) for stage, note in moment.notes.items()}
    label_width = min(max((columns(bar.stage) for bar in bars), default=0), width // 3)
    note_width = max(map(columns, notes.values()), default=0)
    scale = Scale(_round_end_ms(moment.at_ms), width - label_width - note_width - _TOOK_WIDTH - 7)
    if scale.width < _LEAST_CHART:
        rows = [_narrow(bar, notes.get(bar.stage, ""), width, color) for bar in bars]
        axis = []
    else:
        rows = [_row(bar, notes.get(bar.stage, ""), label_width, scale, color) for bar in bars]
        axis = [f"{'':{label_width + 4}}{scale.axis()}".rstrip()]
    rows = _shortened(rows, height - 4)
    lines = [_heading(moment, width), *axis, *rows, *_sound(moment, width)]
    return lines[: max(height - 1, 1)]


def _round_end_ms(at_ms: float) -> float:
    """Where the axis ends: it stays where it is for a while, and bars grow."""
    ticks = ticks_ms(at_ms, 8)
    step = ticks[1] if len(ticks) > 1 else max(at_ms, 1.0)
    return math.floor(at_ms / step + 1) * step


def _heading(moment: Moment, width: int) -> str:
    ended = [e.what for e in moment.events if e.stage is None and e.what in TERMINAL]
    status = ended[-1] if ended else RUNNING if moment.events else WAITING
    told = f": {status}, {format_ms(moment.at_ms)}"
    return _cut(f"{_cut(printable(moment.pipeline), max(width - len(told), 1))}{told}", width)


def _row(bar: Bar, note: str, label_width: int, scale: Scale, color: bool) -> str:
    sign = painted(SIGNS[bar.status], bar.status, color)
    drawn = painted(scale.bar(replace(bar, critical=True)), bar.status, color)
    return f"{sign} {fit(bar.stage, label_width)} │{drawn}│ {_took(bar):>{_TOOK_WIDTH}} {note}"


def _narrow(bar: Bar, note: str, width: int, color: bool) -> str:
    sign = painted(SIGNS[bar.status], bar.status, color)
    return f"{sign} {_cut(f'{bar.stage} {_took(bar)} {note}', width - 2)}"


def _took(bar: Bar) -> str:
    return WAITING if bar.status == WAITING else bar.took


def _shortened(rows: list[str], most: int) -> list[str]:
    """The last of the rows, which are those that still have to come."""
    if len(rows) <= most:
        return rows
    kept = max(most - 1, 1)
    return [f"… {len(rows) - kept} more", *rows[-kept:]]


def _sound(moment: Moment, width: int) -> list[str]:
    if moment.first_sound_ms is None:
        return []
    return [_cut(f"♪ first sound after {moment.first_sound_ms:.0f} ms", width)]


def _cut(text: str, width: int) -> str:
    text = text.rstrip()
    return fit(text, width) if columns(text) > width else text


def event_line(event: Event) -> str:
    """One event as a line of text: when, who, what."""
    who = event.stage if event.stage is not None else event.data.get("pipeline", "pipeline")
    return printable(f"{event.offset_ms:9.1f} ms  {who} {_words(event)}")


def _words(event: Event) -> str:
    data = dict(event.data)
    stream = data.pop("stream", None)
    known = {
        STARTED: STARTED,
        STREAM_OPENED: f"opens {stream}",
        STREAM_FIRST_ITEM: f"gives the first of {stream}",
        STREAM_CLOSED: f"closes {stream}, {data.get('items')} items",
    }
    if event.what in known:
        return known[event.what]
    took_ms = data.pop("duration_ms", None)
    took = f" in {format_ms(took_ms)}" if isinstance(took_ms, float) else ""
    why = ": ".join(
        str(data[key]) for key in ("error_code", "error_message", "reason") if data.get(key)
    )
    return f"{event.what}{took}{': ' if why else ''}{why}"
