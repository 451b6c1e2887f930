"""``stageflow pulse check`` and ``stageflow pulse export``: the data of the page as text."""

from __future__ import annotations

import argparse
import datetime as dt
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from enum import IntEnum
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from stageflow._utils.files import atomic_write
from stageflow._utils.postgres import shown
from stageflow.pulse.arguments import Add, add_store, emit
from stageflow.pulse.dashboard.export import as_line, measurements
from stageflow.pulse.dashboard.now import judged
from stageflow.pulse.dashboard.page import found_store, present
from stageflow.pulse.errors import PulseError
from stageflow.pulse.gate import amount, change
from stageflow.pulse.history import AsvProject, History, read_history
from stageflow.telemetry import Place

#: What the page shows of one finding, or of all of them.
Row: TypeAlias = Mapping[str, Any]


class CheckExit(IntEnum):
    """The exit codes of ``stageflow pulse check``, besides errors."""

    OK = 0
    WRONG = 3
    INSUFFICIENT_DATA = 4


def add_commands(add: Add) -> None:
    """Add the commands."""
    parser = add("check", "print what is wrong now", _check)
    add_store(parser, "check this telemetry")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    parser = add("export", "all measurements as JSON lines", _export)
    parser.add_argument("--into", type=Path, metavar="FILE", help="instead of the standard output")


def _check(arguments: argparse.Namespace) -> CheckExit:
    project, store = AsvProject.load(arguments.repository, reads_only=True), arguments.store
    notes: list[str] = []
    history = read_history(project, notes.append)
    found = judged(project, history)
    checked: Place = store or found_store(project.root, found.settings)
    now, live, _ = present(project, history, found, checked, named=store is not None)
    now["commit"] = history.commits[-1].hash if history.commits else None
    now["live"] = live["over"] if live else []
    now["letters"] = live["letters"]["waiting"] if live else None
    now["notes"] += notes
    known = history.commits or now["alerts"] is not None or now["letters"] is not None
    verdict = CheckExit.OK if known else CheckExit.INSUFFICIENT_DATA
    if any(now[key] for key in ("budgets", "live", "regressions", "alerts", "letters")):
        verdict = CheckExit.WRONG
    if arguments.json:
        emit(json.dumps({"exit": int(verdict), **now}, indent=1, ensure_ascii=False))
    else:
        name = shown(checked) if isinstance(checked, str) else checked.name
        for line in _report(now, history, name, benchmarks=bool(project.branch)):
            emit(line)
    return verdict


def _report(now: Row, history: History, store: str, *, benchmarks: bool) -> Iterator[str]:
    if benchmarks:
        yield from _of_benchmarks(now, history)
    if now["alerts"] is None:
        yield "? alerts: not evaluated; stageflow pulse alert with the same --store does"
    else:
        yield from _part("alerts firing", now["alerts"], "at the last evaluation", _alert)
    if now["letters"] is None:
        yield "? dead letters: there is no telemetry"
    else:
        yield f"{_sign(now['letters'])} {now['letters']} dead letters waiting ({store})"
    for note in now["notes"]:
        yield f"! {note}"


def _of_benchmarks(now: Row, history: History) -> Iterator[str]:
    over = [*now["budgets"], *now["live"]]
    at = f" at {now['commit'][:10]}" if now["commit"] else ""
    counts = f"{now['kept']} kept{at}, {now['unknown']} not measured"
    yield from _part("budgets exceeded", over, counts, _budget)
    counts = f"{len(now['known'])} known and accepted, {len(history.commits)} commits measured"
    rows = [{**row, "commit": history.commits[row["at"]].hash} for row in now["regressions"]]
    yield from _part("regressions open", rows, counts, _regression)


def _part(what: str, rows: Sequence[Row], aside: str, text: Callable[[Row], str]) -> Iterator[str]:
    yield f"{_sign(len(rows))} {len(rows)} {what} ({aside})"
    for row in rows:
        hint = f"; docs/runbook.md#{row['runbook']}" if row["runbook"] else ""
        yield f"    {text(row)}{hint}"


def _sign(count: int) -> str:
    return "✗" if count else "✓"


def _budget(row: Row) -> str:
    measured, limit = amount(row["measured"]), amount(row["limit"])
    figures = f"{row['figure']} {measured} {row['unit']}, budget {limit}"
    return f"{row['metric']}: {figures} ({row['series']})"


def _regression(row: Row) -> str:
    figures = f"{amount(row['before'])} → {amount(row['after'])} {row['unit']}"
    increase = change(math.inf if row["ratio"] is None else row["ratio"])
    return f"{row['series']}: {figures} ({increase}) since {row['commit'][:10]}"


def _alert(row: Row) -> str:
    since = dt.datetime.fromtimestamp(row["since_s"]).astimezone().isoformat(timespec="minutes")
    return f"{row['rule']}: {row['what']}, since {since}"


def _export(arguments: argparse.Namespace) -> None:
    project, count = AsvProject.load(arguments.repository, reads_only=True), 0
    complain = partial(print, file=sys.stderr)
    into: Path | None = arguments.into
    try:
        # A file that cannot be written as a whole is not changed.
        with nullcontext(sys.stdout) if into is None else atomic_write(into) as file:
            for one in measurements(project, complain):
                file.write(as_line(one))
                count += 1
            if not count:
                raise PulseError(
                    f"there are no results in {project.results_dir}: measure some commits first, "
                    "stageflow pulse bench"
                )
    except OSError as error:
        if into is None:
            raise
        raise PulseError(f"the measurements could not be written to {into}: {error}") from error
    complain(f"{count} measurements")
