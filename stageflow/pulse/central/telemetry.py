"""What a store of telemetry says of running pipelines: latency, errors, breakers, dead letters."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from stageflow.pulse.central.shrink import rounded
from stageflow.pulse.central.states import timelines
from stageflow.pulse.gate import units
from stageflow.pulse.gate.budgets import Budget
from stageflow.telemetry.histogram import BOUNDS_MS, Histogram
from stageflow.telemetry.store import (
    Errors,
    First,
    Latency,
    LetterNote,
    RunNote,
    TelemetryStore,
    Window,
)
from stageflow.timeline.model import timeline

#: Into steps of how many seconds a window may be divided.
_STEPS_S = tuple(
    [60 * n for n in (1, 2, 5, 10, 15, 30)]
    + [3600 * n for n in (1, 2, 3, 6, 12, 24, 48, 7 * 24, 14 * 24, 28 * 24, 91 * 24)]
)
#: At most so many steps: more columns than that are too narrow to point at.
STEPS = 240
#: So many buckets of a histogram make a row of a heat map: ten rows for each power of ten.
_BUCKETS_A_ROW = 5
#: The newest so many dead letters are listed; all are counted.
LETTERS = 50


@dataclass(slots=True)
class _Stage:
    """What is gathered of a stage, or of a pipeline's runs, by step."""

    latency: dict[int, Histogram] = field(default_factory=dict)
    errors: dict[int, Errors] = field(default_factory=dict)


def window_of(store: TelemetryStore, newest_s: float | None = None) -> Window | None:
    """What to show of a store: all of it, or its newest `newest_s` seconds; None if it is empty."""
    covered = store.covered()
    if covered is None:
        return None
    start_s = covered.start_s if newest_s is None else covered.end_s - newest_s
    length_s = covered.end_s - max(start_s, covered.start_s)
    fitting = (step for step in _STEPS_S if length_s / step <= STEPS)
    return Window(max(start_s, covered.start_s), covered.end_s, next(fitting, _STEPS_S[-1]))


def telemetry(store: TelemetryStore, window: Window, budgets: Sequence[Budget]) -> dict[str, Any]:
    """All panels' data of a window, as JSON's values.

    Args:
        store: Where it is read from.
        window: Which stretch of time, with steps.
        budgets: Those of ``benchmarks/budgets.toml``.
    """
    step_s = window.step_s or 60
    start_s, end_s = window.whole
    whole = Window(start_s, end_s, step_s)
    stages = _gathered(store.latencies(whole), store.errors(whole))
    firsts = _gathered_firsts(store.firsts(whole))
    pipelines = sorted({pipeline for pipeline, _ in stages})
    letters = store.dead_letters(whole)
    changes = store.breaker_changes(whole)
    step_of = {start_s + n * step_s: n for n in range((end_s - start_s) // step_s)}
    shown = [
        _stage(key, stage, step_of, budget_of(*key, budgets))
        for key, stage in sorted(stages.items())
    ]
    heard = [
        _measured(key, by_step, step_of, first_budget_of(*key, budgets))
        for key, by_step in sorted(firsts.items())
    ]
    return {
        "store": store.name,
        "sources": store.sources(),
        "start_s": start_s,
        "step_s": step_s,
        "steps": len(step_of),
        "stages": shown,
        "firsts": heard,
        "over": [row for one in (*heard, *shown) for row in _over(one)],
        "runs": [_runs(store, Window(start_s, end_s), name) for name in pipelines],
        "breakers": timelines(changes, (start_s, end_s), STEPS),
        "letters": _letters(letters, start_s, step_s),
    }


def budget_of(pipeline: str, stage: str, budgets: Sequence[Budget]) -> Budget | None:
    """The budget of a pipeline's turns, or of one of its stages: that of its latency benchmark."""
    series = f"{pipeline}.Latency.track_turn"
    if stage:
        series = f"simulation.StageLatency.track_stage('{pipeline}.{stage}')"
    return _of_series(series, budgets)


def first_budget_of(
    pipeline: str, stage: str, stream: str, budgets: Sequence[Budget]
) -> Budget | None:
    """The budget of the first audio of a pipeline's turns, or of the first item of a stream."""
    series = f"simulation.TimeToFirstAudio.track_kernel('{pipeline}')"
    if stage:
        series = f"simulation.TimeToFirstItem.track_stream('{pipeline}.{stage}.{stream}')"
    return _of_series(series, budgets)


def _of_series(series: str, budgets: Sequence[Budget]) -> Budget | None:
    return next((budget for budget in budgets if budget.series == series), None)


def _gathered(
    latencies: Iterable[Latency], errors: Iterable[Errors]
) -> dict[tuple[str, str], _Stage]:
    stages: defaultdict[tuple[str, str], _Stage] = defaultdict(_Stage)
    for latency in latencies:
        key = (latency.pipeline, latency.stage or "")
        stages[key].latency[latency.start_s] = latency.histogram
    for ended in errors:
        stages[ended.pipeline, ended.stage or ""].errors[ended.start_s] = ended
    return dict(stages)


def _gathered_firsts(
    found: Iterable[First],
) -> dict[tuple[str, str, str], dict[int, Histogram]]:
    firsts: defaultdict[tuple[str, str, str], dict[int, Histogram]] = defaultdict(dict)
    for first in found:
        key = (first.pipeline, first.stage or "", first.stream or "")
        firsts[key][first.start_s] = first.histogram
    return dict(firsts)


def _measured(
    key: tuple[str, str, str],
    by_step: Mapping[int, Histogram],
    step_of: dict[int, int],
    budget: Budget | None,
) -> dict[str, Any]:
    """Durations of what is named by pipeline, stage and stream, in all and by step."""
    all_counts: Counter[int] = Counter()
    for histogram in by_step.values():
        all_counts.update(histogram.counts)
    whole = Histogram(all_counts)
    pipeline, stage, stream = key
    return {
        "pipeline": pipeline,
        "stage": stage,
        "stream": stream,
        "count": whole.count,
        "percentiles": _percentiles(whole),
        "by_step": [
            [step_of[start_s], *_percentiles(histogram)]
            for start_s, histogram in sorted(by_step.items())
        ],
        "heat": _heat(by_step, step_of),
        "budget": None if budget is None else _budget(budget),
    }


def _stage(
    key: tuple[str, str], stage: _Stage, step_of: dict[int, int], budget: Budget | None
) -> dict[str, Any]:
    outcomes: Counter[str] = Counter()
    codes: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
    ended: list[tuple[int, int]] = []
    for start_s, errors in sorted(stage.errors.items()):
        outcomes.update(errors.outcomes)
        at = step_of[start_s]
        ended.append((at, errors.outcomes.get("completed", 0) + errors.outcomes.get("failed", 0)))
        for code, count in errors.codes.items():
            codes[code].append((at, count))
    return {
        **_measured((*key, ""), stage.latency, step_of, budget),
        "outcomes": dict(outcomes),
        "ended": ended,
        "codes": dict(codes),
    }


def _percentiles(histogram: Histogram) -> list[float | None]:
    """P50, P95 and P99 in milliseconds."""
    if not histogram.count:
        return [None, None, None]
    return [rounded(histogram.percentile_ms(share)) for share in (0.50, 0.95, 0.99)]


def _budget(budget: Budget) -> dict[str, Any]:
    factor = units.factor(budget.unit, "ms")
    return {
        "metric": budget.metric,
        "p50": budget.p50 * factor,
        "p99": None if budget.p99 is None else budget.p99 * factor,
        "runbook": budget.runbook,
    }


def _over(one: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The figures of a turn, stage or stream that are over its budget."""
    budget = one["budget"]
    if budget is None:
        return
    p50, _, p99 = one["percentiles"]
    for figure, measured in (("p50", p50), ("p99", p99)):
        limit = budget[figure]
        if measured is not None and limit is not None and measured > limit:
            yield {
                "metric": budget["metric"],
                "series": ".".join(filter(None, (one["pipeline"], one["stage"], one["stream"]))),
                "figure": figure,
                "measured": measured,
                "limit": limit,
                "unit": "ms",
                "runbook": budget["runbook"],
            }


def _heat(by_step: Mapping[int, Histogram], step_of: dict[int, int]) -> dict[str, Any]:
    """How many durations fell into each cell: step after step, from the lowest row used."""
    cells: defaultdict[tuple[int, int], int] = defaultdict(int)
    for start_s, histogram in by_step.items():
        for bucket, count in histogram.counts.items():
            cells[step_of[start_s], bucket // _BUCKETS_A_ROW] += count
    if not cells:
        return {"bounds_ms": [], "cells": []}
    low, high = min(row for _, row in cells), max(row for _, row in cells)
    bounds = [_lower_bound(row) for row in range(low, high + 2)]
    flat = [n for (at, row), count in sorted(cells.items()) for n in (at, row - low, count)]
    return {"bounds_ms": bounds, "cells": flat}


def _lower_bound(row: int) -> float:
    """The lower bound of a row in milliseconds; the lowest row has none that a log scale shows."""
    bucket = min(row * _BUCKETS_A_ROW, len(BOUNDS_MS))
    return BOUNDS_MS[bucket - 1] if bucket else BOUNDS_MS[0] / 1.25


def _runs(store: TelemetryStore, window: Window, pipeline: str) -> dict[str, Any]:
    typical, slow = (store.run_at(window, pipeline, share) for share in (0.50, 0.99))
    return {"pipeline": pipeline, "typical": _run(typical), "slow": _run(slow)}


def _run(run: RunNote | None) -> dict[str, Any] | None:
    if run is None or not run.events:
        return None
    drawn = timeline(run.events)
    bars = [
        {key: rounded(value) if isinstance(value, float) else value for key, value in bar.items()}
        for bar in map(asdict, drawn.bars)
    ]
    return {
        "run_id": run.run_id,
        "at_s": run.started_s,
        "status": drawn.status,
        "total_ms": rounded(drawn.total_ms),
        "note": drawn.note,
        "bars": bars,
    }


def _letters(letters: Sequence[LetterNote], start_s: int, step_s: int) -> dict[str, Any]:
    """Dead letters by provider and step, and the newest of them in full."""
    marks: Counter[tuple[str, int]] = Counter()
    for letter in letters:
        marks[letter.provider or "", int(letter.at_s - start_s) // step_s] += 1
    newest = [asdict(letter) for letter in letters[: -LETTERS - 1 : -1]]
    return {
        "count": len(letters),
        "waiting": sum(letter.replayed_s is None for letter in letters),
        "marks": [[provider, at, count] for (provider, at), count in sorted(marks.items())],
        "newest": newest,
    }
