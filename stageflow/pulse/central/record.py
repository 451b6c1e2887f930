"""The gate's own record: how far its self-test found it to be trusted, and what its runs cost."""

from __future__ import annotations

import datetime as dt
import json
from collections import Counter
from pathlib import Path
from typing import Any

from stageflow.pulse.gate.runs import recorded

SELFTEST_FILE = "docs/gate-selftest.json"
#: The newest so many runs are shown one by one.
RUNS = 200


def gate_record(root: Path) -> dict[str, Any]:
    """The panel's data of the repository in `root`, as JSON's values."""
    runs, unread = recorded(root)
    selftest, problem = _selftest(root / SELFTEST_FILE)
    notes = [problem] if problem else []
    if unread:
        notes.append(f"{unread} lines of the record of runs cannot be read and were left out.")
    return {
        "selftest": selftest,
        "runs": [
            [
                dt.datetime.fromisoformat(run.at).timestamp(),
                run.base,
                run.head,
                run.exit,
                run.wall_s,
            ]
            for run in runs[-RUNS:]
        ],
        "exits": {str(code): count for code, count in Counter(run.exit for run in runs).items()},
        "count": len(runs),
        "notes": notes,
    }


def _selftest(path: Path) -> tuple[dict[str, Any] | None, str]:
    if not path.exists():
        return None, ""
    try:
        # Something that came of nothing rose infinitely, which JSON has no number for.
        found = json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda _: None)
        keys = ("at", "commit", "machine", "series", "identical", "planted", "faults")
        return {key: found[key] for key in keys}, ""
    except (OSError, ValueError, KeyError, TypeError) as error:
        return None, f"{path.name} cannot be read: {error!r}"
