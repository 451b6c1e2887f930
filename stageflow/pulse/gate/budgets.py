"""The gate's settings: ``benchmarks/budgets.toml`` and ``benchmarks/accepted.toml``."""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from stageflow.errors.base import did_you_mean
from stageflow.pulse.gate.checked_toml import Key, Settings, Table, keys_of
from stageflow.pulse.history import Signal, fitting_units, matches_series, signal_of, unit_factor

RUNBOOK = "docs/runbook.md"


class Gate(StrEnum):
    """When a budget is checked."""

    PRE_MERGE = "pre-merge"
    NIGHTLY = "nightly"


@dataclass(frozen=True, slots=True)
class Limits:
    """Ratios of head to base beyond which a series fails, or is only named."""

    counted_fail: float
    counted_warn: float
    timed_fail: float
    timed_warn: float

    def warn(self, signal: Signal) -> float:
        """Return the ratio beyond which a series of that signal is named as slower."""
        return {Signal.EXACT: 1.0, Signal.COUNTED: self.counted_warn}.get(signal, self.timed_warn)

    def fail(self, signal: Signal) -> float:
        """Return the ratio beyond which a series of that signal fails the gate."""
        return {Signal.EXACT: 1.0, Signal.COUNTED: self.counted_fail}.get(signal, self.timed_fail)


#: Of a project without a file of budgets.
DEFAULT_LIMITS = Limits(counted_fail=1.095, counted_warn=1.02, timed_fail=1.2, timed_warn=1.05)


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits of a series: of its median (or only value) and of 99 of 100 cases.

    Attributes:
        factor: Converts a value of the series to `unit`, the unit of the limits.
        runbook: Section of docs/runbook.md that says what to do when it is exceeded.
        reference: A series of the same unit, and its value where the limits were set: elsewhere
            the limits grow and shrink with it. None: they are the same everywhere.
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
    reference: tuple[str, float] | None = None


@dataclass(frozen=True, slots=True)
class Budgets:
    """The content of the file."""

    limits: Limits
    budgets: tuple[Budget, ...]

    def held(self, *, nightly: bool) -> tuple[Budget, ...]:
        """Return those that are checked before a merge; by night, all."""
        return tuple(b for b in self.budgets if nightly or b.gate is Gate.PRE_MERGE)


_BUDGET = keys_of(Budget, "series", "factor", "line", "reference") | {"benchmark": Key(str)}
_REFERENCE = {"benchmark": Key(str), "value": Key(float)}
_WITHOUT = {"benchmarks": Key(str), "reason": Key(str)}


def load_budgets(
    path: Path, known: Mapping[str, str], sections: Collection[str] | None = None
) -> Budgets:
    """Read and check the budgets.

    Args:
        path: The file.
        known: Unit of every series.
        sections: Those of the runbook; None if there is no runbook.
    """
    settings = Settings(path)
    settings.check_top({"limits": dict, "reference": list, "budget": list, "without_budget": list})
    limits = _limits(settings)
    tables = settings.tables("budget", _BUDGET)
    budgets = [_budget(table, known) for table in tables]
    text = "{metric!r} of {benchmark} has a budget"
    sound = [table for table in tables if not table.problems]
    settings.check_once(sound, lambda table: text.format_map(table.values))
    for table in tables:
        section = table.values.get("runbook")
        if sections is not None and section is not None and section not in sections:
            near = f"or the name of one that it has{did_you_mean(section, sections)}"
            problem = f"{RUNBOOK} has no section {section!r}: write ## {section} there, {near}"
            table.complain(problem, "runbook")
    named = {table.values["benchmark"] for table in tables if "benchmark" in table.values}
    references = _references(settings, known)
    _check_complete(settings, named, known)
    settings.finish()
    assert limits is not None  # or there was a problem
    found = (replace(b, reference=references.get(b.unit)) for b in budgets if b is not None)
    return Budgets(limits, tuple(found))


def p99_limits_ms(path: Path) -> Mapping[str, float]:
    """Return the p99 of each budget that has one in milliseconds, by its metric.

    This needs no benchmarks, which a machine that watches a live system does not have.
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
    table = settings.table("limits", keys_of(Limits), required=True)
    if table is None or table.problems:
        return None
    for signal in (Signal.COUNTED, Signal.TIMED):
        warn, fail = table.values[f"{signal}_warn"], table.values[f"{signal}_fail"]
        if not 1 <= warn <= fail < math.inf:
            table.complain(
                f"{signal}_warn = {warn} and {signal}_fail = {fail} are ratios of head to base: "
                "write them with 1 <= warn <= fail",
                f"{signal}_warn",
            )
    return Limits(**table.values)


def _references(settings: Settings, known: Mapping[str, str]) -> dict[str, tuple[str, float]]:
    """Return by unit a series, and its value where the limits in that unit were set."""
    tables = [t for t in settings.tables("reference", _REFERENCE) if not t.problems]
    found: dict[str, tuple[str, float]] = {}
    for table in tables:
        series, value = table.values["benchmark"], float(table.values["value"])
        if not 0 < value < math.inf:
            table.complain(f"value = {value} is not above 0: write what was measured", "value")
        if _check_known(table, series, known):
            found[known[series]] = (series, value)
    sound = [table for table in tables if not table.problems]
    settings.check_once(sound, lambda t: f"{known[t.values['benchmark']]} have a reference")
    return found


def _budget(table: Table, known: Mapping[str, str]) -> Budget | None:
    if table.problems:
        return None
    values = {"p99": None, **table.values}
    series, unit, p50, p99 = values.pop("benchmark"), values["unit"], values["p50"], values["p99"]
    for key in ("p50", "p99"):
        if values[key] is not None and not 0 <= values[key] < math.inf:
            table.complain(f"{key} = {values[key]} is not a cost: write a number from 0 up", key)
    if p99 is not None and p99 < p50:
        table.complain(f"p99 = {p99:g} is below p50 = {p50:g}: exchange them", "p99")
    if p99 is not None and signal_of(series) in (Signal.EXACT, Signal.COUNTED):
        problem = f"{series} has one value a commit and no percentiles: remove p99"
        table.complain(problem, "p99")
    if _check_known(table, series, known) and unit not in (fitting := fitting_units(known[series])):
        text = f"{unit!r} does not fit {series}, measured in {known[series]}"
        table.complain(f"{text}: write {' or '.join(fitting)}", "unit")
    if table.problems:
        return None
    factor = unit_factor(known[series], unit)
    return Budget(series=series, factor=factor, line=table.line, **values)


def _check_known(table: Table, series: str, known: Collection[str]) -> bool:
    if series not in known:
        near = did_you_mean(series, known)
        table.complain(f"there is no benchmark {series!r}{near}", "benchmark")
    return series in known


def _check_complete(settings: Settings, named: set[str], known: Mapping[str, str]) -> None:
    excused: set[str] = set()
    for table in settings.tables("without_budget", _WITHOUT):
        pattern = table.values.get("benchmarks")
        if pattern is None:
            continue
        matched = {series for series in known if matches_series(series, pattern)}
        if not matched:
            problem = f"{pattern!r} matches no benchmark: remove or correct it"
            table.complain(f"{problem}{did_you_mean(pattern, known)}", "benchmarks")
        excused |= matched
    for series in known:
        judged = signal_of(series) is not Signal.HISTORY
        if judged and series not in named | excused:
            settings.complain(
                None,
                f"{series} ({known[series]}) has no budget: add a [[budget]] with "
                f'benchmark = "{series}", or a [[without_budget]] with a reason',
            )


def sections_of(path: Path) -> Mapping[str, str] | None:
    """Return the text of each section by its name, in order; None if there is no such file."""
    if not path.exists():
        return None
    _, *sections = re.split(r"^## ", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    parts = (section.partition("\n") for section in sections)
    return {name.strip(): body.strip() for name, _, body in parts}


@dataclass(frozen=True, slots=True)
class Accepted:
    """An accepted regression: up to which ratio of head to base, why, until when, by whom."""

    series: str
    up_to: float
    reason: str
    until: dt.date
    owner: str
    line: int

    def counts(self, today: dt.date) -> bool:
        """Return whether it has not expired."""
        return today <= self.until

    def covers(self, series: str, ratio: float, today: dt.date) -> bool:
        """Return whether a series may have become slower by that ratio."""
        return series == self.series and ratio <= self.up_to and self.counts(today)


def load_accepted(path: Path, known: Collection[str] | None) -> tuple[Accepted, ...]:
    """Read and check the accepted regressions; return none if there is no such file.

    Each has to be of a series in `known`, if that is given.
    """
    if not path.exists():
        return ()
    settings = Settings(path)
    settings.check_top({"accepted": list})
    keys = keys_of(Accepted, "series", "line") | {"benchmark": Key(str)}
    tables = settings.tables("accepted", keys)
    found = [_accepted(table, known) for table in tables]
    sound = [table for table in tables if not table.problems]
    settings.check_once(sound, lambda table: f"{table.values['benchmark']} is accepted")
    settings.finish()
    return tuple(accepted for accepted in found if accepted is not None)


def _accepted(table: Table, known: Collection[str] | None) -> Accepted | None:
    if table.problems:
        return None
    series, up_to = table.values["benchmark"], table.values["up_to"]
    if known is not None:
        _check_known(table, series, known)
    if not up_to > 1:
        table.complain(
            f"up_to = {up_to} is not above 1: write the ratio of head to base that is "
            "accepted, such as 1.15 (inf where the base is 0)",
            "up_to",
        )
    others = {name: table.values[name] for name in ("reason", "until", "owner")}
    return Accepted(series, up_to, line=table.line, **others)
