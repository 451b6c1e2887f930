"""The timeline of a run that goes on: its picture, its lines, and that nothing waits for it."""

from __future__ import annotations

import asyncio
import io
import re
import threading
from typing import Any

import pyte
import pytest

from stageflow import (
    Audio,
    Event,
    EventDispatcher,
    PipelineContext,
    PipelineOrchestrator,
    RunResult,
    subpipeline,
)
from stageflow.cli.live import LiveTimeline, can_draw
from stageflow.kernels import default_providers, streaming_voice
from stageflow.providers import speech_of_text
from stageflow.timeline import Moment, event_line, live_lines
from stageflow.timeline.model import columns
from tests.unit.timeline.test_timeline import event
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
    """Running bars grow up to now, waiting ones say so, each at its place on the axis."""
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
    """A stage that has not started by then never will."""
    over = Moment("turn", ["keep"], [event(1, "pipeline.failed", 5.0)], at_ms=5.0)
    assert live_lines(over, 20, 24) == ["t…: failed, 5.00 ms", "· keep -"]


def test_before_the_first_event_all_wait() -> None:
    """There is a picture from the start."""
    assert live_lines(Moment("turn", ["keep"]), 30, 24) == ["turn: waiting, 0 ms", "· keep waiting"]


@pytest.mark.parametrize("width", range(8, 100))
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    """At any width, a line stays below it, or the terminal would break it in two."""
    assert max(map(columns, live_lines(MOMENT, width, 24))) < width


def test_a_picture_in_colour() -> None:
    """Sign and bar have the colour of the status, whether there is a chart or not."""
    for width, height in ((47, 24), (30, 24), (47, 8)):
        plain = live_lines(MOMENT, width, height)
        painted = live_lines(MOMENT, width, height, color=True)
        assert [re.sub(r"\x1b\[\d+m", "", line) for line in painted] == plain
        assert "\x1b[36m…\x1b[0m speak" in painted[-3]
    assert "\x1b[36m        ██████ ┊\x1b[0m" in live_lines(MOMENT, 47, 24, color=True)[5]


def test_a_picture_that_is_too_high_is_cut_at_the_top() -> None:
    """Finished stages are dropped first, so that running ones stay visible."""
    whole = live_lines(MOMENT, 47, 24)
    assert live_lines(MOMENT, 47, 9) == whole
    assert live_lines(MOMENT, 47, 8) == [*whole[:2], "… 2 more", *whole[4:]]
    assert live_lines(MOMENT, 47, 4) == [*whole[:2], "… 4 more"]


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
        (event(1, "pipeline.completed", 2.0), "      2.0 ms  pipeline completed"),
        (
            event(1, "stage.a.failed", 1.0, "a", error_code="e", error_message="broken"),
            "      1.0 ms  a failed: e: broken",
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


async def shown(out: io.TextIOBase, *, drawn: bool) -> tuple[RunResult, EventDispatcher]:
    """A run of two stages that is shown on `out`; the dispatcher is still open."""
    graph = make_pipeline(make_spec("a"), make_spec("b", "a"), name="pair").build()
    context = PipelineContext()
    clock = asyncio.get_running_loop().time
    live = LiveTimeline(graph, context, out, clock=clock, drawn=drawn)  # type: ignore[arg-type]
    dispatcher = EventDispatcher([live])
    return await PipelineOrchestrator(graph, dispatcher=dispatcher).run(context), dispatcher


ESCAPE = re.compile(r"\x1b\[\d*([A-Za-z])")


def test_the_lines_of_a_run() -> None:
    """One for each event of the run, in order; a child's are the business of its parent."""
    out = io.StringIO()

    async def main() -> RunResult:
        child = subpipeline("outer", make_pipeline(make_spec("inner"), name="child"))
        context = PipelineContext()
        graph = make_pipeline(child, name="parent").build()
        clock = asyncio.get_running_loop().time
        live = LiveTimeline(graph, context, out, clock=clock, drawn=False)
        with EventDispatcher([live]) as dispatcher:
            return await PipelineOrchestrator(graph, dispatcher=dispatcher).run(context)

    result = asyncio.run(main())
    assert out.getvalue().splitlines() == [event_line(event) for event in result.events]


async def streamed(out: io.StringIO, *, drawn: bool, cancelled: bool = False) -> list[Event]:
    """A voice turn whose second sentence never stops sounding until it is cancelled; its events."""
    providers = default_providers(scale=0)
    speaker = Endless() if cancelled else providers["speaker"]
    providers.register("speaker", speaker)
    inputs = {"audio": speech_of_text("One. Two."), "user_id": "ada"}
    context = PipelineContext(inputs, providers=providers)
    graph = streaming_voice().build()
    clock = asyncio.get_running_loop().time
    live = LiveTimeline(graph, context, out, clock=clock, drawn=drawn)
    with EventDispatcher([live]) as dispatcher:
        run = asyncio.ensure_future(PipelineOrchestrator(graph, dispatcher=dispatcher).run(context))
        if cancelled:
            await speaker.plays.wait()
            run.cancel()
        await asyncio.wait([run])
    return list(context.get_events())


class Endless:
    """A speaker that never gets to the end of anything."""

    def __init__(self) -> None:
        self.plays = asyncio.Event()

    async def play(self, audio: Audio) -> None:
        self.plays.set()
        await asyncio.Event().wait()


def test_the_first_sound_is_marked_once() -> None:
    """At the line of the event that brought it, and at no other of the same moment."""
    out = io.StringIO()
    events = asyncio.run(streamed(out, drawn=False))
    marked = [n for n, line in enumerate(out.getvalue().splitlines()) if "♪ first sound" in line]
    assert [events[n].type for n in marked] == ["stage.tts.first_audio"]


def test_the_last_picture_of_a_run_that_was_cancelled_stays() -> None:
    """With all stages as they ended, the items of the streams, and the first sound."""
    out = io.StringIO()
    events = asyncio.run(streamed(out, drawn=True, cancelled=True))
    *_, last = re.split(r"\x1b\[\d+F|^", out.getvalue())
    lines = ESCAPE.sub("", last).splitlines()
    assert lines[0].startswith("streaming_voice: cancelled, ")
    assert float(lines[0].split()[2]) == pytest.approx(events[-1].offset_ms, abs=0.06)
    stages = [line for line in lines if "│" in line]
    assert [line.split()[:2] for line in stages] == [
        ["✓", "stt"],
        ["✓", "profile"],
        ["✓", "memory"],
        ["✓", "llm"],
        ["✓", "tts"],
        ["⊘", "speak"],
        ["·", "persist"],
    ]
    assert stages[3].endswith("sentences: 2")
    assert stages[4].endswith("sound: 2")
    assert lines[-1].startswith("♪ first sound after ")
    assert "\x1b[35m⊘\x1b[0m" in last
    assert last.endswith("\x1b[J")


def test_the_picture_of_a_run_that_ended_is_taken_away() -> None:
    """A terminal emulator shows nothing of it at the end."""
    out = io.StringIO()
    asyncio.run(streamed(out, drawn=True))
    assert "stt" in out.getvalue()
    screen = pyte.Screen(80, 24)
    pyte.Stream(screen).feed(out.getvalue().replace("\n", "\r\n"))
    assert "".join(screen.display).strip() == ""
    assert (screen.cursor.x, screen.cursor.y) == (0, 0)


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


def test_an_output_that_is_gone_is_not_an_error_of_the_sink() -> None:
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
