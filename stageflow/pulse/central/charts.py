"""The history as the page draws it: an overview of what the eye can see, and the rest in pieces."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from stageflow.pulse.central.history import History, Series
from stageflow.pulse.central.now import Judged
from stageflow.pulse.central.shrink import rounded, visible
from stageflow.pulse.gate import units
from stageflow.pulse.gate.series import signal_of

#: So many commits make a piece, which the page loads when somebody looks closer or compares.
PIECE = 250


def overview(history: History, found: Judged, hash_length: int) -> dict[str, Any]:
    """All series, each with no more values than a chart has columns for.

    Args:
        history: What was measured.
        found: Its budgets and change points.
        hash_length: How many digits of a commit's hash the site's page of commits goes by.
    """
    commits = history.commits
    return {
        "machine": history.machine,
        "elsewhere": history.elsewhere,
        "hash_length": hash_length,
        "hashes": "".join(commit.hash[:hash_length] for commit in commits),
        "at_s": _differences([commit.at_s for commit in commits]),
        "piece": PIECE,
        "limits": None if found.budgets is None else asdict(found.budgets.limits),
        "series": [_series(series, found) for series in history.series],
    }


def pieces(history: History) -> Iterator[dict[str, Any]]:
    """Subjects and all values of some commits after another, series by series."""
    for first in range(0, len(history.commits), PIECE):
        part = slice(first, first + PIECE)
        yield {
            "number": first // PIECE,
            "subjects": [commit.subject for commit in history.commits[part]],
            "values": [[rounded(v) for v in series.values[part]] for series in history.series],
        }


def _series(series: Series, found: Judged) -> dict[str, Any]:
    steps = found.steps.get(series.name, ())
    at = sorted({*visible(series.values), *(step.at for step in steps)})
    newest = series.newest
    return {
        "name": series.name,
        "unit": series.unit,
        "signal": signal_of(series.name),
        "budget": _budget(series, found),
        "at": _differences(at),
        "values": [rounded(series.values[n]) for n in at],
        "steps": [[step.at, rounded(step.before), rounded(step.after)] for step in steps],
        "percentiles": _percentiles(series),
        "newest": newest,
    }


def _percentiles(series: Series) -> list[float | None] | None:
    """P50, P95 and P99 of the newest commit that has enough samples for them."""
    if not series.percentiles:
        return None
    return [rounded(value) for value in series.percentiles[max(series.percentiles)]]


def _budget(series: Series, found: Judged) -> dict[str, Any] | None:
    """The budget in the unit of the series."""
    budget = found.held(series.name)
    if budget is None:
        return None
    factor = units.factor(budget.unit, series.unit)
    return {
        "metric": budget.metric,
        "p50": rounded(budget.p50 * factor),
        "p99": None if budget.p99 is None else rounded(budget.p99 * factor),
        "runbook": budget.runbook,
    }


def _differences(numbers: list[int]) -> list[int]:
    """Each number less the one before it: shorter to write down."""
    return [b - a for a, b in zip([0, *numbers], numbers, strict=False)]
