"""The gate's report, as text, Markdown and JSON."""

from __future__ import annotations

import datetime as dt
import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from stageflow._utils.text import printable
from stageflow.pulse.gate.budgets import RUNBOOK
from stageflow.pulse.gate.judge import Check, Exit, Judgement, Kind, State, Verdict

JSON_VERSION = 1
#: What is only named or counted; the rest is shown row by row.
_NAMED = (Kind.OTHER_MACHINE, Kind.NEW, Kind.REMOVED, Kind.NOT_COUNTED, Kind.SKIPPED)
_COUNTED = (Kind.UNCHANGED, Kind.ALONE)
_VERDICT_COLUMNS = ("what", "verdict", "base to head", "change", "signal", "how sure")
CHECK_COLUMNS = ("budget", "benchmark", "figure", "measured", "limit", "state", "owner", "fix")


@dataclass(frozen=True, slots=True)
class Report:
    """A judgement of two commits, given by full hashes; `base` is None for a first commit.

    `machine` is the machine, processor and Python of the measurements.
    """

    judgement: Judgement
    base: str | None
    head: str
    machine: str
    at: dt.datetime

    def text(self) -> str:
        """Return the report for a terminal."""
        headline, commits = self._heading()
        head = [headline, printable(f"{commits}, on {self.machine}")]
        parts = [head, *map(text_table, self._tables()), list(self._remarks())]
        return "\n\n".join("\n".join(part) for part in parts) + "\n"

    def markdown(self) -> str:
        """Return the report for a pull request."""
        headline, commits = self._heading()
        head = [f"## {headline}", "", f"`{commits}`, on {_escaped(self.machine)}"]
        remarks = [f"- {_escaped(line)}" for line in self._remarks()]
        parts = [head, *map(_markdown_table, self._tables()), remarks]
        return "\n\n".join("\n".join(part) for part in parts) + "\n"

    def json(self) -> str:
        """Return the report for programs: every verdict and every check."""
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

    def _heading(self) -> tuple[str, str]:
        code = self.judgement.exit
        commits = f"{self.base[:10]}..{self.head[:10]}" if self.base else self.head[:10]
        name = "A BENCHMARK BROKE" if code is Exit.BROKEN else code.name.replace("_", " ")
        return f"Gate: {name} (exit code {int(code)})", commits

    def _tables(self) -> Iterator[list[tuple[str, ...]]]:
        verdicts = self.judgement.verdicts
        if rows := [_verdict_row(v) for v in verdicts if v.kind not in (*_NAMED, *_COUNTED)]:
            yield [_VERDICT_COLUMNS, *rows]
        shown = (State.OVER, State.UNSURE, State.TOO_FEW)
        if rows := [check_row(check) for check in self.judgement.checks if check.state in shown]:
            yield [CHECK_COLUMNS, *rows]

    def _remarks(self) -> Iterator[str]:
        for kind in _NAMED:
            names = [v.series for v in self.judgement.verdicts if v.kind is kind]
            if names:
                yield f"{kind[0].upper()}{kind[1:]} ({len(names)}): {', '.join(names)}."
        for kind in _COUNTED:
            signals = Counter(v.signal for v in self.judgement.verdicts if v.kind is kind)
            if signals:
                counts = ", ".join(f"{number} {signal}" for signal, number in signals.items())
                yield f"{kind[0].upper()}{kind[1:]}: {counts}."
        states = Counter(check.state for check in self.judgement.checks)
        if states:
            counts = ", ".join(f"{states[state]} {state}" for state in State if states[state])
            yield f"Figures of budgets: {counts}."
        slower = [v.series for v in self.judgement.verdicts if v.kind is Kind.REGRESSION]
        if slower and self.base:
            find = f'stageflow pulse bisect "{slower[0]}" --base {self.base[:10]}'
            yield f"To find the commit: {find}"
        yield from self.judgement.notes


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
    """Return a figure of a budget as a row of a table."""
    budget = check.budget
    known = None if check.measured is None else amount(check.measured)
    measured = "; ".join(part for part in (known, check.note) if part)
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
    """Return a ratio as a change in per cent."""
    if ratio is None:
        return ""
    return "from nothing" if math.isinf(ratio) else f"{(ratio - 1) * 100:+.1f} %"


def amount(value: float | None) -> str:
    """Return a figure with four digits, or as a whole number."""
    if value is None:
        return "none"
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def text_table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows of cells as lines of text with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _markdown_table(rows: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(map(_escaped, row)) + " |" for row in rows]
    return [lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]


def _escaped(text: str) -> str:
    """Return text that Markdown shows as it is: names of benchmarks have underscores and stars."""
    return "".join(f"\\{sign}" if sign in "\\|*_`<>[]#" else sign for sign in printable(text))


def _plain(value: Any) -> Any:
    """Return a value with null for infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
