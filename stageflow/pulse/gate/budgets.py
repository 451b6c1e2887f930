"""``benchmarks/budgets.toml``: what each series may cost, and what counts as slower."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from stageflow.errors.base import did_you_mean
from stageflow.pulse.gate import units
from stageflow.pulse.gate.checked_toml import Key, Settings, Table
from stageflow.pulse.gate.runbook import RUNBOOK
from stageflow.pulse.gate.series import Signal, matches, signal_of


class Gate(StrEnum):
    """When a budget is held."""

    PRE_MERGE = "pre-merge"
    NIGHTLY = "nightly"


@dataclass(frozen=True, slots=True)
class Limits:
    """Ratios of head to base beyond which a series fails, or is only named."""

    counted_fail: float
    counted_warn: float
    timed_fail: float
    timed_warn: float


@dataclass(frozen=True, slots=True)
class Budget:
    """What a series may cost at most.

    Attributes:
        metric: What is measured, in words.
        series: The series.
        unit: Unit of the figures below, and what a value of the series is multiplied by to get it.
        p50: At most this in the median; of a series with one value a commit, that value.
        p99: At most this in 99 of 100 cases, if that is asked.
        gate: When it is held.
        owner: Who answers for it.
        runbook: Section of docs/runbook.md that says what to do when it is exceeded.
        line: Where it stands in the file.
    """

    metric: str
    series: str
    unit: str
    factor: float
    p50: float
    p99: float | None
    gate: Gate
    owner: str
    runbook: str
    line: int


@dataclass(frozen=True, slots=True)
class Budgets:
    """The content of the file."""

    limits: Limits
    budgets: tuple[Budget, ...]

    def held(self, *, nightly: bool) -> tuple[Budget, ...]:
        """Those that are held before a merge; by night, all."""
        return tuple(b for b in self.budgets if nightly or b.gate is Gate.PRE_MERGE)


_LIMITS = {name: Key(float) for name in Limits.__slots__}
_BUDGET = {
    "metric": Key(str),
    "benchmark": Key(str),
    "unit": Key(str),
    "p50": Key(float),
    "p99": Key(float, required=False),
    "gate": Key(str),
    "owner": Key(str),
    "runbook": Key(str),
}
_WITHOUT = {"benchmarks": Key(str), "reason": Key(str)}


def load(path: Path, known: Mapping[str, str], sections: Collection[str] | None = None) -> Budgets:
    """Read and check the budgets.

    Args:
        path: The file.
        known: Unit of every series that there is.
        sections: Those of the runbook; None if there is no runbook to look them up in.

    Raises:
        GateSettingsError: Something is wrong; it names every problem with line and mend.
    """
    settings = Settings(path)
    settings.check_top({"limits": dict, "budget": list, "without_budget": list})
    limits = _limits(settings)
    tables = settings.tables("budget", _BUDGET)
    found = [_budget(settings, table, known) for table in tables]
    budgets = [budget for budget in found if budget is not None]
    _check_duplicates(settings, budgets)
    if sections is not None:
        _check_sections(settings, tables, sections)
    named = {table.values["benchmark"] for table in tables if "benchmark" in table.values}
    _check_complete(settings, named, known)
    settings.finish()
    assert limits is not None  # or there was a problem
    return Budgets(limits, tuple(budgets))


def p99_limits_ms(path: Path) -> Mapping[str, float]:
    """The p99 of each budget that has one in milliseconds, by its metric.

    Needs no benchmarks, as a machine that watches a live system has none; `load` checks all.

    Raises:
        GateSettingsError: The file cannot be read, or a budget is malformed.
    """
    settings = Settings(path)
    found = [table.values for table in settings.tables("budget", _BUDGET)]
    settings.finish()
    return {
        values["metric"]: float(values["p99"])
        for values in found
        if values["unit"] == "ms" and "p99" in values
    }


def _limits(settings: Settings) -> Limits | None:
    tables = settings.tables("limits", _LIMITS)
    if not tables:
        settings.complain(1, f"[limits] is missing: write it with {', '.join(_LIMITS)}")
        return None
    (table,) = tables
    if not table.sound:
        return None
    limits = Limits(**{name: float(value) for name, value in table.values.items()})
    for signal in (Signal.COUNTED, Signal.TIMED):
        warn, fail = table.values[f"{signal}_warn"], table.values[f"{signal}_fail"]
        if not 1 <= warn <= fail < math.inf:
            settings.complain(
                settings.line_of(table, f"{signal}_warn"),
                f"{signal}_warn = {warn} and {signal}_fail = {fail} are ratios of head to base: "
                "write them with 1 <= warn <= fail",
            )
    return limits


def _budget(settings: Settings, table: Table, known: Mapping[str, str]) -> Budget | None:
    if not table.sound:
        return None
    values = table.values
    before = len(settings.problems)
    _check_figures(settings, table)
    series, unit = str(values["benchmark"]), str(values["unit"])
    if series not in known:
        line = settings.line_of(table, "benchmark")
        settings.complain(line, f"there is no benchmark {series!r}{did_you_mean(series, known)}")
    elif unit not in units.fitting(known[series]):
        settings.complain(
            settings.line_of(table, "unit"),
            f"{unit!r} does not fit {series}, measured in {known[series]}: "
            f"write {' or '.join(units.fitting(known[series]))}",
        )
    if len(settings.problems) > before:
        return None
    return Budget(
        metric=values["metric"],
        series=series,
        unit=unit,
        factor=units.factor(known[series], unit),
        p50=values["p50"],
        p99=values.get("p99"),
        gate=Gate(values["gate"]),
        owner=values["owner"],
        runbook=values["runbook"],
        line=table.line,
    )


def _check_figures(settings: Settings, table: Table) -> None:
    values = table.values

    def complain(key: str, problem: str) -> None:
        settings.complain(settings.line_of(table, key), problem)

    gate, series, p50, p99 = values["gate"], values["benchmark"], values["p50"], values.get("p99")
    if gate not in list(Gate):
        complain("gate", f"no gate is called {gate!r}, only {' and '.join(Gate)}")
    for key in ("p50", "p99"):
        if key in values and not 0 <= values[key] < math.inf:
            complain(key, f"{key} = {values[key]} is no cost: write a number from 0 up")
    if p99 is None:
        return
    if p99 < p50:
        complain("p99", f"p99 = {p99:g} is below p50 = {p50:g}: exchange them")
    if signal_of(series) in (Signal.EXACT, Signal.COUNTED):
        complain("p99", f"{series} has one value a commit and no percentiles: remove p99")


def _check_sections(settings: Settings, tables: list[Table], sections: Collection[str]) -> None:
    for table in tables:
        section = table.values.get("runbook")
        if section is not None and section not in sections:
            settings.complain(
                settings.line_of(table, "runbook"),
                f"{RUNBOOK} has no section {section!r}: write ## {section} there, or the name of "
                f"one that it has{did_you_mean(section, sections)}",
            )


def _check_duplicates(settings: Settings, budgets: list[Budget]) -> None:
    first: dict[tuple[str, str], Budget] = {}
    for budget in budgets:
        earlier = first.setdefault((budget.series, budget.metric), budget)
        if earlier is not budget:
            settings.complain(
                budget.line,
                f"{budget.metric!r} of {budget.series} has a budget in line {earlier.line} "
                "already: remove one",
            )


def _check_complete(settings: Settings, named: set[str], known: Mapping[str, str]) -> None:
    excused: set[str] = set()
    for table in settings.tables("without_budget", _WITHOUT):
        pattern = table.values.get("benchmarks")
        if pattern is None:
            continue
        matched = {series for series in known if matches(series, pattern)}
        if not matched:
            line = settings.line_of(table, "benchmarks")
            near = did_you_mean(pattern, known)
            settings.complain(line, f"{pattern!r} matches no benchmark: remove or correct it{near}")
        excused |= matched
    for series in known:
        judged = signal_of(series) is not Signal.HISTORY
        if judged and series not in named | excused:
            settings.complain(
                settings.last_line,
                f"{series} ({known[series]}) has no budget: add a [[budget]] with "
                f'benchmark = "{series}", or a [[without_budget]] with a reason',
            )
