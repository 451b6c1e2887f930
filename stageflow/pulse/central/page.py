"""Central Pulse: its data are put together, and written beside the page that shows them."""

from __future__ import annotations

import html
import json
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from string import Template
from typing import Any

from stageflow.pulse.central.alerts import RULES_FILE
from stageflow.pulse.central.charts import overview, pieces
from stageflow.pulse.central.history import History, read_history
from stageflow.pulse.central.live import LiveTelemetry
from stageflow.pulse.central.load import load_record
from stageflow.pulse.central.now import Judged, found_budgets, judged, wrong_now
from stageflow.pulse.central.record import gate_record
from stageflow.pulse.central.telemetry import telemetry, window_of
from stageflow.pulse.central.voice import voice_record
from stageflow.pulse.gate.runbook import RUNBOOK, sections_of
from stageflow.pulse.offline import STATIC_DIR, copy_libraries
from stageflow.pulse.project import AsvProject
from stageflow.telemetry.errors import TelemetryError
from stageflow.telemetry.place import Place, open_store

PAGE = "central.html"
FOLDER = "central"
#: Where the telemetry is looked for if no other file is named; the first that is there is taken.
STORE_FILES = (".asv/telemetry.db", ".asv/drill.db")
_VERSION = 1

Emit = Callable[[str], None]


def write_central(
    project: AsvProject, site_dir: Path, emit: Emit, *, store: Place | None = None
) -> Path:
    """Write Central Pulse into a site.

    Args:
        project: The repository whose results are shown.
        site_dir: Folder of the site; has the vendored libraries already.
        emit: Is told the progress.
        store: The telemetry; None: the first of `STORE_FILES`, if there is one.

    Returns:
        The page.

    Raises:
        PulseError: git failed.
        TelemetryError: The store was named, and cannot be read.
    """
    began = time.monotonic()
    beside_asv = (site_dir / "index.html").exists()
    data, history = gathered(project, emit, store, beside_asv=beside_asv)
    folder = site_dir / FOLDER
    shutil.copytree(STATIC_DIR / "central", folder, ignore=shutil.ignore_patterns("*.html"))
    shutil.copy(STATIC_DIR / "central" / PAGE, site_dir / PAGE)
    _write(folder / "data.json.js", "centralData", data)
    for number, piece in enumerate(pieces(history)):
        _write(folder / f"commits-{number}.json.js", "centralPiece", piece)
    write_runbook(project.root / RUNBOOK, site_dir)
    size_kb = (folder / "data.json.js").stat().st_size / 1000
    emit(f"Central Pulse: {size_kb:,.0f} kB in {time.monotonic() - began:.1f} s")
    return site_dir / PAGE


def live_site(
    project: AsvProject, store: Place, newest_s: float, alone: Path, emit: Emit
) -> tuple[Path, LiveTelemetry]:
    """What is served to show live telemetry: the published site, or else this page alone.

    Args:
        project: The repository.
        store: The telemetry.
        newest_s: How much of its newest end is shown, in seconds.
        alone: Folder to write the page into if there is no site.
        emit: Is told the progress.

    Raises:
        PulseError: git failed.
        TelemetryError: The store cannot be read.
    """
    open_store(store).close()
    site_dir, budgets = project.html_dir, found_budgets(project)
    rules = project.benchmarks_dir / RULES_FILE
    if not (site_dir / PAGE).exists():
        emit("There is no published site; Central Pulse is shown alone.")
        site_dir = alone / "site"
        copy_libraries(site_dir)
        write_central(project, site_dir, emit)
    return site_dir, LiveTelemetry(store, budgets, rules, newest_s=newest_s, root=project.root)


def gathered(
    project: AsvProject, emit: Emit, store: Place | None = None, *, beside_asv: bool = True
) -> tuple[dict[str, Any], History]:
    """All that the page shows, and the history that it is taken from.

    Args:
        project: The repository.
        emit: Is told the progress.
        store: The telemetry.
        beside_asv: Whether asv's pages are there to link to.
    """
    history = read_history(project)
    emit(f"Central Pulse: {len(history.commits)} commits of {len(history.series)} series are read")
    found = judged(project, history)
    emit("Central Pulse: budgets are held, change points are found")
    data = {
        "version": _VERSION,
        "project": project.root.name,
        "made_at_s": time.time(),
        "beside_asv": beside_asv,
        "history": overview(history, found, _hash_length(project)),
        "now": wrong_now(project, history, found, store or found_store(project.root)),
        "gate": gate_record(project.root),
        "load": load_record(project.results_dir),
        "voice": voice_record(project.results_dir),
        "telemetry": _told_telemetry(project, found, emit, store),
    }
    return data, history


def _told_telemetry(
    project: AsvProject, found: Judged, emit: Emit, store: Place | None
) -> dict[str, Any] | None:
    shown, problem = read_telemetry(project, found, store)
    if problem:
        emit(problem)
    elif shown is not None:
        emit(f"Central Pulse: telemetry of {shown['store']} is added up")
    return shown


def found_store(root: Path) -> Path:
    """The telemetry that is shown if no other is named; it need not be there."""
    places = [root / name for name in STORE_FILES]
    return next((place for place in places if place.exists()), places[0])


def read_telemetry(
    project: AsvProject, found: Judged, store: Place | None
) -> tuple[dict[str, Any] | None, str]:
    """The telemetry of a store, and why it was left out if it was.

    Args:
        project: The repository.
        found: Has the budgets.
        store: The telemetry; None: the one that is shown if no other is named.

    Returns:
        None for telemetry if there is no store, nothing in it, or it cannot be read.

    Raises:
        TelemetryError: The store was named, and cannot be read.
    """
    named = store or found_store(project.root)
    if isinstance(named, Path) and store is None and not named.exists():
        return None, ""
    try:
        with open_store(named) as opened:
            window = window_of(opened)
            budgets = found.budgets.budgets if found.budgets else ()
            return (None if window is None else telemetry(opened, window, budgets)), ""
    except TelemetryError as error:
        if store is not None:
            raise
        return None, f"The telemetry is left out: {error}"


def write_runbook(source: Path, site_dir: Path) -> None:
    """Write the runbook as a page, so that each finding can link to its section."""
    parts = []
    for name, body in (sections_of(source) or {}).items():
        inner = re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(body))
        parts.append(f'<section id="{html.escape(name)}"><h2>{html.escape(name)}</h2>')
        parts.append("".join(f"<p>{p}</p>" for p in inner.split("\n\n")) + "</section>")
    page = Template((STATIC_DIR / "central" / "runbook.html").read_text(encoding="utf-8"))
    shown = page.substitute(sections="\n".join(parts) or "<p>There is no runbook.</p>")
    (site_dir / "runbook.html").write_text(shown, encoding="utf-8")


def _hash_length(project: AsvProject) -> int:
    """How many digits asv shortens hashes to."""
    settings = json.loads((project.root / "asv.conf.json").read_text(encoding="utf-8"))
    return int(settings.get("hash_length", 8))


def _write(path: Path, name: str, data: dict[str, Any]) -> None:
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    path.write_text(f"{name}({text});\n", encoding="utf-8")
