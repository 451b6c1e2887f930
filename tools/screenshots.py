"""Take the screenshots of Central Pulse for docs/images.

They show a published site, or else a made-up history and the telemetry of an outage simulation.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser

from stageflow.pulse.dashboard import PAGE, publish_with_dashboard
from stageflow.pulse.gate import Exit, GateRun, record_run
from stageflow.pulse.history import AsvProject
from tests.utils import central
from tests.utils.asv_repo import ROOT
from tests.utils.browser import started
from tools import outage_simulation

COMMITS, METRICS = 120, 8
PANELS = ("now", "history", "first-audio", "latency", "errors", "breakers", "gate", "load", "voice")
DESKTOP, PHONE = {"width": 1400, "height": 900}, {"width": 390, "height": 844}
#: What is seen first, by name of the picture.
LOOKS: dict[str, dict[str, Any]] = {
    "dark": {"viewport": DESKTOP, "color_scheme": "dark"},
    "phone": {"viewport": PHONE},
    "phone-dark": {"viewport": PHONE, "color_scheme": "dark"},
}
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
    arguments = parser.parse_args()
    into: Path = arguments.into
    if arguments.site is not None and not (arguments.site / PAGE).exists():
        parser.error(f"there is no {PAGE} in {arguments.site}: make bench publishes it")
    into.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, started() as browser:
        site_dir = (arguments.site or _site(Path(scratch))).resolve()
        for panel in PANELS:
            _picture(browser, site_dir, into / f"central-{panel}.png", panel, viewport=DESKTOP)
        for name, look in LOOKS.items():
            _picture(browser, site_dir, into / f"central-{name}.png", **look)
    return 0


def _site(scratch: Path) -> Path:
    """A site with something to see in each panel."""
    project = central.repository(scratch / "stageflow", COMMITS, METRICS)
    (project.benchmarks_dir / "accepted.toml").write_text(_ACCEPTED, encoding="utf-8")
    shutil.copy(ROOT / "docs" / "runbook.md", project.root / "docs" / "runbook.md")
    central.write_selftest(project)
    _gate_runs(project)
    (project.results_dir / "load.jsonl").write_text(central.a_load(), encoding="utf-8")
    (project.results_dir / "voice.jsonl").write_text(central.voice_figures(), encoding="utf-8")
    store = scratch / "outage.db"
    outage_simulation.record(store, outage_simulation.HOURS, outage_simulation.SEED, _say)
    publish_with_dashboard(project, _say, store=store)
    return project.html_dir


def _gate_runs(project: AsvProject) -> None:
    hashes = project.git("rev-list", "--reverse", "main").split()
    chance = random.Random(4)
    for base, head in zip(hashes[-31:-1], hashes[-30:], strict=True):
        code = chance.choices((Exit.OK, Exit.REGRESSION, Exit.OVER_BUDGET), (8, 1, 1))[0]
        record_run(project.root, GateRun.now(base, head, code, chance.lognormvariate(4.8, 0.2)))


def _picture(
    browser: Browser, site_dir: Path, path: Path, panel: str | None = None, **look: Any
) -> None:
    """A picture of a panel, or of what is seen first, as a browser of that look shows it."""
    opened = browser.new_context(**look, timezone_id="UTC", locale="en-GB")
    page = opened.new_page()
    page.goto(f"{site_dir.as_uri()}/{PAGE}")
    page.wait_for_selector("body[data-ready]")
    # It would lie over a panel that is higher than the window.
    page.add_style_tag(content="nav { position: static !important; }")
    if panel is None:
        page.screenshot(path=path)
    else:
        page.locator(f"#{panel}").screenshot(path=path)
    opened.close()
    _say(json.dumps({"file": path.name, "kB": round(path.stat().st_size / 1000)}))


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    sys.exit(main())
