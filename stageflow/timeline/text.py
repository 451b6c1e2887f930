"""A timeline for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from stageflow.events import Event
from stageflow.timeline.model import NEVER_STARTED, WAITING, Bar, Timeline, timeline
from stageflow.timeline.words import SIGNS, axis_unit, columns, fit, signs_of, ticks_ms

#: What the chart is never narrower than, in columns.
MIN_WIDTH = 48

_ANSI: Mapping[str, str] = {
    "completed": "32",
    "failed": "31",
    "skipped": "33",
    "cancelled": "35",
    "running": "36",
    NEVER_STARTED: "90",
    WAITING: "90",
}


def timeline_text(
    events: Iterable[Event | Mapping[str, Any]], width: int = 80, *, color: bool = False
) -> str:
    """Draw a run as text.

    Args:
        events: See `timeline`.
        width: Columns to fill, at least `MIN_WIDTH`.
        color: Whether to colour bars and signs by ANSI escapes; the signs tell the same without.

    Raises:
        InvalidEventsError: See `timeline`.
    """
    run = timeline(events)
    width = max(width, MIN_WIDTH)
    label_width = min(max((columns(bar.stage) for bar in run.bars), default=0), width // 3)
    took_width = max((len(bar.took) for bar in run.bars), default=0)
    # Besides the chart: sign, name, two rules, duration, and the spaces between them.
    scale = Scale(run.total_ms, width - label_width - took_width - 6)
    lines = [run.heading, f"{'':{label_width + 4}}{scale.axis()}"]
    for bar in run.bars:
        sign = painted(SIGNS[bar.status], bar.status, color)
        drawn = painted(scale.bar(bar), bar.status, color)
        lines.append(f"{sign} {fit(bar.stage, label_width)} │{drawn}│ {bar.took:>{took_width}}")
    lines.extend(_legend(run, width))
    for note in _notes(run):
        lines.extend(textwrap.wrap(note, width, subsequent_indent="  "))
    return "\n".join(line.rstrip() for line in lines) + "\n"


class Scale:
    """Milliseconds to columns of text."""

    def __init__(self, total_ms: float, width: int) -> None:
        self._total_ms = total_ms
        self.width = width
        self._ticks = ticks_ms(total_ms, width // 8)

    def axis(self) -> str:
        """The labels, each at or before its tick, and the unit behind the chart."""
        unit, unit_ms = axis_unit(self._total_ms)
        cells = [" "] * self.width
        free_from = 0
        for tick in self._ticks:
            label = f"{tick / unit_ms:.6g}"
            at = min(self.column(tick), self.width - len(label))
            if at >= free_from:
                cells[at : at + len(label)] = label
                free_from = at + len(label) + 1
        return f"{''.join(cells)}  {unit}"

    def bar(self, bar: Bar) -> str:
        """A line of the chart; whatever has run fills at least one column."""
        cells = [" "] * self.width
        for tick in self._ticks[1:]:
            cells[min(self.column(tick), self.width - 1)] = "┊"
        if bar.status not in {NEVER_STARTED, WAITING}:
            start = min(self.column(bar.start_ms), self.width - 1)
            end = max(start + 1, self.column(bar.end_ms))
            cells[start:end] = ("█" if bar.critical else "▒") * (end - start)
        return "".join(cells)

    def column(self, at_ms: float) -> int:
        """The column in which a moment lies; the first is 0."""
        return round(at_ms / self._total_ms * self.width) if self._total_ms > 0 else 0


def painted(text: str, status: str, color: bool) -> str:
    """`text` in the colour of a status, or as it is."""
    return f"\x1b[{_ANSI[status]}m{text}\x1b[0m" if color else text


def _legend(run: Timeline, width: int) -> list[str]:
    signs = signs_of({bar.status for bar in run.bars})
    entries = [*signs, "█ the run waited for it", "▒ it overlapped"] if signs else []
    # An entry is not torn apart at the end of a line.
    joined = "   ".join(entry.replace(" ", "\0") for entry in entries)
    return [line.replace("\0", " ") for line in textwrap.wrap(joined, width)]


def _notes(run: Timeline) -> Iterator[str]:
    """Why the run failed, then why stages failed or were skipped without failing it.

    A stage that was cancelled, or never started, has the reason of the run.
    """
    if run.note:
        yield f"{SIGNS['failed']} {run.note}"
    for bar in run.bars:
        note = f"{bar.stage}: {bar.note}"
        if bar.note and bar.status in {"failed", "skipped"} and note != run.note:
            yield f"{SIGNS[bar.status]} {note}"
