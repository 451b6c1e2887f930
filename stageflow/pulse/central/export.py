"""All that was measured, one JSON object a line, in a schema of its own that is versioned.

asv's files are made for asv: by commit, in columns, with the benchmarks described elsewhere. What
is written here stands by itself, for a notebook, a database or another tool, and holds the figures
of real providers as well. docs/results.md documents all of them.
"""

from __future__ import annotations

import datetime as dt
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from stageflow.pulse.central.history import values_of
from stageflow.pulse.central.voice import voice_runs
from stageflow.pulse.project import AsvProject
from stageflow.pulse.results import MACHINE_FIELDS, read_benchmarks, read_results, rows_of

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Measurement:
    """One series on one commit, as it was measured on one machine.

    Attributes:
        schema_version: Of this object; a field that is added does not change it, one that changes
            its meaning does.
        metric: Name of the series, its parameters in brackets.
        value: What asv shows for it: the median of timings, or the figure that was tracked. None
            if the benchmark broke on that commit.
        samples: What it is the median of; None if they were not kept.
        unit: Of value and samples.
        commit: Full hash of the commit.
        commit_at: When it was committed, in ISO 8601, UTC.
        measured_at: When the measuring of the benchmark began; None if that is not known.
        machine: What it ran on, by asv's keys: arch, cpu, machine, num_cpu, os, ram.
        environment: What it ran in: name, python, and the requirements by package.
    """

    schema_version: int
    metric: str
    value: float | None
    samples: tuple[float, ...] | None
    unit: str
    commit: str
    commit_at: str
    measured_at: str | None
    machine: Mapping[str, str]
    environment: Mapping[str, Any]


def measurements(project: AsvProject) -> Iterator[Measurement]:
    """Everything that was measured, on every machine, by machine and commit; then voice figures.

    What a commit lacks, so that asv skipped it, is left out.
    """
    yield from _of_benchmarks(project)
    yield from _of_voices(project)


def _of_benchmarks(project: AsvProject) -> Iterator[Measurement]:
    benchmarks = read_benchmarks(project.results_dir)
    for result in read_results(project.results_dir):
        about = {
            "commit": result["commit_hash"],
            "commit_at": _moment(result["date"]),
            "machine": {key: str(result["params"].get(key, "")) for key in MACHINE_FIELDS},
            "environment": {
                "name": result["env_name"],
                "python": result["python"],
                "requirements": result["requirements"],
            },
        }
        for name, row in rows_of(result, benchmarks):
            unit = str(benchmarks[name].get("unit", ""))
            for metric, value, samples in values_of(name, row):
                if value is not None and not math.isfinite(value):
                    continue
                yield Measurement(
                    schema_version=SCHEMA_VERSION,
                    metric=metric,
                    value=value,
                    samples=_known(samples),
                    unit=unit,
                    measured_at=_moment(row.get("started_at")),
                    **about,
                )


def _of_voices(project: AsvProject) -> Iterator[Measurement]:
    runs, _ = voice_runs(project.results_dir)
    for run in runs:
        for name, figure in run.figures.items():
            yield Measurement(
                schema_version=SCHEMA_VERSION,
                metric=f"voice_figures.{name}",
                value=figure.value,
                samples=figure.samples,
                unit=figure.unit,
                commit=run.commit,
                commit_at=run.commit_at,
                measured_at=run.at,
                machine=run.machine,
                environment=run.environment,
            )


def as_line(one: Measurement) -> str:
    """A measurement as a line of JSON."""
    return json.dumps(asdict(one), ensure_ascii=False, allow_nan=False) + "\n"


def _moment(milliseconds: object) -> str | None:
    """A moment of asv's, in milliseconds since the epoch, in ISO 8601."""
    if not isinstance(milliseconds, int | float) or isinstance(milliseconds, bool):
        return None
    return dt.datetime.fromtimestamp(milliseconds / 1000, dt.UTC).isoformat(timespec="seconds")


def _known(samples: Sequence[float] | None) -> tuple[float, ...] | None:
    return None if samples is None else tuple(samples)
