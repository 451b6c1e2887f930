"""Data of the panels on telemetry: latency, errors, usage, breakers and dead letters."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from stageflow import telemetry as tel
from stageflow.pulse.gate import Budget
from stageflow.pulse.history import LEAST, rounded, unit_factor
from stageflow.timeline.model import timeline

#: The possible lengths of a step, in seconds.
_STEPS_S = tuple(
    [60 * n for n in (1, 2, 5, 10, 15, 30)]
    + [3600 * n for n in (1, 2, 3, 6, 12, 24, 48, 7 * 24, 14 * 24, 28 * 24, 91 * 24)]
)
#: How the sources of simulations begin; see `SQLiteSink`.
SIMULATED = "simulation"
#: The maximum of steps: narrower columns are hard to point at.
STEPS = 240
#: How many buckets of a histogram make a row of a heat map: ten rows for each power of ten.
_BUCKETS_A_ROW = 5
#: How many of the newest dead letters are listed.
LETTERS = 50


@dataclass(frozen=True, slots=True)
class LiveBudgets:
    """Budgets, and patterns of the series of a turn, a stage, a first audio and a first item."""

    budgets: Sequence[Budget] = ()
    series: Mapping[str, str] = field(default_factory=dict)

    def of(self, what: str, pipeline: str, stage: str = "", stream: str = "") -> Budget | None:
        """Return the budget of `what` (a key of `series`), if it has one."""
        name = self.series.get(what, "").format(pipeline=pipeline, stage=stage, stream=stream)
        return next((budget for budget in self.budgets if budget.series == name), None)


#: Pipeline, stage (empty for runs) and stream (empty for what has none).
_Key = tuple[str, str, str]


def window_of(store: tel.TelemetryStore, newest_s: float | None = None) -> tel.Window | None:
    """Return the window of a store, or of its newest `newest_s` seconds; None if it is empty."""
    covered = store.covered()
    if covered is None:
        return None
    start_s = covered.start_s if newest_s is None else covered.end_s - newest_s
    length_s = covered.end_s - max(start_s, covered.start_s)
    fitting = (step for step in _STEPS_S if length_s / step <= STEPS)
    return tel.Window(max(start_s, covered.start_s), covered.end_s, next(fitting, _STEPS_S[-1]))


def read_telemetry(
    place: tel.Place, budgets: LiveBudgets, newest_s: float | None = None
) -> dict[str, Any] | None:
    """Return the data of the newest `newest_s` seconds of a store, or of all; None if empty."""
    with tel.TelemetryStore(place) as opened:
        window = window_of(opened, newest_s)
        return telemetry(opened, window, budgets) if window else None


def telemetry(
    store: tel.TelemetryStore, window: tel.Window, budgets: LiveBudgets
) -> dict[str, Any]:
    """Return the data of all panels for a window with steps, as JSON's values."""
    step_s = window.step_s or 60
    start_s, end_s = window.whole
    whole = tel.Window(start_s, end_s, step_s)
    stages, firsts = _gathered(store.latencies(whole)), _gathered(store.firsts(whole))
    ended: defaultdict[_Key, dict[int, tel.Errors]] = defaultdict(dict)
    for errors in store.errors(whole):
        ended[errors.pipeline, errors.stage or "", ""][errors.start_s] = errors
    names = sorted({*stages, *ended})
    pipelines = sorted({pipeline for pipeline, _, _ in names})
    letters = store.dead_letters(whole)
    changes = store.breaker_changes(whole)
    step_of = {start_s + n * step_s: n for n in range((end_s - start_s) // step_s)}
    shown = [
        _measured(key, stages[key], step_of, budgets.of("stage" if key[1] else "turn", *key))
        | _ended(ended[key], step_of)
        for key in names
    ]
    heard = [
        _measured(key, firsts[key], step_of, budgets.of(what, *key))
        for key in sorted(firsts)
        for what in ["first_item" if key[1] else "first_audio"]
    ]
    sources = store.sources()
    # Nothing in a simulation is wrong now.
    simulated = bool(sources) and all(source.startswith(SIMULATED) for source in sources)
    return {
        "store": store.name,
        "sources": sources,
        "simulated": simulated,
        "start_s": start_s,
        "step_s": step_s,
        "steps": len(step_of),
        "stages": shown,
        "firsts": heard,
        "over": [] if simulated else [row for one in (*heard, *shown) for row in _over(one)],
        "runs": [
            {
                "pipeline": name,
                "typical": _run(store.run_at(tel.Window(start_s, end_s), name, 0.50)),
                "slow": _run(store.run_at(tel.Window(start_s, end_s), name, 0.99)),
                "examples": [_example(*one) for one in store.examples(whole, name)],
            }
            for name in pipelines
        ],
        "usage": [[*key, step_of[at], n] for (at, *key), n in store.usage(whole).items()],
        "breakers": timelines(changes, (start_s, end_s), STEPS),
        "letters": _letters(letters, start_s, step_s),
    }


def _gathered(found: Iterable[tel.Latency]) -> defaultdict[_Key, dict[int, tel.Histogram]]:
    gathered: defaultdict[_Key, dict[int, tel.Histogram]] = defaultdict(dict)
    for one in found:
        stream = one.stream if isinstance(one, tel.First) else None
        gathered[one.pipeline, one.stage or "", stream or ""][one.start_s] = one.histogram
    return gathered


def _measured(
    key: _Key, by_step: Mapping[int, tel.Histogram], step_of: dict[int, int], budget: Budget | None
) -> dict[str, Any]:
    all_counts: Counter[int] = Counter()
    for histogram in by_step.values():
        all_counts.update(histogram.counts)
    whole = tel.Histogram(all_counts)
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
        "budget": budget and budget_in("ms", budget),
    }


def _ended(by_step: Mapping[int, tel.Errors], step_of: dict[int, int]) -> dict[str, Any]:
    outcomes: Counter[str] = Counter()
    codes: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
    ended: list[tuple[int, int]] = []
    for start_s, errors in sorted(by_step.items()):
        outcomes.update(errors.outcomes)
        at = step_of[start_s]
        ended.append((at, errors.ended))
        for code, count in errors.codes.items():
            codes[code].append((at, count))
    return {"outcomes": dict(outcomes), "ended": ended, "codes": dict(codes)}


def _percentiles(histogram: tel.Histogram) -> list[float | None]:
    """Return P50, P95 and P99 in milliseconds."""
    shares = (0.50, 0.95, 0.99)
    return [rounded(histogram.percentile_ms(s)) if histogram.count else None for s in shares]


def budget_in(unit: str, budget: Budget) -> dict[str, Any]:
    """Return a budget in a unit, as JSON's values."""
    factor = unit_factor(budget.unit, unit)
    return {
        "metric": budget.metric,
        "p50": rounded(budget.p50 * factor),
        "p99": None if budget.p99 is None else rounded(budget.p99 * factor),
        "runbook": budget.runbook,
    }


def _over(one: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    budget = one["budget"]
    if budget is None:
        return
    p50, _, p99 = one["percentiles"]
    for figure, measured, percent in (("p50", p50, 50), ("p99", p99, 99)):
        limit = budget[figure]
        # The P99 of a few runs is their maximum.
        if limit is not None and one["count"] >= LEAST[percent] and measured > limit:
            yield {
                "metric": budget["metric"],
                "series": ".".join(filter(None, (one["pipeline"], one["stage"], one["stream"]))),
                "figure": figure,
                "measured": measured,
                "limit": limit,
                "unit": "ms",
                "runbook": budget["runbook"],
            }


def _heat(by_step: Mapping[int, tel.Histogram], step_of: dict[int, int]) -> dict[str, Any]:
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
    """Return the lower bound of a row in milliseconds; above 0, for a logarithmic scale."""
    bucket = min(row * _BUCKETS_A_ROW, len(tel.BOUNDS_MS))
    return tel.BOUNDS_MS[bucket - 1] if bucket else tel.BOUNDS_MS[0] / 1.25


def _run(run: tel.RunNote | None) -> dict[str, Any] | None:
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


def _example(run: tel.RunNote, slowest: str | None) -> list[Any]:
    end_s = run.started_s + (run.duration_ms or 0.0) / 1000
    facts = (run.status, run.failed_stage, run.error_code, run.source, slowest)
    return [run.run_id, end_s, rounded(run.duration_ms), *facts]


def _letters(letters: Sequence[tel.LetterNote], start_s: int, step_s: int) -> dict[str, Any]:
    marks: Counter[tuple[str, int]] = Counter()
    for letter in letters:
        marks[letter.provider or "", int(letter.at_s - start_s) // step_s] += 1
    return {
        "count": len(letters),
        "waiting": sum(letter.replayed_s is None for letter in letters),
        "marks": [[provider, at, count] for (provider, at), count in sorted(marks.items())],
        "newest": [asdict(letter) for letter in letters[: -LETTERS - 1 : -1]],
    }


#: States of breakers, from best to worst.
STATES = ("closed", "half_open", "open")
#: How many of the newest changes of a provider are listed.
CHANGES = 20


def timelines(
    changes: Sequence[tel.BreakerNote], window_s: tuple[float, float], columns: int
) -> list[dict[str, Any]]:
    """Return the states of each provider with their starts.

    The breakers of a provider in several processes are shown as one, in the worst state of any. If
    there are more changes than columns, a column shows the worst state within it. Changes are in
    order of time, with the last of each breaker before the window.
    """
    by_provider: defaultdict[str, list[tel.BreakerNote]] = defaultdict(list)
    for change in changes:
        by_provider[change.provider].append(change)
    start_s, _ = window_s
    return [
        {
            "provider": provider,
            "segments": _thinned(_merged(turns, start_s), window_s, columns),
            "changes": sum(turn.at_s >= start_s for turn in turns),
            "newest": [asdict(turn) for turn in turns[: -CHANGES - 1 : -1]],
        }
        for provider, turns in sorted(by_provider.items())
    ]


def _merged(turns: Sequence[tel.BreakerNote], start_s: float) -> list[tuple[float, int]]:
    """Return the times at which the worst state of all sources changed, with the new state."""
    by_source: dict[str, int] = {}
    found: list[tuple[float, int]] = [(start_s, 0)]
    for turn in turns:
        by_source[turn.source] = STATES.index(turn.after)
        worst = max(by_source.values())
        if turn.at_s <= start_s:
            found[0] = (start_s, worst)
        elif worst != found[-1][1]:
            found.append((turn.at_s, worst))
    return found


def _thinned(
    segments: list[tuple[float, int]], window_s: tuple[float, float], columns: int
) -> list[tuple[float, int]]:
    if len(segments) <= 2 * columns:
        return segments
    start_s, end_s = window_s
    width_s = (end_s - start_s) / columns
    worst = [0] * columns
    for (at_s, state), (until_s, _) in zip(segments, [*segments[1:], (end_s, 0)], strict=True):
        last = min(int((until_s - start_s) / width_s), columns - 1)
        for column in range(min(int((at_s - start_s) / width_s), columns - 1), last + 1):
            worst[column] = max(worst[column], state)
    thinned: list[tuple[float, int]] = []
    for column, state in enumerate(worst):
        if not thinned or thinned[-1][1] != state:
            thinned.append((start_s + column * width_s, state))
    return thinned
