"""The timeline of a run that goes on: its picture, its lines, and that nothing waits for it."""

from __future__ import annotations

import asyncio
import io
import threading
from typing import Any

import pytest

from stageflow import PipelineContext, PipelineOrchestrator, RunResult
from stageflow.cli.live import LiveTimeline, can_draw
from stageflow.dispatch import EventDispatcher
from stageflow.timeline import Moment, event_line, live_lines
from stageflow.timeline.words import columns
from tests.unit.test_timeline import event
from tests.utils.factories import make_pipeline, make_spec

EVENTS = [
    event(1, "pipeline.started", 0.0, pipeline="turn"),
    event(2, "stage.hear.started", 0.0, "hear"),
    event(3, "stage.hear.completed", 100.0, "hear", duration_ms=100.0),
    event(4, "stage.look.started", 100.0, "look"),
    event(5, "stage.think.started", 100.0, "think"),
    event(6, "stage.look.failed", 150.0, "look", duration_ms=50.0, error_code="rate_limited"),
    event(7, "stage.speak.started", 200.0, "speak"),
]
MOMENT = Moment(
    "turn",
    ["hear", "look", "think", "speak", "keep"],
    EVENTS,
    at_ms=350.0,
    notes={"think": "words: 12"},
    first_sound_ms=240.4,
)


def test_the_picture_of_a_moment() -> None:
    """What runs grows up to now, what waits is told to wait, each at its place on the axis."""
    # 46 columns, less 5 for names, 9 for times, 9 for notes, 7 for signs and rules: 16 for 400 ms.
    assert live_lines(MOMENT, 47, 24) == [
        "turn: running, 350.0 ms",
        "         0       200  400  ms",
        "✓ hear  │████    ┊      ┊│  100.0 ms ",
        "✗ look  │    ██  ┊      ┊│   50.0 ms ",
        "… think │    ██████████ ┊│  250.0 ms words: 12",
        "… speak │        ██████ ┊│  150.0 ms ",
        "· keep  │        ┊      ┊│   waiting ",
        "♪ first sound after 240 ms",
    ]


def test_a_run_that_has_ended_leaves_nothing_waiting() -> None:
    """What has not started by then never will."""
    over = Moment("turn", ["keep"], [event(1, "pipeline.failed", 5.0)], at_ms=5.0)
    assert live_lines(over, 20, 24) == ["turn: fai…, 5.00 ms", "· keep -"]


def test_before_the_first_event_all_wait() -> None:
    """There is a picture from the start."""
    assert live_lines(Moment("turn", ["keep"]), 30, 24) == ["turn: waiting, 0 ms", "· keep waiting"]


@pytest.mark.parametrize("width", range(8, 100))
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    """Whatever the width, a line stays below it, or the terminal would break it in two."""
    assert max(map(columns, live_lines(MOMENT, width, 24))) < width


@pytest.mark.parametrize("height", range(2, 12))
def test_no_frame_is_higher_than_the_terminal(height: int) -> None:
    """The line below it, where the cursor stands, is counted."""
    assert len(live_lines(MOMENT, 80, height)) < height


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (EVENTS[0], "      0.0 ms  turn started"),
        (EVENTS[2], "    100.0 ms  hear completed in 100.0 ms"),
        (EVENTS[5], "    150.0 ms  look failed in 50.0 ms: rate_limited"),
        (event(1, "stage.a.stream_opened", 1.0, "a", stream="s"), "      1.0 ms  a opens s"),
        (
            event(1, "stage.a.stream_closed", 1.0, "a", stream="s", items=3),
            "      1.0 ms  a closes s, 3 items",
        ),
        (
            event(1, "stage.a.skipped", 1.0, "a", reason="none\x1b[2J"),
            "      1.0 ms  a skipped: none�[2J",
        ),
    ],
)
def test_an_event_as_a_line(given: Any, line: str) -> None:
    """When, who, what, and why; nothing in it moves the cursor."""
    assert event_line(given) == line


# ── beside a run ────────────────────────────────────────────────────────────────────────────


async def shown(out: io.TextIOBase, *, drawn: bool) -> tuple[RunResult, EventDispatcher]:
    """A run of two stages that is shown on `out`; the dispatcher is still open."""
    graph = make_pipeline(make_spec("a"), make_spec("b", "a"), name="pair").build()
    context = PipelineContext()
    clock = asyncio.get_running_loop().time
    live = LiveTimeline(graph, context, out, clock=clock, drawn=drawn)  # type: ignore[arg-type]
    dispatcher = EventDispatcher([live])
    return await PipelineOrchestrator(graph, dispatcher=dispatcher).run(context), dispatcher


class Stuck(io.StringIO):
    """A terminal that takes nothing until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.free = threading.Event(), threading.Event()

    def write(self, text: str) -> int:
        self.asked.set()
        assert self.free.wait(60), "nobody let it go"
        return super().write(text)


@pytest.mark.parametrize("drawn", [True, False])
def test_a_run_does_not_wait_for_a_terminal_that_takes_nothing(drawn: bool) -> None:
    """Runs begin and complete while a write stands still."""
    out = Stuck()

    async def main() -> None:
        _, dispatcher = await shown(out, drawn=drawn)
        await asyncio.to_thread(out.asked.wait)
        result, other = await shown(io.StringIO(), drawn=drawn)
        assert result.status == "completed"
        other.close()
        assert out.getvalue() == ""
        out.free.set()
        dispatcher.close()

    asyncio.run(main())
    assert "pair" in out.getvalue()


class Gone(io.StringIO):
    """A pipe of which nobody reads the other end."""

    def write(self, text: str) -> int:
        raise BrokenPipeError


def test_an_output_that_is_gone_is_no_error_of_the_sink() -> None:
    """No thread ends by an exception, no event counts as lost, and the run completes."""

    async def main() -> None:
        result, dispatcher = await shown(Gone(), drawn=True)
        dispatcher.close()
        assert result.status == "completed"
        (stats,) = dispatcher.stats()
        assert (stats.dropped, stats.failed) == (0, 0)

    asyncio.run(main())


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_where_a_chart_can_be_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal that knows escapes, for somebody who wants them."""
    monkeypatch.setenv("TERM", "xterm")
    assert can_draw(Tty(), color=True)
    assert not can_draw(Tty(), color=False)
    assert not can_draw(io.StringIO(), color=True)
    monkeypatch.setenv("TERM", "dumb")
    assert not can_draw(Tty(), color=True)
