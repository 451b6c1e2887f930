"""A timeline for a page."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from stageflow.events import Event
from stageflow.timeline.model import NEVER_STARTED, Bar, Timeline, timeline
from stageflow.timeline.words import SIGNS, axis_unit, columns, fit, signs_of, ticks_ms

_WIDTH_PX = 900
_ROW_PX = 24
_BAR_PX = 14
_LINE_PX = 18
_TOP_PX = 68
_MARGIN_PX = 16
_TOOK_PX = 84
_CHAR_PX = 7.3
_MAX_LABEL_COLUMNS = 32
_MAX_NOTE_COLUMNS = 118

_STYLE = """\
svg { --paper: #ffffff; --ink: #1f2328; --faint: #59636e; --rule: #d1d9e0;
  --completed: #1a7f37; --failed: #cf222e; --skipped: #9a6700; --cancelled: #8250df;
  --running: #0969da; background: var(--paper);
  font: 12px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
@media (prefers-color-scheme: dark) {
  svg { --paper: #0d1117; --ink: #e6edf3; --faint: #9198a1; --rule: #30363d;
    --completed: #3fb950; --failed: #f85149; --skipped: #d29922; --cancelled: #ab7df8;
    --running: #58a6ff; } }
.paper { fill: var(--paper); }
text { fill: var(--ink); white-space: pre; }
.heading { font-size: 14px; font-weight: 600; }
.faint, .never-started { fill: var(--faint); }
.end { text-anchor: end; }
.middle { text-anchor: middle; }
.rule { stroke: var(--rule); }
.completed { fill: var(--completed); }
.failed { fill: var(--failed); }
.skipped { fill: var(--skipped); }
.cancelled { fill: var(--cancelled); }
.running { fill: var(--running); }
.aside { fill-opacity: 0.4; }
"""


def timeline_svg(events: Iterable[Event | Mapping[str, Any]]) -> str:
    """Draw a run as a self-contained SVG document, in the light or dark colours of its reader.

    Args:
        events: See `timeline`.

    Raises:
        InvalidEventsError: See `timeline`.
    """
    run = timeline(events)
    chart = _Chart(run)
    bottom_px = _TOP_PX + len(run.bars) * _ROW_PX
    foot = _foot(run)
    height_px = bottom_px + 24 + len(foot) * _LINE_PX
    heading = _escaped(run.heading)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH_PX} {height_px}"'
        f' width="{_WIDTH_PX}" height="{height_px}" role="img">',
        f"<title>{heading}</title>",
        f"<style>\n{_STYLE}</style>",
        f'<rect class="paper" width="{_WIDTH_PX}" height="{height_px}"/>',
        _text(_MARGIN_PX, 26, run.heading, "heading"),
        *chart.axis(bottom_px),
        *(chart.row(bar, _TOP_PX + number * _ROW_PX) for number, bar in enumerate(run.bars)),
        *(
            _text(_MARGIN_PX, bottom_px + 26 + number * _LINE_PX, line, "faint")
            for number, line in enumerate(foot)
        ),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


class _Chart:
    """Milliseconds to pixels."""

    def __init__(self, run: Timeline) -> None:
        longest = max((columns(bar.stage) for bar in run.bars), default=0)
        self._left_px = _MARGIN_PX + 28 + min(longest, _MAX_LABEL_COLUMNS) * _CHAR_PX
        self._span_px = _WIDTH_PX - _MARGIN_PX - _TOOK_PX - self._left_px
        self._total_ms = run.total_ms

    def x_px(self, at_ms: float) -> float:
        share = at_ms / self._total_ms if self._total_ms > 0 else 0.0
        return self._left_px + share * self._span_px

    def axis(self, bottom_px: int) -> Iterator[str]:
        """A rule and a label for each tick, and the unit above the durations."""
        unit, unit_ms = axis_unit(self._total_ms)
        for tick in ticks_ms(self._total_ms, int(self._span_px // 64)):
            x_px = self.x_px(tick)
            yield (
                f'<line class="rule" x1="{x_px:.1f}" y1="{_TOP_PX - 8}"'
                f' x2="{x_px:.1f}" y2="{bottom_px}"/>'
            )
            yield _text(x_px, _TOP_PX - 14, f"{tick / unit_ms:.6g}", "faint middle")
        yield _text(_WIDTH_PX - _MARGIN_PX, _TOP_PX - 14, unit, "faint end")

    def row(self, bar: Bar, top_px: int) -> str:
        """A stage: sign, name, bar, duration, and in its title all that is known."""
        css = bar.status.replace(" ", "-")
        return "".join(
            (
                f"<g><title>{_escaped(_title(bar))}</title>",
                # What a pointer rests on to see the title, wherever in the row.
                f'<rect class="paper" y="{top_px}" width="{_WIDTH_PX}" height="{_ROW_PX}"'
                ' fill-opacity="0"/>',
                _text(_MARGIN_PX, top_px + 16, SIGNS[bar.status], css),
                _text(
                    _MARGIN_PX + 16,
                    top_px + 16,
                    fit(bar.stage, min(columns(bar.stage), _MAX_LABEL_COLUMNS)),
                    "",
                ),
                self._bar(bar, top_px, css),
                _text(_WIDTH_PX - _MARGIN_PX, top_px + 16, bar.took, "end"),
                "</g>",
            )
        )

    def _bar(self, bar: Bar, top_px: int, css: str) -> str:
        if bar.status == NEVER_STARTED:
            return ""
        # Two pixels at least: a stage that took no time shows that it ran.
        width_px = max(self.x_px(bar.end_ms) - self.x_px(bar.start_ms), 2.0)
        aside = "" if bar.critical else " aside"
        return (
            f'<rect class="{css}{aside}" x="{self.x_px(bar.start_ms):.1f}"'
            f' y="{top_px + (_ROW_PX - _BAR_PX) // 2}" width="{width_px:.1f}"'
            f' height="{_BAR_PX}" rx="2"/>'
        )


def _title(bar: Bar) -> str:
    if bar.status == NEVER_STARTED:
        said = f"{bar.stage}: {bar.status}"
    else:
        waited = "the run waited for it" if bar.critical else "it overlapped"
        said = f"{bar.stage}: {bar.status}, {bar.took} from {bar.start_ms:.2f} ms, {waited}"
    return f"{said}\n{bar.note}" if bar.note else said


def _foot(run: Timeline) -> list[str]:
    """The lines below the chart: the legend, and why the run failed."""
    signs = signs_of({bar.status for bar in run.bars})
    legend = "   ".join([*signs, "full colour: the run waited for it"] if signs else [])
    failure = fit(f"{SIGNS['failed']} {run.note}", _MAX_NOTE_COLUMNS).rstrip() if run.note else ""
    return [line for line in (legend, failure) if line]


def _text(x_px: float, y_px: float, text: str, css: str) -> str:
    return f'<text class="{css}" x="{x_px:.1f}" y="{y_px:.1f}">{_escaped(text)}</text>'


def _escaped(text: str) -> str:
    return html.escape(text)
