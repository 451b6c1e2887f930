"""Collect the data of Central Pulse, and write or serve them with the page."""

from __future__ import annotations

import html
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from string import Template
from typing import Any

from stageflow._utils.text import printable
from stageflow.pulse import history as hist
from stageflow.pulse.alerts import state_of
from stageflow.pulse.dashboard import records
from stageflow.pulse.dashboard.now import Judged, firing, judged, wrong_now
from stageflow.pulse.dashboard.telemetry import LiveBudgets, budget_in, read_telemetry
from stageflow.pulse.gate import RUNBOOK, sections_of
from stageflow.pulse.history import AsvProject, Emit, History, Series, rounded
from stageflow.telemetry import Place, TelemetryError, TelemetryStore

ENTRY = "index.html"
"""The entry page of a published site."""
PAGE = "central.html"
"""The page of Central Pulse, to which alerts link."""
#: What asv's own page is called beside it.
GRID = "benchmarks.html"
FOLDER = "central"
_VERSION = 2


def publish_with_dashboard(
    project: AsvProject, emit: Emit = print, *, store: Place | None = None
) -> hist.Published:
    """Publish asv's pages with Central Pulse; `emit` gets the progress, line by line.

    `store` is the telemetry; by default, the first file of the settings that exists. If a given one
    cannot be read, `TelemetryError` is raised and the old site is kept.
    """
    if store is not None:
        TelemetryStore(store).close()  # fail before the long work of asv
    page = partial(write_central, project, emit=emit, store=store)
    return hist.publish(project, emit, pages=[page])


def write_central(
    project: AsvProject, site_dir: Path, emit: Emit = print, *, store: Place | None = None
) -> Path:
    """Write Central Pulse into a site that has the vendored libraries, and return the page.

    Arguments and errors are those of `publish_with_dashboard`.
    """
    began = time.monotonic()
    hist.clear_corrupt(project, emit)
    history = hist.read_history(project)
    emit(f"Central Pulse: {len(history.commits)} commits of {len(history.series)} series are read")
    found = judged(project, history)
    settings = found.settings
    load, figures = settings.load, settings.figures
    emit("Central Pulse: budgets are checked, steps are found")
    shown = store or found_store(project.root, settings)
    now, live, simulation = present(project, history, found, shown, named=store is not None)
    for data in filter(None, (live, simulation)):
        emit(f"Central Pulse: telemetry of {data['store']} is added up")
    if (site_dir / ENTRY).exists():
        (site_dir / ENTRY).rename(site_dir / GRID)
    data = {
        "version": _VERSION,
        "made_at_s": time.time(),
        "owners": {budget.metric: budget.owner for budget in found.live_budgets.budgets},
        "charts": [asdict(chart) for chart in settings.charts],
        "history": overview(history, found, project.hash_length),
        "now": now,
        "gate": records.gate_record(project.root, settings.selftest),
        "load": load and records.load_record(load, project.results_dir),
        "figures": figures and records.figures_record(figures, project.results_dir),
        "telemetry": live,
        "simulation": simulation,
    }
    data["history"]["releases"] = releases(project, history)
    site = {
        "project": project.root.name,
        "grid": (site_dir / GRID).exists(),
        "docs": (project.html_dir / "docs" / ENTRY).exists(),
        "simulation": simulation is not None,
    }
    folder = site_dir / FOLDER
    for name in (ENTRY, PAGE):
        shutil.copy(hist.STATIC_DIR / "central" / PAGE, site_dir / name)
    hist.write_script(folder / "site.json.js", "pulseSite", site)
    hist.write_script(folder / "data.json.js", "centralData", data)
    for number, piece in enumerate(pieces(history)):
        hist.write_script(folder / f"commits-{number}.json.js", "centralPiece", piece)
    write_runbook(project.root / RUNBOOK, site_dir)
    size_kb = (folder / "data.json.js").stat().st_size / 1000
    emit(f"Central Pulse: {size_kb:,.0f} kB in {time.monotonic() - began:.1f} s")
    return site_dir / PAGE


def live_site(
    project: AsvProject, store: Place, newest_s: float, alone: Path, emit: Emit
) -> tuple[Path, LiveTelemetry]:
    """Return the site to serve with live telemetry: the published one, or this page alone.

    The page shows the newest `newest_s` seconds of the store; without a published site, it is
    written into the folder `alone`. If the store cannot be read, `TelemetryError` is raised.
    """
    TelemetryStore(store).close()
    site_dir, budgets = project.html_dir, judged(project, History()).live_budgets
    if not (site_dir / PAGE).exists():
        emit("There is no published site; Central Pulse is shown alone.")
        site_dir = alone / "site"
        hist.copy_libraries(site_dir)
        write_central(project, site_dir, emit)
    return site_dir, LiveTelemetry(store, budgets, newest_s=newest_s, root=project.root)


def found_store(root: Path, settings: records.DashboardSettings) -> Path:
    """Return the telemetry that is shown by default; it may be missing."""
    places = [root / name for name in settings.telemetry]
    return next((place for place in places if place.exists()), places[0])


def present(
    project: AsvProject, history: History, found: Judged, store: Place, *, named: bool
) -> tuple[dict[str, Any], dict[str, Any] | None, dict[str, Any] | None]:
    """Return what is wrong now, the telemetry of real runs, and that of a simulation, if any.

    They are read from the store that the user `named`, which raises `TelemetryError` if it cannot
    be read, or else from the files of the settings.
    """
    now = wrong_now(project, history, found, store)
    defaults = (project.root / name for name in found.settings.telemetry)
    live = simulation = None
    for place in [store] if named else filter(Path.exists, defaults):
        try:
            data = read_telemetry(place, found.live_budgets)
        except TelemetryError as error:
            if named:
                raise
            now["notes"].append(f"The telemetry is left out: {error}")
            continue
        if data and data["simulated"]:
            simulation = simulation or data
        else:
            live = live or data
    if simulation and not live:
        now["alerts"] = None
        now["notes"].append(f"{simulation['store']} holds a simulation, which does not count here.")
    return now, live, simulation


def write_runbook(source: Path, site_dir: Path) -> None:
    """Write the page of the runbook, or of the default rules' runbook."""
    parts = []
    default = Path(__file__).with_name("runbook.md")
    for name, body in (sections_of(source) or sections_of(default) or {}).items():
        title = html.escape(name)
        # A script of the page shows it as Markdown.
        text = f'<div class="markdown">{html.escape(body)}</div>'
        parts.append(f'<section id="{title}"><h2>{title}</h2>{text}</section>')
    page = Template((hist.STATIC_DIR / "central" / "runbook.html").read_text(encoding="utf-8"))
    shown = page.substitute(sections="\n".join(parts))
    (site_dir / "runbook.html").write_text(shown, encoding="utf-8")


def overview(history: History, found: Judged, hash_length: int) -> dict[str, Any]:
    """Return all series, each with no more values than a chart shows."""
    commits = history.commits
    return {
        "machine": history.machine,
        "elsewhere": history.elsewhere,
        "hash_length": hash_length,
        "hashes": "".join(commit.hash[:hash_length] for commit in commits),
        "at_s": _differences([commit.at_s for commit in commits]),
        "piece": hist.PIECE,
        "limits": None if found.budgets is None else asdict(found.budgets.limits),
        "series": [_series(series, found) for series in history.series],
    }


def releases(project: AsvProject, history: History) -> list[tuple[int, str]]:
    """Return the tags of measured commits, by number of the commit."""
    number = {commit.hash: at for at, commit in enumerate(history.commits)}
    form = "--format=%(objectname) %(*objectname) %(refname:short)"
    tags = project.git("for-each-ref", form, "refs/tags") if number else ""
    found = (line.split()[-2:] for line in tags.splitlines())
    return sorted((number[commit], printable(name)) for commit, name in found if commit in number)


def pieces(history: History) -> Iterator[dict[str, Any]]:
    """Yield the subjects and all values of the commits, a piece at a time."""
    for first in range(0, len(history.commits), hist.PIECE):
        part = slice(first, first + hist.PIECE)
        yield {
            "number": first // hist.PIECE,
            "subjects": [commit.subject for commit in history.commits[part]],
            "values": [[rounded(v) for v in series.values[part]] for series in history.series],
        }


def _series(series: Series, found: Judged) -> dict[str, Any]:
    steps = found.steps.get(series.name, ())
    at = sorted({*visible(series.values), *(step.at for step in steps)})
    budget = found.budget_of(series.name)
    # Of the newest commit that has enough samples for them.
    percentiles = series.percentiles[max(series.percentiles)] if series.percentiles else None
    return {
        "name": series.name,
        "unit": series.unit,
        "signal": hist.signal_of(series.name),
        "budget": budget and budget_in(series.unit, budget),
        "samples": series.samples,
        "recent": [rounded(value) for value in series.values[-RECENT:]],
        "at": _differences(at),
        "values": [rounded(series.values[n]) for n in at],
        "steps": [[step.at, rounded(step.before), rounded(step.after)] for step in steps],
        "percentiles": percentiles and [rounded(value) for value in percentiles],
        "newest": series.newest,
    }


def _differences(numbers: list[int]) -> list[int]:
    """Return the differences between neighbours, which are shorter as text."""
    return [b - a for a, b in zip([0, *numbers], numbers, strict=False)]


#: How many of the newest commits give a series its scatter and its small chart.
RECENT = 40
#: The columns of a chart of a history. Each shows its least and greatest value: no peak is lost.
COLUMNS = 600


def visible(values: Sequence[float | None], columns: int = COLUMNS) -> list[int]:
    """Return the indexes of the first and last value, and of the extremes of each column."""
    there = [index for index, value in enumerate(values) if value is not None]
    if len(there) <= 2 * columns:
        return there
    kept = {there[0], there[-1]}
    for column in range(columns):
        part = there[column * len(there) // columns : (column + 1) * len(there) // columns]
        kept.add(min(part, key=lambda index: values[index] or 0.0))
        kept.add(max(part, key=lambda index: values[index] or 0.0))
    return sorted(kept)


ADDRESS = "/central/live.json"
#: A file of the site that a live server replaces, to make the page refresh.
SWITCH = "/central/live.js"
REFRESH_S = 5


@dataclass
class LiveTelemetry:
    """Reads a store for all open pages, at most once in half the time between two refreshes.

    It shows the store's newest `newest_s` seconds; `root` is the repository.
    """

    store: Place
    budgets: LiveBudgets
    newest_s: float = field(kw_only=True)
    root: Path = field(default=Path(), kw_only=True)
    clock: Callable[[], float] = field(default=time.monotonic, kw_only=True)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._read_at = -float(REFRESH_S)
        self._answer = b""

    def answer(self) -> bytes:
        """Return the telemetry as JSON, or why it cannot be read."""
        with self._lock:
            if self.clock() - self._read_at >= REFRESH_S / 2 or not self._answer:
                self._answer = json.dumps(self._read(), separators=(",", ":")).encode()
                self._read_at = self.clock()
            return self._answer

    def __call__(self, path: str) -> tuple[str, bytes] | None:
        """Return type and content of `path` if it is one of the two live addresses."""
        if path == ADDRESS:
            return "application/json", self.answer()
        if path == SWITCH:
            return "text/javascript", f"centralLive({REFRESH_S});\n".encode()
        return None

    def _read(self) -> dict[str, Any]:
        alerts, problem = firing(state_of(self.store, self.root))
        found: dict[str, Any] = {
            "made_at_s": time.time(),
            "telemetry": None,
            "simulation": None,
            **alerts,
            "problem": problem,
        }
        try:
            if data := read_telemetry(self.store, self.budgets, self.newest_s):
                found["simulation" if data["simulated"] else "telemetry"] = data
                if data["simulated"]:
                    found["alerts"] = None
        except TelemetryError as error:
            found["problem"] = str(error)
        return found
