"""The timeline: a chart of a run, from each of its sources."""

from __future__ import annotations

import itertools
import json
import math
import re
import xml.etree.ElementTree as ET
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stageflow import Event, PipelineContext, RunResult
from stageflow._utils.text import printable
from stageflow.timeline import (
    InvalidEventsError,
    read_events,
    timeline,
    timeline_svg,
    timeline_text,
)
from stageflow.timeline.model import columns, fit, format_ms, ticks_ms
from tests.utils.factories import make_pipeline, make_spec
from tests.utils.virtual_time import run_virtual

SVG = "{http://www.w3.org/2000/svg}"


def event(sequence: int, kind: str, at_ms: float, stage: str | None = None, **data: Any) -> Event:
    moment = datetime(2024, 1, 1, tzinfo=UTC)
    return Event(sequence, kind, moment, "run-1", at_ms, stage, data)


def events_of_stages(*bars: tuple[str, float, float]) -> list[Event]:
    """A completed run of stages, each given by name, start and end in ms."""
    moments = [(start, 1, name, "started") for name, start, _ in bars]
    moments += [(end, 0 if end > start else 2, name, "completed") for name, start, end in bars]
    total_ms = max((end for *_, end in bars), default=0.0)
    events = [event(1, "pipeline.started", 0.0, pipeline="p")]
    for number, (at_ms, _, name, what) in enumerate(sorted(moments), start=2):
        events.append(event(number, f"stage.{name}.{what}", at_ms, name))
    return [*events, event(len(events) + 1, "pipeline.completed", total_ms)]


def mixed_run() -> RunResult:
    """A run with a stage for each way to end; times are virtual and exact."""
    pipeline = make_pipeline(
        make_spec("first", pauses_s=(0.12,)),
        make_spec("optional", "first", pauses_s=(0.05,), ending="raise", required=False),
        make_spec("skipper", "first", pauses_s=(0.02,), ending="skip"),
        make_spec("boom", "skipper", pauses_s=(0.11,), ending="raise"),
        make_spec("after", "boom"),
        make_spec("slow", pauses_s=(9.0,)),
        name="mixed",
    )
    return run_virtual(pipeline.run)


def svg_of(events: Any) -> ET.Element:
    return ET.fromstring(timeline_svg(events))


def rows_of(chart: str) -> list[str]:
    """The lines of a text chart that show a stage."""
    return [line for line in chart.splitlines() if line.count("│") == 2]


def test_bars_tell_how_each_stage_went() -> None:
    """Status, start, end and order are those of the run; a stage never started stands last."""
    run = timeline(mixed_run().events)
    assert (run.pipeline, run.status) == ("mixed", "failed")
    assert run.total_ms == pytest.approx(250)
    found = [(b.stage, b.status, round(b.start_ms, 6), round(b.end_ms, 6)) for b in run.bars]
    assert found == [
        ("first", "completed", 0, 120),
        ("slow", "cancelled", 0, 250),
        ("optional", "failed", 120, 170),
        ("skipper", "skipped", 120, 140),
        ("boom", "failed", 140, 250),
        ("after", "never started", 250, 250),
    ]


def test_critical_stages_lead_to_the_failure() -> None:
    """In a failed run, the critical stages are those that led to the stage that failed it."""
    run = timeline(mixed_run().events)
    assert [bar.stage for bar in run.bars if bar.critical] == ["first", "skipper", "boom"]


@pytest.mark.simulate(order="asyncio")
async def test_critical_stages_are_the_longest_way() -> None:
    """In a completed run, the critical stages are those of the graph's heaviest path."""
    pipeline = make_pipeline(
        make_spec("a", pauses_s=(0.1,)),
        make_spec("b", "a", pauses_s=(0.3,)),
        make_spec("c", "a", pauses_s=(0.2,)),
        make_spec("d", "b", "c", pauses_s=(0.05,)),
        make_spec("aside", pauses_s=(0.4,)),
    )
    result = await pipeline.run()
    weights = {name: stage.duration_ms for name, stage in result.stages.items()}
    heaviest = pipeline.build().critical_path(weights)
    critical = tuple(bar.stage for bar in timeline(result.events).bars if bar.critical)
    assert critical == heaviest.stages == ("a", "b", "d")


async def test_run_of_no_time_keeps_its_order() -> None:
    """Where every stage takes 0 ms, order and critical stages come from the events' numbers."""
    events = events_of_stages(("c", 0.0, 0.0), ("a", 0.0, 0.0))
    assert [bar.stage for bar in timeline(events).bars] == ["a", "c"]
    result = await make_pipeline(make_spec("x"), make_spec("y", "x"), make_spec("z", "y")).run()
    flat = [event(e.sequence, e.type, 0.0, e.stage, **e.data) for e in result.events]
    assert [(bar.stage, bar.critical) for bar in timeline(flat).bars] == [
        ("x", True),
        ("y", True),
        ("z", True),
    ]


def test_run_in_progress() -> None:
    """A stage that has not ended runs up to the last event, and so does the run."""
    events = events_of_stages(("a", 0.0, 10.0), ("b", 10.0, 30.0))[:-2]
    run = timeline([*events, event(9, "stage.c.started", 25.0, "c")])
    assert run.status == "running"
    assert [(b.stage, b.status, b.end_ms) for b in run.bars] == [
        ("a", "completed", 10),
        ("b", "running", 25),
        ("c", "running", 25),
    ]


def test_unknown_events_are_passed_over() -> None:
    """Events of other kinds, of stages and of the run, change nothing but the length."""
    known = events_of_stages(("a", 0.0, 10.0))
    extra = [event(20, "stage.a.retrying", 5.0, "a"), event(21, "breaker.opened", 6.0)]
    assert timeline([*known, *extra]) == timeline(known)


def test_reasons_are_kept() -> None:
    """Error codes, messages and reasons of stages, and the run's failure, are kept."""
    run = timeline(mixed_run().events)
    notes = {bar.stage: bar.note for bar in run.bars}
    assert notes["first"] == ""
    assert notes["skipper"] == "as its script says"
    assert notes["boom"].startswith("stage_raised: ScriptedError")
    assert notes["slow"] == notes["after"] == "stage 'boom' failed"
    assert run.note == f"boom: {notes['boom']}"


@pytest.mark.simulate(order="asyncio")
async def test_deadline_is_named() -> None:
    """A run that failed without a failed stage says why in its note, text and drawing."""
    pipeline = make_pipeline(make_spec("slow", pauses_s=(9.0,)))
    result = await pipeline.run(PipelineContext(deadline_s=0.5))
    assert timeline(result.events).note.startswith("deadline_exceeded: ")
    assert "✗ deadline_exceeded: " in timeline_text(result.events)
    assert "✗ deadline_exceeded: " in "".join(svg_of(result.events).itertext())


def test_json_lines_draw_the_same() -> None:
    """Events that went through JSON, in any order, draw the same chart."""
    events = mixed_run().events
    lines = [json.dumps(e.to_dict()) for e in events]
    rows = read_events(["", *reversed(lines), "  \n"])
    assert timeline(rows) == timeline(events)


@pytest.mark.parametrize(
    ("line", "message"), [("{", "line 2 is not JSON"), ("[1]", "line 2 is not a JSON object")]
)
def test_bad_lines_are_named(line: str, message: str) -> None:
    """A line that is not a JSON object is refused with its number."""
    with pytest.raises(InvalidEventsError, match=message):
        read_events(["{}", line])


GOOD = event(1, "pipeline.started", 0.0).to_dict()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no events to draw"),
        ([GOOD, {**GOOD, "pipeline_run_id": "run-2"}], r"2 runs \(run-1, run-2\)"),
        ([{key: GOOD[key] for key in GOOD if key != "offset_ms"}], "lacks 'offset_ms'"),
        ([{**GOOD, "sequence": "first"}], "is not valid: invalid literal"),
        ([{**GOOD, "data": 7}], "is not valid: "),
        ([{**GOOD, "offset_ms": math.nan}], "offset nan ms"),
    ],
)
def test_bad_events_are_refused(rows: list[dict[str, Any]], message: str) -> None:
    """The error says why they are not the events of one run."""
    with pytest.raises(InvalidEventsError, match=message):
        timeline(rows)


def test_text_chart_to_the_letter() -> None:
    """A small chart is drawn to the letter: heading, axis, bars to scale, legend."""
    events = events_of_stages(("stt", 0.0, 20.0), ("look", 0.0, 10.0), ("llm", 20.0, 40.0))
    # 49 columns less 4 for names, 7 for durations and 6 between: 32 columns for 40 ms.
    assert timeline_text(events, width=49).splitlines() == [
        "p: completed in 40.0 ms, 3 stages",
        "        0       10      20      30    40  ms",
        "✓ look │▒▒▒▒▒▒▒▒┊       ┊       ┊      ┊│ 10.0 ms",
        "✓ stt  │████████████████┊       ┊      ┊│ 20.0 ms",
        "✓ llm  │        ┊       ████████████████│ 20.0 ms",
        "✓ completed   █ the run waited for it",
        "▒ it overlapped",
    ]


@pytest.mark.parametrize("total_ms", [0.00035, 0.7, 9_999.0, 8e9])
@pytest.mark.parametrize("width", [48, 80])
def test_labels_of_the_axis_keep_apart(total_ms: float, width: int) -> None:
    """However long its numbers, no label of the axis runs into the next."""
    axis = timeline_text(events_of_stages(("a", 0.0, total_ms)), width).splitlines()[1]
    *labels, _unit = axis.split()
    numbers = [float(label) for label in labels]
    assert numbers == sorted(set(numbers))
    assert numbers[-1] <= total_ms
    assert len(numbers) >= 2


def test_text_shows_every_status_by_its_sign() -> None:
    """Each way to end has a sign of its own, explained below, with the reasons."""
    chart = timeline_text(mixed_run().events)
    signs = {row.split()[1]: row[0] for row in rows_of(chart)}
    assert signs == {
        "first": "✓",
        "slow": "⊘",
        "optional": "✗",
        "skipper": "↷",
        "boom": "✗",
        "after": "·",
    }
    for meaning in ("✓ completed", "✗ failed", "↷ skipped", "⊘ cancelled", "· never started"):
        assert meaning in chart
    assert chart.count("boom raises as its script says") == 1
    assert "↷ skipper: as its script says" in chart
    assert "⊘ slow:" not in chart


def test_stage_that_never_started_has_no_bar() -> None:
    """A stage that never started has neither a bar nor a duration."""
    row = rows_of(timeline_text(mixed_run().events))[-1]
    assert row.startswith("· after")
    assert not set("█▒") & set(row)
    assert row.endswith(" -")


def test_colour_only_if_asked() -> None:
    """There is no escape without colour; with it, the same chart, each status in its own."""
    events = mixed_run().events
    plain = timeline_text(events)
    coloured = timeline_text(events, color=True)
    assert "\x1b" not in plain
    assert re.sub(r"\x1b\[\d+m", "", coloured) == plain
    assert len(set(re.findall(r"\x1b\[(\d+)m(?=[✓✗↷⊘·])", coloured))) == 5


@pytest.mark.parametrize("count", [1, 2, 10, 100])
@pytest.mark.parametrize("width", [0, 48, 80, 200])
def test_lines_fit_the_width(count: int, width: int) -> None:
    """For any number of stages, no line is wider than requested, and all bars line up."""
    events = events_of_stages(*((f"stage_{n}" * (n % 5 + 1), n, 3.0 * n) for n in range(count)))
    chart = timeline_text(events, width)
    assert max(map(columns, chart.splitlines())) <= max(width, 48)
    rows = rows_of(chart)
    assert len(rows) == count
    assert len({(row.index("│"), row.rindex("│")) for row in rows}) == 1
    assert all(set("█▒") & set(row) for row in rows)


def test_wide_characters_line_up() -> None:
    """Names that take two columns a character, or none, leave the chart in line."""
    events = events_of_stages(("日本語", 0.0, 10.0), ("abc", 0.0, 10.0), ("cafe\u0301", 0.0, 10.0))
    starts = {columns(row[: row.index("│")]) for row in rows_of(timeline_text(events))}
    assert starts == {2 + 6 + 1}


def test_control_characters_are_disarmed() -> None:
    """Names and messages cannot move the cursor, nor make the drawing invalid."""
    events = events_of_stages(("a", 0.0, 10.0))
    events[2] = event(
        3, "stage.a.failed", 10.0, "a", error_code="x", error_message="\x1b[2J\nend\0"
    )
    assert "\x1b" not in timeline_text(events)
    assert "x: \N{REPLACEMENT CHARACTER}[2J end\N{REPLACEMENT CHARACTER}" in timeline_text(events)
    assert "[2J end" in "".join(svg_of(events).itertext())


def test_no_stage_at_all() -> None:
    """A run without stages is drawn as such."""
    events = events_of_stages()
    assert timeline_text(events).startswith("p: completed in 0 ms, 0 stages\n")
    assert not svg_of(events).findall(f"{SVG}g")


def bars_of(svg: ET.Element) -> dict[str, ET.Element]:
    """The bars of a drawing by the first word of their title."""
    found: dict[str, ET.Element] = {}
    for group in svg.findall(f"{SVG}g"):
        title = group.findtext(f"{SVG}title") or ""
        bars = [r for r in group.findall(f"{SVG}rect") if r.get("class") != "paper"]
        found.update((title.partition(":")[0], bar) for bar in bars)
    return found


def test_svg_bars_are_to_scale() -> None:
    """Bars begin and end where their times are, on one scale."""
    events = events_of_stages(("a", 0.0, 100.0), ("b", 100.0, 400.0), ("c", 0.0, 50.0))
    bars = bars_of(svg_of(events))
    x = {name: float(bar.get("x", "")) for name, bar in bars.items()}
    width = {name: float(bar.get("width", "")) for name, bar in bars.items()}
    assert x["a"] == x["c"]
    assert x["b"] == pytest.approx(x["a"] + width["a"], abs=0.2)
    assert width["b"] == pytest.approx(3 * width["a"], abs=0.2)
    assert width["c"] == pytest.approx(width["a"] / 2, abs=0.2)
    assert {name for name, bar in bars.items() if "aside" not in str(bar.get("class"))} == {
        "a",
        "b",
    }


def test_svg_shows_status_by_sign_and_colour() -> None:
    """A row has its status's sign and class, a full title, and no bar if it never ran."""
    svg = svg_of(mixed_run().events)
    bars = bars_of(svg)
    css = {name: str(bar.get("class")).split()[0] for name, bar in bars.items()}
    assert css == {
        "first": "completed",
        "slow": "cancelled",
        "optional": "failed",
        "skipper": "skipped",
        "boom": "failed",
    }
    titles = [group.findtext(f"{SVG}title") or "" for group in svg.findall(f"{SVG}g")]
    assert titles[0] == "first: completed, 120.0 ms from 0.00 ms, the run waited for it"
    assert titles[1].startswith("slow: cancelled, 250.0 ms from 0.00 ms, it overlapped\n")
    assert titles[-1] == "after: never started\nstage 'boom' failed"
    signs = [group.findtext(f"{SVG}text") for group in svg.findall(f"{SVG}g")]
    assert signs == ["✓", "⊘", "✗", "↷", "✗", "·"]


def test_svg_is_self_contained_and_themed() -> None:
    """The drawing loads nothing, and has colours for dark readers."""
    document = timeline_svg(mixed_run().events)
    assert re.findall(r"(?:https?:)?//[^\"\s]+", document) == ["http://www.w3.org/2000/svg"]
    assert not re.search(r"url\(|@import|<script|href", document)
    assert "@media (prefers-color-scheme: dark)" in document


def test_svg_escapes() -> None:
    """Names and reasons that look like markup are shown, not obeyed."""
    events = events_of_stages(("<b>&\"'", 0.0, 10.0))
    events[0] = event(1, "pipeline.started", 0.0, pipeline="<script>")
    svg = svg_of(events)
    assert not svg.findall(f".//{SVG}script")
    assert "<script>: completed" in "".join(svg.itertext())
    assert "<b>&\"'" in [text.text for text in svg.iter(f"{SVG}text")]


@pytest.mark.parametrize("count", [1, 100])
def test_svg_has_a_row_for_each_stage(count: int) -> None:
    """All rows lie within the drawing, none upon another, and even a stage of 0 ms is seen."""
    svg = svg_of(events_of_stages(*((f"s{n}", 0.0, 0.0) for n in range(count))))
    bars = bars_of(svg).values()
    tops = sorted(float(bar.get("y", "")) for bar in bars)
    assert len(tops) == count
    assert all(below - above >= 14 for above, below in itertools.pairwise(tops))
    assert tops[-1] + 14 < float(svg.get("height", ""))
    assert all(float(bar.get("width", "")) >= 2 for bar in bars)


@given(total_ms=st.floats(min_value=1e-3, max_value=1e9), most=st.integers(0, 20))
def test_ticks_are_round_and_few(total_ms: float, most: int) -> None:
    """Ticks begin at 0, stay within the axis, are at most so many, and 1, 2 or 5 times 10^n."""
    ticks = ticks_ms(total_ms, most)
    assert ticks[0] == 0
    assert ticks[-1] <= total_ms * (1 + 1e-6)
    assert len(ticks) - 1 <= max(most, 1)
    if len(ticks) > 1:
        mantissa = f"{ticks[1]:e}".partition("e")[0]
        assert float(mantissa) in {1, 2, 5}


def test_last_tick_survives_rounding() -> None:
    """A tick that falls on the end of the axis is there, whatever floats make of it."""
    assert ticks_ms(0.3, 3) == pytest.approx([0, 0.1, 0.2, 0.3])


@pytest.mark.parametrize(
    ("duration_ms", "text"),
    [
        (0, "0 ms"),
        (0.4, "0.40 ms"),
        (12.34, "12.3 ms"),
        (9_999.9, "9999.9 ms"),
        (10_000, "10.0 s"),
        (3_600_000, "3600.0 s"),
    ],
)
def test_durations_can_be_read(duration_ms: float, text: str) -> None:
    """Durations have a unit, and as many digits as can be read."""
    assert format_ms(duration_ms) == text


def test_long_runs_have_an_axis_in_seconds() -> None:
    """From ten seconds on, the axis of both charts counts seconds."""
    events = events_of_stages(("a", 0.0, 60_000.0))
    axis = timeline_text(events).splitlines()[1].split()
    assert (axis[0], axis[-2:]) == ("0", ["60", "s"])
    labels = [text.text for text in svg_of(events).iter(f"{SVG}text")]
    assert {"s", "60"} <= set(labels)
    assert "ms" not in labels


@given(st.text(), st.integers(1, 20))
def test_fit_fills_the_columns(text: str, width: int) -> None:
    """Any text is brought to exactly this number of columns."""
    assert columns(fit(printable(text), width)) == width


def test_fit_keeps_both_ends() -> None:
    """A name that is too long keeps its beginning and its end."""
    assert fit("abcdefghij", 5) == "ab…ij"
    assert fit("abc", 5) == "abc  "
