"""``--live``: a run's timeline while it goes on.

Nothing of it is on the way of an event. The run appends to its log, as it always does; a thread
looks at that ten times a second, and whatever the terminal does, or does not do, the turn goes on.

The terminal is left as it is: no cursor is hidden, no mode changed, no screen switched. A frame is
one write, which goes up over the last frame and ends at the beginning of the line below its own.
So there is nothing to bring back, not even for a program that is killed.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Sequence
from typing import TextIO

from stageflow.context import PipelineContext
from stageflow.events import RUN_CANCELLED, RUN_COMPLETED, RUN_FAILED, Event, EventBatch, EventLog
from stageflow.graph import StageGraph
from stageflow.kernels.streaming_voice import first_audio_ms
from stageflow.stream import Stream
from stageflow.timeline import Moment, event_line, live_lines

#: How long a picture stands, in seconds.
_REFRESH_S = 0.1

_ENDS = frozenset({RUN_COMPLETED, RUN_FAILED, RUN_CANCELLED})

_UP, _ERASE_LINE, _ERASE_BELOW = "\x1b[{}F", "\x1b[K", "\x1b[J"


def can_draw(out: TextIO, color: bool) -> bool:
    """Whether a chart can be drawn over and over on `out`; if not, lines are what is left.

    Args:
        out: Where to.
        color: Whether escapes for colours are wanted; who wants none, wants no others either.
    """
    return color and out.isatty() and os.environ.get("TERM") != "dumb"


class LiveTimeline:
    """Shows one run; a sink that is given the run's events.

    It never raises for an output that has gone away: whoever prints the result will meet that.
    """

    def __init__(
        self,
        graph: StageGraph,
        context: PipelineContext,
        out: TextIO,
        *,
        clock: Callable[[], float],
        drawn: bool,
    ) -> None:
        """Begin to show what will be run.

        Args:
            graph: What is run.
            context: What it is run in.
            out: Where it is shown.
            clock: The clock of the loop that runs it, in seconds.
            drawn: Whether as a chart; else as lines.
        """
        self._graph = graph
        self._context = context
        self._out = out
        self._clock = clock
        self._show = self._draw if drawn else self._list
        self._log: EventLog | None = None
        self._events: list[Event] = []
        self._first_sound_ms: float | None = None
        self._drawn_lines = 0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stageflow-live", daemon=True)
        self._thread.start()

    def write(self, events: Sequence[Event]) -> None:
        """Take note of whose events they are: the first are those of the run, not of a child's."""
        if self._log is None and isinstance(events, EventBatch):
            self._log = events.entries[0][0]

    def close(self) -> None:
        """Show what is left to show, and no more."""
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self._closing.wait(_REFRESH_S):
                self._look()
            self._look()
            self._end()
        except (OSError, ValueError):  # it is gone, or has been closed
            return

    def _look(self) -> None:
        """Show what has happened since the last look."""
        if self._log is None:
            return
        since = len(self._events)
        self._events += [self._log.event_at(n) for n in range(since, len(self._log))]
        if self._first_sound_ms is None:
            self._first_sound_ms = first_audio_ms(self._events)
        self._show(self._log, since)

    # ── lines ───────────────────────────────────────────────────────────────────────────────

    def _list(self, log: EventLog, since: int) -> None:
        for event in self._events[since:]:
            sounds = event.offset_ms == self._first_sound_ms == first_audio_ms([event])
            self._out.write(f"{event_line(event)}{'  ♪ first sound' if sounds else ''}\n")
        self._out.flush()

    # ── a chart ─────────────────────────────────────────────────────────────────────────────

    def _draw(self, log: EventLog, since: int) -> None:
        width, height = shutil.get_terminal_size()
        lines = live_lines(self._moment(log), width, height, color=True)
        self._out.write(self._over("".join(f"{line}{_ERASE_LINE}\n" for line in lines)))
        self._out.flush()
        self._drawn_lines = len(lines)

    def _over(self, text: str) -> str:
        """What writes `text` in the place of the frame that stands there."""
        up = _UP.format(self._drawn_lines) if self._drawn_lines else ""
        return f"{up}{text}{_ERASE_BELOW}"

    def _moment(self, log: EventLog) -> Moment:
        ended = self._events[-1].type in _ENDS
        now_ms = (self._clock() - log.started_at) * 1000.0
        return Moment(
            self._graph.name,
            self._graph.topological_order(),
            self._events,
            at_ms=self._events[-1].offset_ms if ended else now_ms,
            notes={spec.name: self._items(spec.streams) for spec in self._graph.specs},
            first_sound_ms=self._first_sound_ms,
        )

    def _items(self, keys: Sequence[str]) -> str:
        """How many items each of these streams has had so far."""
        found = [self._context.bag.get(key) for key in keys]
        return ", ".join(f"{s.key}: {s.count}" for s in found if isinstance(s, Stream))

    def _end(self) -> None:
        """Leave the place to the result; a run that was cancelled has none, and its frame stays."""
        if self._drawn_lines and self._events[-1].type != RUN_CANCELLED:
            self._out.write(self._over(""))
            self._out.flush()
