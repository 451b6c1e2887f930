"""The alerts that fire, as whatever evaluates them has written them down.

The seam between this page and the evaluator: a file, so that either works without the other.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

#: ``{"version": 1, "firing": [{"rule": …, "what": …, "since_s": …, "runbook": …}, …]}``
ALERTS_FILE = ".asv/alerts.json"
_VERSION = 1


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert that fires.

    Attributes:
        rule: Name of its rule.
        what: What is wrong and how much, in a sentence.
        since_s: Since when, in seconds since the epoch.
        runbook: Section of docs/runbook.md that says what to do.
    """

    rule: str
    what: str
    since_s: float
    runbook: str


def firing(path: Path) -> tuple[list[Alert] | None, str]:
    """The alerts that fire, and what is wrong with the file if it cannot be read.

    Returns:
        None in place of alerts if nobody has evaluated any, or the file cannot be read.
    """
    if not path.exists():
        return None, ""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["version"] != _VERSION:
            return None, f"{path.name} is of version {content['version']}, not {_VERSION}"
        alerts = [
            Alert(str(one["rule"]), str(one["what"]), float(one["since_s"]), str(one["runbook"]))
            for one in content["firing"]
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return None, f"{path.name} cannot be read: {error!r}"
    return alerts, ""
