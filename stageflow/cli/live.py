"""``--live``: draw the timeline of a run while it goes on.

A thread reads the run's log ten times a second, so a slow terminal does not delay the run. A frame
is one write that moves up over the last frame and ends at the start of the line below it. No mode
of the terminal changes, so nothing has to be restored, even if the program is killed.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TextIO

from stageflow.engine import PipelineContext, StageGraph, Stream
from stageflow.events import log as ev
from stageflow.events.log import Event, EventBatch, EventLog
from stageflow.kernels.streaming_voice import first_audio_ms
from stageflow.timeline import Moment, event_line, live_lines

_REFRESH_S = 0.1
_ENDS = frozenset({ev.RUN_COMPLETED, ev.RUN_FAILED, ev.RUN_CANCELLED})
_UP, _ERASE_LINE, _ERASE_BELOW = "\x1b[{}F", "\x1b[K", "\x1b[J"


def can_draw(out: TextIO, color: bool) -> bool:
    """Return whether a chart can be redrawn on `out`; otherwise print lines."""
    return color and out.isatty() and os.environ.get("TERM") != "dumb"


@dataclass(eq=False)
class LiveTimeline:
    """A sink that shows one run on `out`: as a chart if `drawn`, else as lines.

    It ignores a closed output, which the result's printer reports. The clock is that of the event
    loop, in seconds.
    """

    graph: StageGraph
    context: PipelineContext
    out: TextIO
    clock: Callable[[], float] = field(kw_only=True)
    drawn: bool = field(kw_only=True)

    def __post_init__(self) -> None:
        self._show = self._draw if self.drawn else self._list
        self._log: EventLog | None = None
        self._events: list[Event] = []
        self._first_sound_ms: float | None = None
        self._drawn_lines = 0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stageflow-live", daemon=True)
        self._thread.start()

    def write(self, events: Sequence[Event]) -> None:
        """Find the log of the run: the first events are its own, not those of a child run."""
        if self._log is None and isinstance(events, EventBatch):
            self._log = events.entries[0][0]

    def close(self) -> None:
        """Show the last state and stop."""
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self._closing.wait(_REFRESH_S):
                self._look()
            self._look()
            # The frame makes room for the result; a cancelled run has none.
            if self._drawn_lines and self._events[-1].type != ev.RUN_CANCELLED:
                self.out.write(self._over(""))
                self.out.flush()
        except (OSError, ValueError):  # the output is closed
            return

    def _look(self) -> None:
        if self._log is None:
            return
        since = len(self._events)
        self._events += [self._log.event_at(n) for n in range(since, len(self._log))]
        if self._first_sound_ms is None:
            self._first_sound_ms = first_audio_ms(self._events)
        self._show(self._log, since)

    def _list(self, log: EventLog, since: int) -> None:
        for event in self._events[since:]:
            sounds = event.offset_ms == self._first_sound_ms == first_audio_ms([event])
            self.out.write(f"{event_line(event)}{'  ♪ first sound' if sounds else ''}\n")
        self.out.flush()

    def _draw(self, log: EventLog, since: int) -> None:
        width, height = shutil.get_terminal_size()
        ended = self._events[-1].type in _ENDS
        now_ms = (self.clock() - log.started_at) * 1000.0
        notes = {}
        for spec in self.graph.specs:
            found = [self.context.bag.get(key) for key in spec.streams]
            items = (f"{s.key}: {s.count}" for s in found if isinstance(s, Stream))
            notes[spec.name] = ", ".join(items)
        moment = Moment(
            self.graph.name,
            self.graph.topological_order(),
            self._events,
            at_ms=self._events[-1].offset_ms if ended else now_ms,
            notes=notes,
            first_sound_ms=self._first_sound_ms,
        )
        lines = live_lines(moment, width, height, color=True)
        self.out.write(self._over("".join(f"{line}{_ERASE_LINE}\n" for line in lines)))
        self.out.flush()
        self._drawn_lines = len(lines)

    def _over(self, text: str) -> str:
        """Return the text that replaces the last frame by `text`."""
        up = _UP.format(self._drawn_lines) if self._drawn_lines else ""
        return f"{up}{text}{_ERASE_BELOW}"
