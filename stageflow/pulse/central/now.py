"""What is wrong now: budgets exceeded, regressions open or accepted, alerts that fire."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from stageflow.pulse.central.alerts import RULES_FILE, firing, state_of
from stageflow.pulse.central.history import History
from stageflow.pulse.central.shrink import rounded
from stageflow.pulse.central.steps import Step, open_rise, steps_of
from stageflow.pulse.errors import PulseError
from stageflow.pulse.gate import accepted as accepted_file
from stageflow.pulse.gate import budgets as budgets_file
from stageflow.pulse.gate.accepted import Accepted
from stageflow.pulse.gate.budgets import Budget, Budgets
from stageflow.pulse.gate.catalogue import discover
from stageflow.pulse.gate.judge import Check, State
from stageflow.pulse.gate.measure import Asv
from stageflow.pulse.gate.runbook import RUNBOOK, sections_of
from stageflow.pulse.gate.setting import ACCEPTED_FILE, BUDGETS_FILE, today
from stageflow.pulse.gate.shown import checks_at
from stageflow.pulse.project import AsvProject
from stageflow.telemetry.place import Place


@dataclass(frozen=True, slots=True)
class Judged:
    """The history beside its budgets.

    Attributes:
        budgets: The budgets; None if there are none, or they cannot be read.
        accepted: Known regressions.
        checks: Every budget beside what was measured last.
        steps: Change points by series.
        notes: What could not be looked at, and why.
    """

    budgets: Budgets | None = None
    accepted: tuple[Accepted, ...] = ()
    checks: tuple[Check, ...] = ()
    steps: Mapping[str, Sequence[Step]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def held(self, series: str) -> Budget | None:
        """The first budget of a series."""
        budgets = self.budgets.budgets if self.budgets else ()
        return next((budget for budget in budgets if budget.series == series), None)


def found_budgets(project: AsvProject) -> tuple[Budget, ...]:
    """The budgets, or none if there are none or they cannot be read; `judged` says why."""
    found = judged(project, History())
    return found.budgets.budgets if found.budgets else ()


def judged(project: AsvProject, history: History) -> Judged:
    """Hold the newest commit against the budgets, and find the change points of every series.

    What is wrong with the files of settings does not keep the history from being shown: it is a
    note.
    """
    path = project.benchmarks_dir / BUDGETS_FILE
    if not path.exists():
        return Judged(
            notes=(f"There are no budgets: {path.relative_to(project.root)} is missing.",)
        )
    try:
        catalogue = discover(project.benchmarks_dir, project.root)
    except PulseError:
        # Its text is a traceback of this machine, which is no business of a page's readers.
        return Judged(notes=("The benchmarks cannot be listed: stageflow pulse budgets says why.",))
    try:
        sections = sections_of(project.root / RUNBOOK)
        budgets = budgets_file.load(path, catalogue.units, sections)
        accepted = accepted_file.load(project.benchmarks_dir / ACCEPTED_FILE, catalogue.units)
    except PulseError as error:
        return Judged(notes=(f"Budgets and acceptances were not read: {error}",))
    checks: tuple[Check, ...] = ()
    if history.commits:
        machine = history.machine.partition(",")[0]
        checks = checks_at(Asv(project, machine, catalogue, ""), budgets, history.commits[-1].hash)
    steps = {
        series.name: steps_of(series.name, series.values, budgets.limits)
        for series in history.series
    }
    return Judged(budgets, accepted, checks, steps)


def wrong_now(project: AsvProject, history: History, found: Judged, store: Place) -> dict[str, Any]:
    """The panel's data, as JSON's values; the alerts are those on the telemetry in `store`."""
    alerts, problem = firing(state_of(store, project.root), project.benchmarks_dir / RULES_FILE)
    regressions = _regressions(history, found)
    return {
        "budgets": [_check(check) for check in found.checks if check.state is State.OVER],
        "kept": sum(check.state is State.KEPT for check in found.checks),
        "unknown": sum(check.state in (State.UNKNOWN, State.TOO_FEW) for check in found.checks),
        "regressions": [row for row in regressions if row["accepted"] is None],
        "known": [row for row in regressions if row["accepted"] is not None],
        "accepted": [_accepted(entry, today()) for entry in found.accepted],
        "alerts": None if alerts is None else [asdict(alert) for alert in alerts],
        "notes": [*found.notes, *([problem] if problem else [])],
    }


def _check(check: Check) -> dict[str, Any]:
    return {
        "metric": check.budget.metric,
        "series": check.budget.series,
        "figure": check.figure,
        "limit": check.limit,
        "measured": rounded(check.measured),
        "unit": check.budget.unit,
        "runbook": check.budget.runbook,
        "gate": check.budget.gate,
    }


def _regressions(history: History, found: Judged) -> list[dict[str, Any]]:
    rows = []
    for series in history.series:
        steps = found.steps.get(series.name, ())
        if found.budgets is None or not steps:
            continue
        rise = open_rise(series.name, series.values, steps, found.budgets.limits)
        if rise is not None:
            rows.append(_regression(series.name, series.unit, rise, found))
    return rows


def _regression(name: str, unit: str, rise: Step, found: Judged) -> dict[str, Any]:
    budget = found.held(name)
    known = (
        entry
        for entry in found.accepted
        if entry.series == name and entry.counts(today()) and rise.ratio <= entry.up_to
    )
    entry = next(known, None)
    return {
        "series": name,
        "unit": unit,
        "at": rise.at,
        "before": rounded(rise.before),
        "after": rounded(rise.after),
        # JSON knows no infinity: something came of nothing.
        "ratio": rounded(rise.ratio) if rise.before > 0 else None,
        "runbook": budget.runbook if budget else None,
        "accepted": None if entry is None else entry.series,
    }


def _accepted(entry: Accepted, day: dt.date) -> dict[str, Any]:
    return {
        "series": entry.series,
        "up_to": entry.up_to if entry.up_to != float("inf") else None,
        "reason": entry.reason,
        "until": entry.until.isoformat(),
        "owner": entry.owner,
        "counts": entry.counts(day),
    }
