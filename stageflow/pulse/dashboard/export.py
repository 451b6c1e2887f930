"""Export all measurements, a JSON object a line, in the schema of docs/operations/export.md."""

from __future__ import annotations

import datetime as dt
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from stageflow.pulse import history as hist
from stageflow.pulse.dashboard.records import figure_runs, load_settings
from stageflow.pulse.history import AsvProject, Emit

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """A series on a commit, as it was measured on one machine; the document has the fields."""

    schema_version: int = SCHEMA_VERSION
    metric: str
    value: float | None
    samples: tuple[float, ...] | None
    unit: str
    commit: str
    commit_at: str
    measured_at: str | None
    machine: Mapping[str, str]
    environment: Mapping[str, Any]


def measurements(project: AsvProject, emit: Emit) -> Iterator[Measurement]:
    """Yield all measurements by machine and commit, then other figures; skipped ones are left out.

    `emit` gets a line for each file that was left out.
    """
    benchmarks = hist.read_benchmarks(project.results_dir)
    for result in hist.read_results(project.results_dir, emit):
        about = {
            "commit": result["commit_hash"],
            "commit_at": _moment(result["date"]),
            "machine": {key: str(result["params"].get(key, "")) for key in hist.MACHINE_FIELDS},
            "environment": {
                "name": result["env_name"],
                "python": result["python"],
                "requirements": result["requirements"],
            },
        }
        for name, row in hist.rows_of(result, benchmarks):
            unit = str(benchmarks[name].get("unit", ""))
            for metric, value, samples in hist.values_of(name, row):
                if value is not None and not math.isfinite(value):
                    continue
                yield Measurement(
                    metric=metric,
                    value=value,
                    samples=None if samples is None else tuple(samples),
                    unit=unit,
                    measured_at=_moment(row.get("started_at")),
                    **about,
                )
    if (panel := load_settings(project.benchmarks_dir).figures) is None:
        return
    for run in figure_runs(panel, project.results_dir)[0]:
        for name, figure in run.figures.items():
            yield Measurement(
                metric=f"{panel.metric}.{name}",
                **{key: getattr(figure, key) for key in ("value", "samples", "unit")},
                **{key: getattr(run, key) for key in ("commit", "commit_at", "machine")},
                measured_at=run.at,
                environment=run.environment,
            )


def as_line(one: Measurement) -> str:
    """Return a measurement as a line of JSON."""
    return json.dumps(asdict(one), ensure_ascii=False, allow_nan=False) + "\n"


def _moment(milliseconds: object) -> str | None:
    """Return a time in milliseconds since the epoch in ISO 8601."""
    if not isinstance(milliseconds, int | float) or isinstance(milliseconds, bool):
        return None
    return dt.datetime.fromtimestamp(milliseconds / 1000, dt.UTC).isoformat(timespec="seconds")
