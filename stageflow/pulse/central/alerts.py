"""The alerts that fire, as the evaluator of ``stageflow pulse alert`` has written them down.

The seam between the two: its state file and its table of rules, so that either works without the
other.
"""

from __future__ import annotations

import json
import re
import sqlite3
import tomllib
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stageflow.postgres_url import shown
from stageflow.sqlite_file import connect
from stageflow.telemetry.place import Place

RULES_FILE = "alerts.toml"
#: What the values of a kind of rule are, in words; a factor and a unit.
_UNITS = {
    "latency": ("P99 latency", 1.0, "ms"),
    "first_audio": ("P99 time to first audio", 1.0, "ms"),
    "error_rate": ("failed runs", 100.0, "%"),
    "burn_rate": ("failed runs", 100.0, "%"),
    "dead_letters": ("dead letters waiting", 1.0, "letters"),
}
_PATIENCE_S = 1.0


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert that fires.

    Attributes:
        rule: Name of its rule.
        what: Of what, how much, and who is likely to blame, in words.
        since_s: Since when, in seconds since the epoch.
        runbook: Section of docs/runbook.md that says what to do; empty if the rule is not known.
    """

    rule: str
    what: str
    since_s: float
    runbook: str


def state_of(store: Place, root: Path = Path()) -> Path:
    """Where the evaluator keeps the state of the alerts on a store of telemetry.

    That is beside a file; for a database, in the repository at `root`.
    """
    if isinstance(store, str):
        return root / ".asv" / f"{re.sub(r'[^A-Za-z0-9]+', '-', shown(store))}.alerts.db"
    return store.with_suffix(f".alerts{store.suffix}")


def firing(state: Path, rules: Path) -> tuple[list[Alert] | None, str]:
    """The alerts that fire, and what is wrong with the file if it cannot be read.

    Args:
        state: The evaluator's file.
        rules: The table of rules, which names their runbook sections.

    Returns:
        None in place of alerts if nobody has evaluated any, or the file cannot be read.
    """
    if not state.exists():
        return None, ""
    try:
        with closing(connect(state, create=False, busy_timeout_s=_PATIENCE_S)) as connection:
            rows = connection.execute(
                "SELECT rule, labels, value, likely, firing_s FROM alerts"
                " WHERE firing_s IS NOT NULL ORDER BY firing_s, rule, labels"
            ).fetchall()
        known = _rules(rules)
        return [_alert(known.get(row[0], {}), row) for row in rows], ""
    except (OSError, sqlite3.Error, ValueError, TypeError, KeyError, AttributeError) as error:
        return None, f"The alerts in {state.name} cannot be read ({type(error).__name__}: {error})."


def _rules(path: Path) -> dict[str, dict[str, Any]]:
    if not path.exists():
        return {}
    rules = tomllib.loads(path.read_text(encoding="utf-8"))["alert"]
    return {str(rule["name"]): rule for rule in rules}


def _alert(rule: dict[str, Any], row: tuple[Any, ...]) -> Alert:
    name, labels, value, likely, since_s = row
    said = ", ".join(f"{label} {text}" for label, text in json.loads(labels))
    if rule.get("kind") in _UNITS:
        measured, factor, unit = _UNITS[rule["kind"]]
        said += f"{', ' if said else ''}{measured} {value * factor:,.4g} {unit}"
    if likely:
        said += f"; likely {likely}"
    return Alert(str(name), said, float(since_s), str(rule.get("runbook", "")))
