"""What is wrong now, in words: the page's first panel for a terminal or a script."""

from __future__ import annotations

import datetime as dt
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import IntEnum
from typing import Any

from stageflow.postgres_url import shown
from stageflow.pulse.central.history import History, read_history
from stageflow.pulse.central.now import judged, wrong_now
from stageflow.pulse.central.page import found_store, read_telemetry
from stageflow.pulse.gate.report import amount, change
from stageflow.pulse.project import AsvProject
from stageflow.telemetry.place import Place

Emit = Callable[[str], None]


class CheckExit(IntEnum):
    """What ``stageflow pulse check`` ends with, besides errors."""

    FINE = 0
    WRONG = 3
    NOTHING_KNOWN = 4


def check(project: AsvProject, store: Place | None, emit: Emit, *, as_json: bool) -> CheckExit:
    """Say what is wrong now, without measuring or sending anything.

    Args:
        project: The repository whose newest measured commit is looked at.
        store: The telemetry; None: the one that Central Pulse would show.
        emit: Is told the findings, line by line.
        as_json: Whether they are one JSON object instead.

    Raises:
        PulseError: git does not know the branch.
        TelemetryError: The store was named, and cannot be read.
    """
    history = read_history(project)
    found = judged(project, history)
    looked_at = store or found_store(project.root)
    now = wrong_now(project, history, found, looked_at)
    telemetry, problem = read_telemetry(project, found, store)
    now["commit"] = history.commits[-1].hash if history.commits else None
    now["live"] = telemetry["over"] if telemetry else []
    now["letters"] = telemetry["letters"]["waiting"] if telemetry else None
    now["notes"] += [problem] if problem else []
    verdict = _verdict(now, history)
    if as_json:
        emit(json.dumps({"exit": int(verdict), **now}, indent=1, ensure_ascii=False))
    else:
        for line in _report(now, history, _name(looked_at)):
            emit(line)
    return verdict


def _name(store: Place) -> str:
    return shown(store) if isinstance(store, str) else store.name


def _verdict(now: Mapping[str, Any], history: History) -> CheckExit:
    wrong = ("budgets", "live", "regressions", "alerts", "letters")
    if any(now[key] for key in wrong):
        return CheckExit.WRONG
    known = history.commits or now["alerts"] is not None or now["letters"] is not None
    return CheckExit.FINE if known else CheckExit.NOTHING_KNOWN


def _report(now: Mapping[str, Any], history: History, store: str) -> Iterator[str]:
    over = [*now["budgets"], *now["live"]]
    at = f" at {now['commit'][:10]}" if now["commit"] else ""
    counts = f"{now['kept']} kept{at}, {now['unknown']} not measured"
    yield from _part("budgets exceeded", over, counts, _budget)
    counts = f"{len(now['known'])} known and accepted, {len(history.commits)} commits measured"
    rows = [{**row, "commit": history.commits[row["at"]].hash} for row in now["regressions"]]
    yield from _part("regressions open", rows, counts, _regression)
    if now["alerts"] is None:
        yield f"? alerts: nobody evaluates them; stageflow pulse alert --store {store} does"
    else:
        yield from _part("alerts firing", now["alerts"], "at the last evaluation", _alert)
    if now["letters"] is None:
        yield "? dead letters: there is no telemetry"
    else:
        yield f"{_sign(now['letters'])} {now['letters']} dead letters waiting ({store})"
    for note in now["notes"]:
        yield f"! {note}"


def _part(
    what: str,
    rows: Sequence[Mapping[str, Any]],
    aside: str,
    said: Callable[[Mapping[str, Any]], str],
) -> Iterator[str]:
    yield f"{_sign(len(rows))} {len(rows)} {what} ({aside})"
    for row in rows:
        hint = f"; docs/runbook.md#{row['runbook']}" if row["runbook"] else ""
        yield f"    {said(row)}{hint}"


def _sign(count: int) -> str:
    return "✗" if count else "✓"


def _budget(row: Mapping[str, Any]) -> str:
    measured, limit = amount(row["measured"]), amount(row["limit"])
    figures = f"{row['figure']} {measured} {row['unit']}, budget {limit}"
    return f"{row['metric']}: {figures} ({row['series']})"


def _regression(row: Mapping[str, Any]) -> str:
    figures = f"{amount(row['before'])} → {amount(row['after'])} {row['unit']}"
    rise = change(math.inf if row["ratio"] is None else row["ratio"])
    return f"{row['series']}: {figures} ({rise}) since {row['commit'][:10]}"


def _alert(row: Mapping[str, Any]) -> str:
    since = dt.datetime.fromtimestamp(row["since_s"]).astimezone().isoformat(timespec="minutes")
    return f"{row['rule']}: {row['what']}, since {since}"
