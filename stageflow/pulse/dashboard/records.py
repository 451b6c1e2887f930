"""Settings of the page, and panels of what programs of the project have recorded.

The optional file ``benchmarks/pulse.toml`` has the settings, and names the panels.
"""

from __future__ import annotations

import datetime as dt
import json
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from stageflow.pulse.gate import Key, Settings, keys_of, recorded_runs
from stageflow.pulse.history import newest_lines, rounded

SETTINGS_FILE = "pulse.toml"
TELEMETRY_FILE = ".asv/telemetry.db"
#: Live measurements that may have a budget, with the names that the pattern of its series may use.
LIVE: dict[str, tuple[str, ...]] = {
    "turn": ("pipeline",),
    "stage": ("pipeline", "stage"),
    "first_audio": ("pipeline",),
    "first_item": ("pipeline", "stage", "stream"),
}


@dataclass(frozen=True, slots=True)
class Record:
    """A file that a command of the project adds to."""

    file: str
    command: str


@dataclass(frozen=True, slots=True)
class ShownFigure:
    """How to show a figure; `beside` names another figure for the same tile."""

    title: str
    tile: bool = False
    note: str = ""
    beside: str = ""
    beside_title: str = ""


@dataclass(frozen=True, slots=True)
class FiguresPanel(Record):
    """A panel of figures that are not asv's, by name, in the order of the page.

    `link` is its name among the links of the page, `metric` the prefix of the names in an export.
    """

    title: str
    link: str
    metric: str
    figures: Mapping[str, ShownFigure] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Chart:
    """A series whose history the page's first view shows, with its tails."""

    title: str
    series: str


@dataclass(frozen=True, slots=True)
class DashboardSettings:
    """The content of the file.

    `telemetry` are the files to show by default, of which the first that exists is taken, and
    `live_budgets` patterns of the series whose budgets apply to live measurements. The records of
    loads and figures are among the results, that of the self-test is in the repository.
    """

    telemetry: tuple[str, ...] = (TELEMETRY_FILE,)
    live_budgets: Mapping[str, str] = field(default_factory=dict)
    charts: tuple[Chart, ...] = ()
    selftest: Record | None = None
    load: Record | None = None
    figures: FiguresPanel | None = None


_RECORD = keys_of(Record)
_LIVE = {name: Key(str, required=False) for name in LIVE}
_PANEL = keys_of(FiguresPanel, "figures")
_FIGURE = keys_of(ShownFigure) | {"name": Key(str)}
_TABLES = dict.fromkeys(("telemetry", "live_budgets", "selftest", "load", "figures"), dict)


def load_settings(benchmarks: Path) -> DashboardSettings:
    """Read and check the file in the folder of the benchmarks; return defaults if it is missing.

    Raise `GateSettingsError`, with each problem's line and fix, if anything is wrong.
    """
    path = benchmarks / SETTINGS_FILE
    if not path.exists():
        return DashboardSettings()
    settings = Settings(path)
    settings.check_top({**_TABLES, "figure": list, "chart": list})
    telemetry = settings.table("telemetry", {"fallback": Key(str)})
    live = settings.table("live_budgets", _LIVE)
    selftest, load = (settings.table(name, _RECORD) for name in ("selftest", "load"))
    panel, figures = settings.table("figures", _PANEL), settings.tables("figure", _FIGURE)
    charts = settings.tables("chart", keys_of(Chart))
    if live:
        for name, pattern in live.values.items():
            try:
                pattern.format_map(dict.fromkeys(LIVE[name], ""))
            except (KeyError, ValueError, IndexError):
                names = " and ".join(f"{{{known}}}" for known in LIVE[name])
                problem = f"{name} = {pattern!r} names something else than {names}: remove it"
                live.complain(problem, name)
    settings.finish()
    shown = {one.values.pop("name"): ShownFigure(**one.values) for one in figures}
    return DashboardSettings(
        telemetry=(TELEMETRY_FILE, *(telemetry.values.values() if telemetry else ())),
        live_budgets=live.values if live else {},
        charts=tuple(Chart(**chart.values) for chart in charts),
        selftest=Record(**selftest.values) if selftest else None,
        load=Record(**load.values) if load else None,
        figures=FiguresPanel(**panel.values, figures=shown) if panel else None,
    )


#: The versions of the lines in a record of figures, and in one of loads.
FIGURES_VERSION = 1
LOADS_VERSION = 1
#: How many of the newest runs of the gate are shown.
RUNS = 200


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure; with `samples`, `value` is their median."""

    value: float
    unit: str
    samples: tuple[float, ...] | None = None

    @classmethod
    def of(cls, samples: Sequence[float], unit: str) -> Figure:
        """Return the median of samples."""
        return cls(statistics.median(samples), unit, tuple(samples))

    @property
    def p95(self) -> float | None:
        """The 95th percentile, interpolated; None of fewer than two samples."""
        if self.samples is None or len(self.samples) < 2:
            return None
        return statistics.quantiles(self.samples, n=20, method="inclusive")[-1]


@dataclass(frozen=True, slots=True)
class FiguresRun:
    """The figures of one run of the program that measures them; fields as of `Measurement`."""

    at: str
    commit: str
    commit_at: str
    machine: Mapping[str, str]
    environment: Mapping[str, Any]
    figures: Mapping[str, Figure]


def figure_runs(panel: FiguresPanel, results_dir: Path) -> tuple[list[FiguresRun], list[str]]:
    """Return the newest runs, oldest first, and notes on lines that cannot be read."""
    return newest_lines(results_dir / panel.file, FIGURES_VERSION, _run)


def figures_record(panel: FiguresPanel, results_dir: Path) -> dict[str, Any]:
    """Return the panel's data as JSON's values: the runs of the machine that measured last."""
    runs, notes = figure_runs(panel, results_dir)
    shown = [run for run in runs if run.machine["machine"] == runs[-1].machine["machine"]]
    if len(shown) < len(runs):
        notes.append(f"{len(runs) - len(shown)} runs of other machines are not shown.")
    there = {name for run in shown for name in run.figures}
    names = [*(name for name in panel.figures if name in there), *sorted(there - {*panel.figures})]
    return {
        "title": panel.title,
        "link": panel.link,
        "command": panel.command,
        "runs": [{"at_s": _since_epoch(run.at), "commit": run.commit} for run in shown],
        "machine": dict(shown[-1].machine) if shown else None,
        "python": shown[-1].environment["python"] if shown else None,
        "figures": [
            _figure(name, panel.figures.get(name), [run.figures.get(name) for run in shown])
            for name in names
        ],
        "notes": notes,
    }


def _figure(name: str, shown: ShownFigure | None, found: Sequence[Figure | None]) -> dict[str, Any]:
    units = [figure.unit for figure in found if figure is not None]
    return {
        **asdict(shown or ShownFigure(name)),
        "name": name,
        "unit": units[-1],
        "values": [figure and rounded(figure.value) for figure in found],
        "p95": [figure and figure.p95 and rounded(figure.p95) for figure in found],
    }


def _run(line: dict[str, Any]) -> FiguresRun:
    for moment in ("at", "commit_at"):
        _since_epoch(line[moment])
    python, figures = str(line["python"]), {}
    for name, figure in line["figures"].items():
        samples = None if figure["samples"] is None else tuple(map(float, figure["samples"]))
        figures[str(name)] = Figure(float(figure["value"]), str(figure["unit"]), samples)
    return FiguresRun(
        at=line["at"],
        commit=str(line["commit"]),
        commit_at=line["commit_at"],
        machine={str(key): str(value) for key, value in line["machine"].items()},
        environment={"name": "", "python": python, "requirements": dict(line["requirements"])},
        figures=figures,
    )


def load_record(record: Record, results_dir: Path) -> dict[str, Any]:
    """Return the panel's data as JSON's values: the loads, oldest first, and notes."""
    loads, notes = newest_lines(results_dir / record.file, LOADS_VERSION, _load)
    return {"command": record.command, "loads": loads, "notes": notes}


def _load(line: dict[str, Any]) -> dict[str, Any]:
    latency = line["latency_ms"]
    return {
        "at_s": _since_epoch(line["at"]),
        **{key: line[key] for key in ("commit", "cpus", "python")},
        **{key: float(line[key]) for key in ("rate_hz", "seconds", "cpu_share", "memory_growth")},
        **{key: int(line[key]) for key in ("failed", "tasks", "files")},
        "carried_hz": line["ended"] / line["seconds"],
        "latency_ms": [float(latency[name]) for name in ("p50", "p95", "p99", "max")],
        "faults": [str(fault) for fault in line["faults"]],
    }


def gate_record(root: Path, record: Record | None = None) -> dict[str, Any]:
    """Return the panel's data of the repository in `root` and its self-test as JSON's values."""
    runs, unread = recorded_runs(root)
    selftest, notes = None, []
    if record is not None and (path := root / record.file).exists():
        try:
            # JSON has no number for an infinite ratio.
            found = json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda _: None)
            keys = ("at", "commit", "machine", "series", "identical", "planted", "faults")
            selftest = {key: found[key] for key in keys}
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            notes.append(f"{path.name} cannot be read: {error!r}")
    if unread:
        notes.append(f"{unread} lines of the record of runs cannot be read and were left out.")
    return {
        "selftest": selftest,
        "selftest_command": record and record.command,
        "runs": [
            [_since_epoch(run.at), run.base, run.head, run.exit, run.wall_s] for run in runs[-RUNS:]
        ],
        "exits": {str(code): count for code, count in Counter(run.exit for run in runs).items()},
        "count": len(runs),
        "notes": notes,
    }


def _since_epoch(at: str) -> float:
    """Return a moment in ISO 8601 in seconds since the epoch."""
    return dt.datetime.fromisoformat(at).timestamp()
