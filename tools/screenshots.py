"""Take the screenshots of Central Pulse for docs/images.

They show a published site, or else a made-up history and made-up telemetry.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import quote

from playwright.sync_api import Browser, ViewportSize

from stageflow.pulse.dashboard import PAGE, publish_with_dashboard
from stageflow.pulse.gate import Exit, GateRun, record_run
from stageflow.pulse.history import AsvProject
from tests.utils import central
from tests.utils.asv_repo import ROOT
from tests.utils.browser import started

COMMITS, METRICS, RUNS = 120, 8, 3000
SERIES = central.names(METRICS)[0]
#: What the documentation shows, by name of the picture.
VIEWS = {
    "status": "status",
    "series": f"commits?series={quote(SERIES)}",
    "live": "live",
    "trust": "trust",
}
WIDTHS = {1440: 900, 820: 1180, 390: 844}
_ACCEPTED = """\
version = 1

[[accepted]]
benchmark = "counted.Operation.track_instructions('build.complex')"
up_to = 1.25
reason = "each dependency is checked for its type"
until = 2999-01-31
owner = "engine"
"""


def main() -> int:
    """Take the screenshots; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.screenshots", description=__doc__)
    parser.add_argument("--into", type=Path, default=ROOT / "docs" / "images", metavar="FOLDER")
    parser.add_argument("--site", type=Path, metavar="FOLDER", help="take this published site")
    text = "each view at three widths, light and dark, as a whole"
    parser.add_argument("--all", action="store_true", help=text)
    arguments = parser.parse_args()
    into: Path = arguments.into
    if arguments.site is not None and not (arguments.site / PAGE).exists():
        parser.error(f"there is no {PAGE} in {arguments.site}: make bench publishes it")
    into.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, started() as browser:
        site_dir = (arguments.site or _site(Path(scratch))).resolve()
        places = {name: f"{PAGE}#{view}" for name, view in VIEWS.items()}
        if not arguments.all:
            for (name, place), dark in itertools.product(places.items(), (False, True)):
                path, scheme = (
                    into / f"central-{name}{'-dark' * dark}.png",
                    "dark" if dark else "light",
                )
                _picture(browser, site_dir, place, path, 1440, color_scheme=scheme)
            phone = into / "central-phone-dark.png"
            _picture(browser, site_dir, places["status"], phone, 390, color_scheme="dark")
            return 0
        places |= {"commits": f"{PAGE}#commits", "log": "commits.html", "runbook": "runbook.html"}
        for (name, place), width in itertools.product(places.items(), WIDTHS):
            for scheme in ("light", "dark"):
                path = into / f"{name}-{width}-{scheme}.png"
                _picture(browser, site_dir, place, path, width, full=True, color_scheme=scheme)
    return 0


def _site(scratch: Path) -> Path:
    """A site with something to see in each panel."""
    project = central.repository(scratch / "stageflow", COMMITS, METRICS)
    (project.benchmarks_dir / "accepted.toml").write_text(_ACCEPTED, encoding="utf-8")
    shutil.copy(ROOT / "docs" / "runbook.md", project.root / "docs" / "runbook.md")
    central.write_selftest(project)
    _gate_runs(project)
    for at, name in ((20, "v1.0"), (90, "v1.1")):
        project.git("tag", name, f"main~{COMMITS - 1 - at}")
    (project.results_dir / "load.jsonl").write_text(central.a_load(), encoding="utf-8")
    (project.results_dir / "voice.jsonl").write_text(central.voice_figures(), encoding="utf-8")
    store = scratch / "telemetry.db"
    central.write_telemetry(store, RUNS)
    publish_with_dashboard(project, _say, store=store)
    return project.html_dir


def _gate_runs(project: AsvProject) -> None:
    hashes = project.git("rev-list", "--reverse", "main").split()
    chance = random.Random(4)
    for base, head in zip(hashes[-31:-1], hashes[-30:], strict=True):
        code = chance.choices((Exit.OK, Exit.REGRESSION, Exit.OVER_BUDGET), (8, 1, 1))[0]
        record_run(project.root, GateRun.now(base, head, code, chance.lognormvariate(4.8, 0.2)))


def _picture(
    browser: Browser,
    site_dir: Path,
    place: str,
    path: Path,
    width: int,
    *,
    full: bool = False,
    **look: Any,
) -> None:
    """A picture of a page, of what is seen first or of all, as a browser of that look shows it."""
    viewport: ViewportSize = {"width": width, "height": WIDTHS[width]}
    opened = browser.new_context(viewport=viewport, timezone_id="UTC", locale="en-GB", **look)
    page = opened.new_page()
    page.goto(f"{site_dir.as_uri()}/{place}")
    page.wait_for_selector("body[data-ready], body[data-page=runbook] header")
    page.screenshot(path=path, full_page=full)
    opened.close()
    _say(json.dumps({"file": path.name, "kB": round(path.stat().st_size / 1000)}))


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    sys.exit(main())
