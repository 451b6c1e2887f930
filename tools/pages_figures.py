"""Measure Central Pulse on much data: publish, open, redraw and pan it in a real Chromium.

A figure a line, as JSON, with the machine's load before it was measured.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from playwright.sync_api import Page

from stageflow.pulse.dashboard import PAGE, publish_with_dashboard
from tests.utils import central
from tests.utils.browser import started
from tests.utils.telemetry import run_log, sink_of

REDRAWS = 200
VIEWS = ("status", "commits", f"commits?series={central.names(2)[1]}", "live", "trust")


def main() -> int:
    """Measure and print; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.pages_figures", description=__doc__)
    parser.add_argument("--commits", type=int, default=10_000)
    parser.add_argument("--series", type=int, default=50)
    parser.add_argument("--runs", type=int, default=100_000, help="each of about 15 events")
    parser.add_argument("--stages", type=int, default=3_000, help="of one more pipeline")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        progress = partial(print, file=sys.stderr, flush=True)
        progress("Writing results and telemetry")
        project = central.repository(folder / "repo", given.commits, given.series)
        central.write_telemetry(folder / "t.db", given.runs)
        stages = {f"stage_{number}": 1.0 for number in range(given.stages)}
        sink_of(folder / "t.db", [run_log("wide", stages, pipeline="wide")]).close()
        began = time.perf_counter()
        publish_with_dashboard(project, progress, store=folder / "t.db")
        # The larger one of this process and asv's, which run one after the other.
        who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        peak_mb = max(resource.getrusage(one).ru_maxrss for one in who) / 1024
        _say(what="build", seconds=time.perf_counter() - began, peak_mb=peak_mb)
        with started() as browser:
            page = browser.new_page()
            for view in VIEWS:
                _open(page, f"{(project.html_dir / PAGE).as_uri()}#{view}", view)
            _redraw(page)
            _pan(page)
    return 0


def _open(page: Page, address: str, view: str) -> None:
    page.goto("about:blank")
    began = time.perf_counter()
    page.goto(address)
    page.wait_for_selector("body[data-ready]")
    seconds = time.perf_counter() - began
    nodes = page.evaluate("document.querySelectorAll('*').length")
    _say(what="open", view=view, seconds=seconds, nodes=nodes)


def _redraw(page: Page) -> None:
    """Redraw the live view as its server's news do, and print what the page holds."""
    page.evaluate("location.hash = '#live'")
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")
    for redraws in (3, REDRAWS):
        began = time.perf_counter()
        one = "central.news({ ...central.data, ...central.data.now })"
        page.evaluate(f"() => {{ for (let n = 0; n < {redraws}; n++) {one}; }}")
        seconds = time.perf_counter() - began
        session.send("HeapProfiler.collectGarbage")
        metrics = session.send("Performance.getMetrics")["metrics"]
        found = {metric["name"]: metric["value"] for metric in metrics}
        names = ("Nodes", "JSEventListeners", "JSHeapUsedSize")
        _say(what="redraw", times=redraws, seconds=seconds, **{name: found[name] for name in names})


def _pan(page: Page) -> None:
    """Pan a chart of the live view for three seconds, and print how long the frames took."""
    frames = page.evaluate(
        """() => new Promise((done) => {
            const group = central.group, [low, high] = group.members[0].u.data[0].reduce(
                ([a, b], x) => [Math.min(a, x), Math.max(b, x)], [Infinity, -Infinity]);
            const width = (high - low) / 4, times = [], began = performance.now();
            requestAnimationFrame(function step(now) {
                times.push(now);
                const share = (now - began) / 3000;
                if (share >= 1) return void done(times);
                const at = low + share * (high - low - width);
                group.set(at, at + width);
                requestAnimationFrame(step);
            });
        })"""
    )
    took_ms = sorted(after - before for before, after in itertools.pairwise(frames))
    slow = took_ms[int(len(took_ms) * 0.95)]
    _say(what="pan", frames_a_second=len(took_ms) / 3, p95_ms=slow, longest_ms=took_ms[-1])


def _say(**figures: Any) -> None:
    rounded = {key: round(v, 2) if isinstance(v, float) else v for key, v in figures.items()}
    sys.stdout.write(json.dumps({**rounded, "load": round(os.getloadavg()[0], 1)}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
