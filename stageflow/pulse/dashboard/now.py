"""Present trouble: budgets exceeded, regressions open or accepted, alerts that fire."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stageflow.pulse import gate
from stageflow.pulse import history as hist
from stageflow.pulse.alerts import AlertState, state_of
from stageflow.pulse.dashboard.records import DashboardSettings, load_settings
from stageflow.pulse.dashboard.telemetry import LiveBudgets
from stageflow.pulse.errors import PulseError
from stageflow.pulse.history import AsvProject, History, Series, Step
from stageflow.telemetry import Place

#: The number of newest commits among which steps of timings are searched.
SEARCHED = 1000


@dataclass(frozen=True, slots=True)
class Judged:
    """The history compared with its budgets, and notes on what could not be read."""

    settings: DashboardSettings = field(default_factory=DashboardSettings)
    budgets: gate.Budgets | None = None
    accepted: tuple[gate.Accepted, ...] = ()
    checks: tuple[gate.Check, ...] = ()
    steps: Mapping[str, Sequence[Step]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def live_budgets(self) -> LiveBudgets:
        """The budgets of running pipelines."""
        budgets = self.budgets.budgets if self.budgets else ()
        return LiveBudgets(budgets, self.settings.live_budgets)

    def budget_of(self, series: str) -> gate.Budget | None:
        """Return the first budget of a series."""
        return next((b for b in self.live_budgets.budgets if b.series == series), None)


def judged(project: AsvProject, history: History) -> Judged:
    """Check the newest commit against the budgets, and find the steps of every series.

    A mistake in the files of settings becomes a note.
    """
    try:
        settings = load_settings(project.benchmarks_dir)
    except PulseError as error:
        return Judged(notes=(f"Settings were not read: {error}",))
    path = project.benchmarks_dir / gate.BUDGETS_FILE
    if not path.exists():
        note = f"There are no budgets: {path.relative_to(project.root)} is missing."
        return Judged(settings, notes=(note,) if project.branch else ())  # or no repository
    try:
        catalogue = gate.list_benchmarks(project)
    except PulseError:
        # Not the error itself: it holds a traceback of this machine.
        note = "The benchmarks cannot be listed: stageflow pulse budgets says why."
        return Judged(settings, notes=(note,))
    try:
        sections = gate.sections_of(project.root / gate.RUNBOOK)
        budgets = gate.load_budgets(path, catalogue.units, sections)
        accepted = gate.load_accepted(project.benchmarks_dir / gate.ACCEPTED_FILE, catalogue.units)
    except PulseError as error:
        return Judged(settings, notes=(f"Budgets and acceptances were not read: {error}",))
    checks: tuple[gate.Check, ...] = ()
    if history.commits:
        machine = history.machine.partition(",")[0]
        checks = gate.checks_at(
            gate.Asv(project, machine, catalogue, ""), budgets, history.commits[-1].hash
        )
    steps = {series.name: _steps(series, budgets.limits) for series in history.series}
    return Judged(settings, budgets, accepted, checks, steps)


def _steps(series: Series, limits: gate.Limits) -> Sequence[Step]:
    """Find the steps of a series that the gate would warn of; in timings, the newest ones."""
    timed, old = hist.scatters(series.name), len(series.values) - SEARCHED
    values = [None if timed and at < old else value for at, value in enumerate(series.values)]
    return hist.steps_of(values, limits.warn(hist.signal_of(series.name)), timed=timed)


def wrong_now(project: AsvProject, history: History, found: Judged, store: Place) -> dict[str, Any]:
    """Return the panel's data as JSON's values, with the alerts on the telemetry in `store`."""
    alerts, problem = firing(state_of(store, project.root))
    regressions, known = list(_regressions(history, found)), (gate.State.OVER, gate.State.KEPT)
    return {
        "budgets": [_check(check) for check in found.checks if check.state is gate.State.OVER],
        "kept": sum(check.state is gate.State.KEPT for check in found.checks),
        "unknown": sum(check.state not in known for check in found.checks),
        "regressions": [row for row in regressions if row["accepted"] is None],
        "known": [row for row in regressions if row["accepted"] is not None],
        "accepted": [
            {name: getattr(entry, name) for name in ("series", "reason", "owner")}
            | {"up_to": entry.up_to if entry.up_to != float("inf") else None}
            | {"until": entry.until.isoformat(), "counts": entry.counts(gate.today())}
            for entry in found.accepted
        ],
        **alerts,
        "notes": [*found.notes, *([problem] if problem else [])],
    }


def firing(state: Path) -> tuple[dict[str, Any], str]:
    """Return the alerts that fire, oldest first, and up to when (since the epoch) it is known.

    Both are None if there is no readable state; then the text says why.
    """
    unknown = {"alerts": None, "evaluated_s": None}
    if not state.exists():
        return unknown, ""
    try:
        with AlertState(state, create=False, busy_timeout_s=1.0) as opened:
            alerts, until_s = opened.alerts().values(), opened.until()
    except PulseError as error:
        return unknown, f"The alerts in {state.name} cannot be read: {error}"
    found: list[dict[str, Any]] = [
        {
            **{name: getattr(alert, name) for name in ("rule", "kind", "owner", "runbook")},
            "labels": dict(alert.labels),
            "what": alert.what + (f"; likely {alert.likely}" if alert.likely else ""),
            "since_s": alert.firing_s,
        }
        for alert in alerts
        if alert.firing_s is not None
    ]
    found.sort(key=lambda alert: alert["since_s"])
    return {"alerts": found, "evaluated_s": until_s}, ""


def _check(check: gate.Check) -> dict[str, Any]:
    names = ("metric", "series", "unit", "runbook", "gate")
    figures = {"figure": check.figure, "limit": check.limit}
    figures["measured"] = hist.rounded(check.measured)
    return {name: getattr(check.budget, name) for name in names} | figures


def _regressions(history: History, found: Judged) -> Iterator[dict[str, Any]]:
    if found.budgets is None:
        return
    for series in history.series:
        fail = found.budgets.limits.fail(hist.signal_of(series.name))
        step = hist.open_step(series.values, found.steps.get(series.name, ()), fail)
        if step is not None:
            yield _regression(series, step, found)


def _regression(series: Series, step: Step, found: Judged) -> dict[str, Any]:
    name, ratio = series.name, hist.ratio_of(step.before, step.now)
    budget = found.budget_of(name)
    accepted = any(entry.covers(name, ratio, gate.today()) for entry in found.accepted)
    return {
        "series": name,
        "unit": series.unit,
        "at": step.at,
        "before": hist.rounded(step.before),
        "after": hist.rounded(step.now),
        # JSON has no infinity, which is the ratio to 0.
        "ratio": hist.rounded(ratio) if step.before > 0 else None,
        "runbook": budget and budget.runbook,
        "accepted": name if accepted else None,
    }
