"""The gate's report: one table that a person reads in a minute, as text, Markdown and JSON."""

from __future__ import annotations

import datetime as dt
import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from stageflow.pulse.gate.judge import Check, Exit, Judgement, Kind, State, Verdict
from stageflow.pulse.gate.runbook import RUNBOOK

JSON_VERSION = 1

#: What is shown row by row; the rest is named or counted.
_ROWS = (
    Kind.BROKEN,
    Kind.LOST_API,
    Kind.NOT_MEASURED,
    Kind.REGRESSION,
    Kind.SLOWER,
    Kind.ACCEPTED,
    Kind.BROKE_ON_BASE,
    Kind.FASTER,
)
_NAMED = (Kind.OTHER_MACHINE, Kind.NEW, Kind.REMOVED, Kind.NOT_COUNTED, Kind.SKIPPED)
_COUNTED = (Kind.UNCHANGED, Kind.ALONE)
_HEADLINES = {
    Exit.FINE: "fine",
    Exit.REGRESSION: "REGRESSION",
    Exit.OVER_BUDGET: "OVER BUDGET",
    Exit.TOO_LITTLE: "TOO LITTLE WAS MEASURED",
    Exit.BROKEN: "A BENCHMARK BROKE",
}
_VERDICT_COLUMNS = ("what", "verdict", "base to head", "change", "signal", "how sure")
_CHECK_COLUMNS = ("budget", "benchmark", "figure", "measured", "limit", "state", "owner", "mend")


@dataclass(frozen=True, slots=True)
class Report:
    """A judgement, and what it is about.

    Attributes:
        judgement: What was found.
        base, head: The commits, by their full hashes; no base for a first commit.
        machine: Machine, processor and Python of the measurements.
        at: When the report was made.
    """

    judgement: Judgement
    base: str | None
    head: str
    machine: str
    at: dt.datetime

    def text(self) -> str:
        """The report for a terminal."""
        parts = [[self._headline(), f"{self._range()}, on {self.machine}"]]
        if rows := self._verdict_rows():
            parts.append(text_table([_VERDICT_COLUMNS, *rows]))
        if rows := self._check_rows():
            parts.append(text_table([_CHECK_COLUMNS, *rows]))
        parts.append([*self._named(), *self._counts(), *self.judgement.notes])
        return "\n\n".join("\n".join(part) for part in parts) + "\n"

    def markdown(self) -> str:
        """The report for a pull request."""
        parts = [[f"## {self._headline()}"], [f"`{self._range()}`, on {self.machine}"]]
        if rows := self._verdict_rows():
            parts.append(_markdown_table([_VERDICT_COLUMNS, *rows]))
        if rows := self._check_rows():
            parts.append(_markdown_table([_CHECK_COLUMNS, *rows]))
        said = [*self._named(), *self._counts(), *self.judgement.notes]
        parts.append([f"- {_escaped(line)}" for line in said])
        return "\n\n".join("\n".join(part) for part in parts) + "\n"

    def json(self) -> str:
        """The report for programs: every verdict and every check."""
        judgement = self.judgement
        content = {
            "version": JSON_VERSION,
            "exit": {"code": int(judgement.exit), "name": judgement.exit.name.lower()},
            "base": self.base,
            "head": self.head,
            "machine": self.machine,
            "at": self.at.isoformat(),
            "verdicts": [_plain(asdict(verdict)) for verdict in judgement.verdicts],
            "budgets": [_plain(asdict(check)) for check in judgement.checks],
            "notes": judgement.notes,
        }
        return json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n"

    def _headline(self) -> str:
        code = self.judgement.exit
        return f"Gate: {_HEADLINES[code]} (exit code {int(code)})"

    def _range(self) -> str:
        return f"{self.base[:10]}..{self.head[:10]}" if self.base else self.head[:10]

    def _verdict_rows(self) -> list[tuple[str, ...]]:
        return [_verdict_row(v) for v in self.judgement.verdicts if v.kind in _ROWS]

    def _check_rows(self) -> list[tuple[str, ...]]:
        shown = (State.OVER, State.TOO_FEW)
        return [check_row(check) for check in self.judgement.checks if check.state in shown]

    def _named(self) -> Iterator[str]:
        for kind in _NAMED:
            names = [v.series for v in self.judgement.verdicts if v.kind is kind]
            if names:
                yield f"{kind[0].upper()}{kind[1:]} ({len(names)}): {', '.join(names)}."

    def _counts(self) -> Iterator[str]:
        for kind in _COUNTED:
            signals = Counter(v.signal for v in self.judgement.verdicts if v.kind is kind)
            if signals:
                counts = ", ".join(f"{number} {signal}" for signal, number in signals.items())
                yield f"{kind[0].upper()}{kind[1:]}: {counts}."
        states = Counter(check.state for check in self.judgement.checks)
        if states:
            counts = ", ".join(f"{states[state]} {state}" for state in State if states[state])
            yield f"Figures of budgets: {counts}."


def _verdict_row(verdict: Verdict) -> tuple[str, ...]:
    sure = ": ".join(" ".join(part.split()) for part in (verdict.sure, verdict.note) if part)
    return (
        verdict.series,
        str(verdict.kind),
        f"{amount(verdict.base)} to {amount(verdict.head)} {verdict.unit}",
        change(verdict.ratio),
        str(verdict.signal),
        sure,
    )


def check_row(check: Check) -> tuple[str, ...]:
    """A figure of a budget, as a row of a table."""
    budget = check.budget
    measured = check.note if check.measured is None else amount(check.measured)
    return (
        budget.metric,
        budget.series,
        check.figure,
        measured,
        f"{amount(check.limit)} {budget.unit}",
        str(check.state),
        budget.owner,
        f"{RUNBOOK}#{budget.runbook}",
    )


def change(ratio: float | None) -> str:
    """A ratio as a change in per cent."""
    if ratio is None:
        return ""
    return "from nothing" if math.isinf(ratio) else f"{(ratio - 1) * 100:+.1f} %"


def checks_table(checks: Sequence[Check]) -> list[str]:
    """All figures of budgets as a table of text."""
    return text_table([_CHECK_COLUMNS, *(check_row(check) for check in checks)])


def amount(value: float | None) -> str:
    """A figure with as many digits as are worth reading."""
    if value is None:
        return "none"
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def text_table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines of text with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _markdown_table(rows: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(map(_escaped, row)) + " |" for row in rows]
    return [lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]


def _escaped(text: str) -> str:
    """Text that Markdown shows as it is: names of benchmarks have underscores and stars."""
    return "".join(f"\\{sign}" if sign in "\\|*_`<>[]#" else sign for sign in text)


def _plain(value: Any) -> Any:
    """What JSON has: a ratio that is infinite becomes null, since JSON knows no infinity."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
