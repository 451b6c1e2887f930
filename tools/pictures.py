"""Draw the pictures of docs/images that no screenshot of Central Pulse is.

The graph of the kernel for streaming voice, a report of the gate, and the page of a simulation that
failed. Each is drawn for light and dark.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import html
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from stageflow.engine import StageGraph
from stageflow.kernels import streaming_voice
from stageflow.pulse.gate import Evidence, Report
from stageflow.testing import simulation
from tests.utils import gate
from tests.utils.asv_repo import ROOT
from tests.utils.browser import started

_STYLE = """\
svg { --paper: #ffffff; --ink: #1f2328; --faint: #59636e; --rule: #d1d9e0; --stream: #0969da;
  background: var(--paper);
  font: 13px ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
@media (prefers-color-scheme: dark) {
  svg { --paper: #0d1117; --ink: #e6edf3; --faint: #9198a1; --rule: #30363d; --stream: #58a6ff; } }
.paper { fill: var(--paper); } text { fill: var(--ink); white-space: pre; }
.box { fill: var(--paper); stroke: var(--faint); } .faint { fill: var(--faint); }
.wait, .stream { fill: none; stroke: var(--faint); }
.stream { stroke: var(--stream); stroke-width: 2.5; }
.middle { text-anchor: middle; }
"""
_COLUMN_PX, _ROW_PX, _BOX_PX, _HIGH_PX, _LINE_PX, _CHAR_PX = 180, 78, 96, 40, 19, 7.9


def graph_picture(graph: StageGraph) -> str:
    """Return an SVG: a column for the stages that may start together, a heavy line for a stream.

    A wait that follows from others is left out.
    """
    names = [spec.name for spec in graph.specs]
    before = {
        name: [names[n] for n in found]
        for name, found in zip(names, graph.predecessors, strict=True)
    }
    column: dict[str, int] = {}
    above: dict[str, set[str]] = {}
    for name in graph.topological_order():
        above[name] = set(before[name]).union(*(above[one] for one in before[name]))
        column[name] = 1 + max((column[one] for one in before[name]), default=-1)
    rows = {name: list(column.values())[:at].count(column[name]) for at, name in enumerate(column)}
    place = {name: (60 + column[name] * _COLUMN_PX, 54 + rows[name] * _ROW_PX) for name in column}
    read = {
        (route.producer, reader): key
        for key, route in graph.streams.items()
        for reader in (*route.back_pressured, *route.buffered)
    }
    parts = []
    for name, (x, y) in place.items():
        for other in before[name]:
            (left, top), key = place[other], read.get((other, name))
            if key is None and any(other in above[one] for one in before[name]):
                continue
            bend = 46 * (column[name] - column[other] - 1)
            path = f"M{left + _BOX_PX / 2} {top} Q{(left + x) / 2} {(top + y) / 2 + bend}"
            kind = "stream" if key else "wait"
            parts.append(f'<path class="{kind}" d="{path} {x - _BOX_PX / 2} {y}"/>')
            if key and not bend:
                middle = f'x="{(left + x) / 2}" y="{(top + y) / 2 - 8}"'
                parts.append(f'<text class="faint middle" {middle}>{key}</text>')
    for name, (x, y) in place.items():
        corner = f'x="{x - _BOX_PX / 2}" y="{y - _HIGH_PX / 2}"'
        parts.append(f'<rect class="box" rx="6" {corner} width="{_BOX_PX}" height="{_HIGH_PX}"/>')
        parts.append(f'<text class="middle" x="{x}" y="{y + 5}">{name}</text>')
    wide = max(x for x, _ in place.values()) + 60
    return _svg(f"The stages of {graph.name}", wide, max(y for _, y in place.values()) + 80, parts)


def text_picture(title: str, text: str) -> str:
    """Return an SVG of lines of text, as a terminal shows them."""
    lines = text.rstrip().splitlines()
    parts = [
        f'<text x="16" y="{30 + number * _LINE_PX}">{html.escape(line)}</text>'
        for number, line in enumerate(lines)
    ]
    wide = 32 + int(_CHAR_PX * max(map(len, lines)))
    return _svg(title, wide, 30 + _LINE_PX * len(lines), parts)


def _svg(title: str, wide: int, high: int, parts: Sequence[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" width="{wide}"'
    paper = f'<rect class="paper" width="{wide}" height="{high}"/>'
    inside = "\n".join((f"<title>{title}</title>\n<style>\n{_STYLE}</style>", paper, *parts))
    return f'{head} height="{high}" role="img">\n{inside}\n</svg>\n'


def gate_report() -> str:
    """Return the report on two made-up commits, of which the newer one is slower."""
    series = {
        "exact.Turn.track_ms": ("ms", 512.0, 576.0),
        "counted.Operation.track_instructions('order')": ("instructions", 104_200.0, 121_300.0),
        "counted.Operation.track_instructions('price')": ("instructions", 61_050.0, 61_050.0),
    }
    before = {name: value for name, (_, value, _) in series.items()}
    after = {name: value for name, (_, _, value) in series.items()}
    found = Evidence(
        units={name: unit for name, (unit, _, _) in series.items()},
        head=gate.measured(gate.HEAD, after),
        base=gate.measured(gate.BASE, before),
    )
    at = dt.datetime(2030, 6, 15, 12, 0, tzinfo=dt.UTC)
    return Report(gate.judged(found), gate.BASE, gate.HEAD, "ci, 2 cores", at).text()


async def _sell() -> None:
    """Sell two items at once, with the mistake that each sale reads the stock before it waits."""
    stock = {"tea": 2}

    async def sale() -> None:
        left = stock["tea"]
        await asyncio.sleep(0)  # the payment
        stock["tea"] = left - 1

    async with asyncio.TaskGroup() as group:
        for number in (1, 2):
            group.create_task(sale(), name=f"sale {number}")
    assert stock["tea"] == 0, f"{stock['tea']} left of 2, after 2 sales"


def failure_pictures(into: Path) -> None:
    """Take pictures of the page of a simulation that failed."""
    with tempfile.TemporaryDirectory() as scratch:
        page = Path(scratch, "failure.html")
        with suppress(AssertionError):  # without it there is no page
            simulation.explore(_sell, runs=20, page=page)
        with started() as browser:
            for scheme in ("light", "dark"):
                look = {"viewport": {"width": 1100, "height": 620}, "color_scheme": scheme}
                opened = browser.new_context(**look)  # type: ignore[arg-type]
                shown = opened.new_page()
                shown.goto(page.as_uri())
                shown.screenshot(path=into / f"simulation-failure-{scheme}.png")
                opened.close()


def main() -> None:
    """Draw all of them."""
    parser = argparse.ArgumentParser(prog="python -m tools.pictures", description=__doc__)
    parser.add_argument("--into", type=Path, default=ROOT / "docs" / "images", metavar="FOLDER")
    into: Path = parser.parse_args().into
    into.mkdir(parents=True, exist_ok=True)
    drawn = {
        "voice-graph.svg": graph_picture(streaming_voice().build()),
        "gate-report.svg": text_picture("A report of the gate", gate_report()),
    }
    for name, text in drawn.items():
        (into / name).write_text(text, encoding="utf-8")
    failure_pictures(into)
    sys.stdout.write(f"pictures are in {into}\n")


if __name__ == "__main__":
    main()
