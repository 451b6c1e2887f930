"""Timelines as text, of a run that has ended or goes on, and as SVG."""

from __future__ import annotations

import html
import math
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from stageflow._utils.text import printable
from stageflow.events import log as ev
from stageflow.events.log import TERMINAL, Event
from stageflow.timeline import model
from stageflow.timeline.model import SIGNS, Bar, Timeline, columns, fit, timeline

#: A chart with fewer columns is left out.
_LEAST_CHART = 12
#: Room for "1234.5 ms".
_TOOK_WIDTH = 9
#: Least width of the chart, in columns.
MIN_WIDTH = 48
_ANSI = {"failed": 31, "completed": 32, "skipped": 33, "cancelled": 35, "running": 36}


def timeline_text(
    events: Iterable[Event | Mapping[str, Any]], width: int = 80, *, color: bool = False
) -> str:
    """Draw a run as text of `width` columns, at least `MIN_WIDTH`; see `timeline`."""
    run = timeline(events)
    width = max(width, MIN_WIDTH)
    label_width = min(max((columns(bar.stage) for bar in run.bars), default=0), width // 3)
    took_width = max((len(bar.took) for bar in run.bars), default=0)
    # Apart from the chart: sign, name, two rules, duration, and the spaces between them.
    scale = Scale(run.total_ms, width - label_width - took_width - 6)
    lines = [run.heading, f"{'':{label_width + 4}}{scale.axis()}"]
    for bar in run.bars:
        sign = painted(SIGNS[bar.status], bar.status, color)
        drawn = painted(scale.bar(bar), bar.status, color)
        lines.append(f"{sign} {fit(bar.stage, label_width)} │{drawn}│ {bar.took:>{took_width}}")
    entries = [*run.signs, "█ the run waited for it", "▒ it overlapped"] if run.bars else []
    # Lines break between entries, not within them.
    joined = "   ".join(entry.replace(" ", "\0") for entry in entries)
    lines.extend(line.replace("\0", " ") for line in textwrap.wrap(joined, width))
    notes = [f"{SIGNS['failed']} {run.note}"] if run.note else []
    for bar in run.bars:
        note = f"{bar.stage}: {bar.note}"
        if bar.note and bar.status in {"failed", "skipped"} and note != run.note:
            notes.append(f"{SIGNS[bar.status]} {note}")
    for note in notes:
        lines.extend(textwrap.wrap(note, width, subsequent_indent="  "))
    return "\n".join(line.rstrip() for line in lines) + "\n"


class Scale:
    """Converts milliseconds to columns of text."""

    def __init__(self, total_ms: float, width: int) -> None:
        self._total_ms = total_ms
        self.width = width
        self._ticks = model.ticks_ms(total_ms, width // 8)

    def axis(self) -> str:
        """Return the labels, each at or before its tick, and the unit."""
        unit, unit_ms = model.axis_unit(self._total_ms)
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
        """Return a line of the chart; a stage that ran fills at least one column."""
        cells = [" "] * self.width
        for tick in self._ticks[1:]:
            cells[min(self.column(tick), self.width - 1)] = "┊"
        if bar.status not in {model.NEVER_STARTED, model.WAITING}:
            start = min(self.column(bar.start_ms), self.width - 1)
            end = max(start + 1, self.column(bar.end_ms))
            cells[start:end] = ("█" if bar.critical else "▒") * (end - start)
        return "".join(cells)

    def column(self, at_ms: float) -> int:
        """Return the column of a time; the first is 0."""
        return round(at_ms / self._total_ms * self.width) if self._total_ms > 0 else 0


def painted(text: str, status: str, color: bool) -> str:
    """Return `text` in the colour of a status, or unchanged."""
    return f"\x1b[{_ANSI.get(status, 90)}m{text}\x1b[0m" if color else text


@dataclass(frozen=True)
class Moment:
    """A run at one point in time: all stages in order, and the events so far.

    `notes` has a text beside a stage, such as the number of items of its stream.
    """

    pipeline: str
    stages: Sequence[str]
    events: Sequence[Event] = ()
    at_ms: float = 0.0
    notes: Mapping[str, str] = field(default_factory=dict)
    first_sound_ms: float | None = None

    def bars(self) -> list[Bar]:
        """Return a bar for each stage; running ones end now."""
        known = {bar.stage: bar for bar in timeline(self.events).bars} if self.events else {}
        over = any(event.stage is None and event.what in TERMINAL for event in self.events)
        unknown = model.NEVER_STARTED if over else model.WAITING
        bars = []
        for name in map(printable, self.stages):
            bar = known.get(name, Bar(name, unknown, 0.0, 0.0))
            bars.append(replace(bar, end_ms=self.at_ms) if bar.status == model.RUNNING else bar)
        return bars


def live_lines(moment: Moment, width: int, height: int, *, color: bool = False) -> list[str]:
    """Draw a run that goes on, to fit a terminal of `width` columns and `height` lines."""
    width -= 1  # some terminals wrap a full line
    bars = moment.bars()
    notes = {printable(stage): printable(note) for stage, note in moment.notes.items()}
    label_width = min(max((columns(bar.stage) for bar in bars), default=0), width // 3)
    note_width = max(map(columns, notes.values()), default=0)
    scale = Scale(_round_end_ms(moment.at_ms), width - label_width - note_width - _TOOK_WIDTH - 7)
    drawn = scale.width >= _LEAST_CHART
    axis = [f"{'':{label_width + 4}}{scale.axis()}".rstrip()] if drawn else []
    rows = []
    for bar in bars:
        sign, note = painted(SIGNS[bar.status], bar.status, color), notes.get(bar.stage, "")
        took = model.WAITING if bar.status == model.WAITING else bar.took
        if drawn:
            chart = painted(scale.bar(replace(bar, critical=True)), bar.status, color)
            label = fit(bar.stage, label_width)
            rows.append(f"{sign} {label} │{chart}│ {took:>{_TOOK_WIDTH}} {note}")
        else:
            rows.append(f"{sign} {_cut(f'{bar.stage} {took} {note}', width - 2)}")
    if len(rows) > height - 4:
        # The last ones have not ended.
        kept = max(height - 5, 1)
        rows = [f"… {len(rows) - kept} more", *rows[-kept:]]
    ended = [e.what for e in moment.events if e.stage is None and e.what in TERMINAL]
    status = ended[-1] if ended else model.RUNNING if moment.events else model.WAITING
    state = f": {status}, {model.format_ms(moment.at_ms)}"
    name = _cut(printable(moment.pipeline), max(width - len(state), 1))
    lines = [_cut(f"{name}{state}", width), *axis, *rows]
    if moment.first_sound_ms is not None:
        lines.append(_cut(f"♪ first sound after {moment.first_sound_ms:.0f} ms", width))
    return lines[: max(height - 1, 1)]


def _round_end_ms(at_ms: float) -> float:
    """Return the end of the axis, a round value that changes rarely while bars grow."""
    ticks = model.ticks_ms(at_ms, 8)
    step = ticks[1] if len(ticks) > 1 else max(at_ms, 1.0)
    return math.floor(at_ms / step + 1) * step


def _cut(text: str, width: int) -> str:
    text = text.rstrip()
    return fit(text, width) if columns(text) > width else text


def event_line(event: Event) -> str:
    """Return an event as a line of text: time, stage, event."""
    who = event.stage if event.stage is not None else event.data.get("pipeline", "pipeline")
    return printable(f"{event.offset_ms:9.1f} ms  {who} {_words(event)}")


def _words(event: Event) -> str:
    data = dict(event.data)
    stream = data.pop("stream", None)
    known = {
        ev.STARTED: ev.STARTED,
        ev.STREAM_OPENED: f"opens {stream}",
        ev.STREAM_FIRST_ITEM: f"gives the first of {stream}",
        ev.STREAM_CLOSED: f"closes {stream}, {data.get('items')} items",
    }
    if event.what in known:
        return known[event.what]
    took_ms = data.pop("duration_ms", None)
    took = f" in {model.format_ms(took_ms)}" if isinstance(took_ms, float) else ""
    why = ": ".join(
        str(data[key]) for key in ("error_code", "error_message", "reason") if data.get(key)
    )
    return f"{event.what}{took}{': ' if why else ''}{why}"


_WIDTH_PX, _MARGIN_PX, _TOP_PX, _TOOK_PX = 900, 16, 68, 84
_ROW_PX, _BAR_PX, _LINE_PX, _CHAR_PX = 24, 14, 18, 7.3
_MAX_LABEL_COLUMNS, _MAX_NOTE_COLUMNS = 32, 118


def timeline_svg(events: Iterable[Event | Mapping[str, Any]]) -> str:
    """Draw a run as a self-contained SVG document, in light or dark colours; see `timeline`."""
    run = timeline(events)
    chart = _Chart(run)
    bottom_px = _TOP_PX + len(run.bars) * _ROW_PX
    foot = ["   ".join([*run.signs, "full colour: the run waited for it"])] if run.bars else []
    if run.note:
        foot.append(fit(f"{SIGNS['failed']} {run.note}", _MAX_NOTE_COLUMNS).rstrip())
    height_px = bottom_px + 24 + len(foot) * _LINE_PX
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH_PX} {height_px}"'
        f' width="{_WIDTH_PX}" height="{height_px}" role="img">',
        f"<title>{html.escape(run.heading)}</title>",
        f"<style>\n{Path(__file__).with_name('timeline.css').read_text('utf-8')}</style>",
        f'<rect class="paper" width="{_WIDTH_PX}" height="{height_px}"/>',
        _text(_MARGIN_PX, 26, run.heading, "heading"),
        *chart.axis(bottom_px),
        *(chart.row(bar, _TOP_PX + number * _ROW_PX) for number, bar in enumerate(run.bars)),
    ]
    for number, line in enumerate(foot):
        parts.append(_text(_MARGIN_PX, bottom_px + 26 + number * _LINE_PX, line, "faint"))
    parts.append("</svg>")
    return "\n".join(parts) + "\n"


class _Chart:
    def __init__(self, run: Timeline) -> None:
        longest = max((columns(bar.stage) for bar in run.bars), default=0)
        self._left_px = _MARGIN_PX + 28 + min(longest, _MAX_LABEL_COLUMNS) * _CHAR_PX
        self._span_px = _WIDTH_PX - _MARGIN_PX - _TOOK_PX - self._left_px
        self._total_ms = run.total_ms

    def x_px(self, at_ms: float) -> float:
        share = at_ms / self._total_ms if self._total_ms > 0 else 0.0
        return self._left_px + share * self._span_px

    def axis(self, bottom_px: int) -> Iterator[str]:
        unit, unit_ms = model.axis_unit(self._total_ms)
        for tick in model.ticks_ms(self._total_ms, int(self._span_px // 64)):
            x_px = self.x_px(tick)
            yield (
                f'<line class="rule" x1="{x_px:.1f}" y1="{_TOP_PX - 8}"'
                f' x2="{x_px:.1f}" y2="{bottom_px}"/>'
            )
            yield _text(x_px, _TOP_PX - 14, f"{tick / unit_ms:.6g}", "faint middle")
        yield _text(_WIDTH_PX - _MARGIN_PX, _TOP_PX - 14, unit, "faint end")

    def row(self, bar: Bar, top_px: int) -> str:
        css = bar.status.replace(" ", "-")
        title, drawn = f"{bar.stage}: {bar.status}", ""
        if bar.status != model.NEVER_STARTED:
            waited = "the run waited for it" if bar.critical else "it overlapped"
            title = f"{title}, {bar.took} from {bar.start_ms:.2f} ms, {waited}"
            # At least two pixels, so that a stage that took no time is visible.
            width_px = max(self.x_px(bar.end_ms) - self.x_px(bar.start_ms), 2.0)
            drawn = (
                f'<rect class="{css}{"" if bar.critical else " aside"}"'
                f' x="{self.x_px(bar.start_ms):.1f}" y="{top_px + (_ROW_PX - _BAR_PX) // 2}"'
                f' width="{width_px:.1f}" height="{_BAR_PX}" rx="2"/>'
            )
        if bar.note:
            title = f"{title}\n{bar.note}"
        label = fit(bar.stage, min(columns(bar.stage), _MAX_LABEL_COLUMNS))
        return "".join(
            (
                f"<g><title>{html.escape(title)}</title>",
                # Shows the title wherever in the row the pointer is.
                f'<rect class="paper" y="{top_px}" width="{_WIDTH_PX}" height="{_ROW_PX}"'
                ' fill-opacity="0"/>',
                _text(_MARGIN_PX, top_px + 16, SIGNS[bar.status], css),
                _text(_MARGIN_PX + 16, top_px + 16, label, ""),
                drawn,
                _text(_WIDTH_PX - _MARGIN_PX, top_px + 16, bar.took, "end"),
                "</g>",
            )
        )


def _text(x_px: float, y_px: float, text: str, css: str) -> str:
    return f'<text class="{css}" x="{x_px:.1f}" y="{y_px:.1f}">{html.escape(text)}</text>'
