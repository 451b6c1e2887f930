"""Evaluate the condition of a rule on telemetry, and advance its alerts from pending to resolved.

Each condition means the same as the expression of its kind in `stageflow.pulse.alerts.prometheus`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from stageflow.events.log import FAILED
from stageflow.pulse.alerts.rules import Kind, Rule, milliseconds
from stageflow.telemetry import BreakerNote, First, Latency, TelemetryStore, Window

#: The argument `stage` for runs.
RUNS = ""
_ABOVE_P99 = 0.01
#: How many of the stages that the first audio waited for are named, slowest first.
SUSPECTS = 3
#: After how many seconds without a change an open breaker no longer counts as open: its process may
#: have died, since a breaker in use changes with each cool-down.
FORGOTTEN_S = 6 * 3600
#: How long a finding holds without enough runs, in seconds; so two minutes are not a break.
HOLD_S = 150
#: Names of labels with their values, ordered by name.
Labels: TypeAlias = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Reading:
    """A value in the unit of a rule's limit, and the likely cause if it is over the limit."""

    labels: Labels
    value: float
    likely: str = ""
    over: bool = True


def _latency(rule: Rule, store: TelemetryStore, at_s: int) -> Iterator[Reading]:
    window = Window(at_s - rule.window_s, at_s)
    audio = rule.kind is Kind.FIRST_AUDIO
    judged: Sequence[Latency] = (store.firsts if audio else store.latencies)(
        window, pipeline=rule.pipeline, stage=RUNS
    )
    for found in judged:
        count = found.histogram.count
        # Counts are exact at a bound; a percentile, in the middle of its bucket, is not.
        over = found.histogram.over(rule.limit) > _ABOVE_P99 * count
        likely = _suspects(found, store, window, audio=audio) if over else ""
        if count >= rule.least_runs:
            yield Reading((("pipeline", found.pipeline),), found.p99_ms, likely, over)


def _suspects(found: Latency, store: TelemetryStore, window: Window, *, audio: bool) -> str:
    """Return the slowest stages, of first audio only those that came before it."""
    suspects: Sequence[Latency] = store.latencies(window, pipeline=found.pipeline)
    if audio:
        firsts = store.firsts(window, pipeline=found.pipeline)
        streaming = {first.stage for first in firsts}
        others = [stage for stage in suspects if stage.stage not in streaming]
        # A stage that takes longer than the first audio ended after it, as speaking does.
        suspects = [one for one in (*firsts, *others) if one.p99_ms <= found.p99_ms]
    stages = sorted((one for one in suspects if one.stage is not None), key=lambda one: -one.p99_ms)
    named = []
    for one in stages[: SUSPECTS if audio else 1]:
        stream = f" to {one.stream}" if isinstance(one, First) else ""
        named.append(f"stage {one.stage}{stream}, P99 {milliseconds(one.p99_ms)}")
    return "; ".join(named)


def _error_rate(rule: Rule, store: TelemetryStore, at_s: int) -> Iterator[Reading]:
    windows = [Window(at_s - s, at_s) for s in (rule.window_s, rule.short_window_s) if s]
    found = [
        {one.pipeline: one for one in store.errors(w, pipeline=rule.pipeline, stage=RUNS)}
        for w in windows
    ]
    for pipeline, errors in found[0].items():
        if errors.ended >= rule.least_runs and all(
            pipeline in ends and ends[pipeline].ended for ends in found
        ):
            over = all(ends[pipeline].rate > rule.limit for ends in found)
            likely = _culprit(store, windows[-1], pipeline) if over else ""
            yield Reading((("pipeline", pipeline),), errors.rate, likely, over)


def _culprit(store: TelemetryStore, window: Window, pipeline: str) -> str:
    """Return the stage that failed most often, with its most frequent error code."""
    stages = [found for found in store.errors(window, pipeline=pipeline) if found.stage is not None]
    worst = max(stages, key=lambda found: found.outcomes.get(FAILED, 0), default=None)
    if worst is None or not worst.codes:
        return ""
    code = max(worst.codes, key=lambda code: worst.codes[code])
    return f"stage {worst.stage}, {code}"


def _breaker_open(rule: Rule, store: TelemetryStore, at_s: int) -> Iterator[Reading]:
    latest = {
        (turn.provider, turn.source): turn
        for turn in store.breaker_changes(Window(at_s - FORGOTTEN_S, at_s))
    }
    by_provider: defaultdict[str, list[BreakerNote]] = defaultdict(list)
    for (provider, _), turn in sorted(latest.items()):
        by_provider[provider].append(turn)
    for provider, turns in by_provider.items():
        opened = [turn for turn in turns if turn.after != "closed"]
        for turn in [turn for turn in opened if turn.at_s >= at_s - FORGOTTEN_S][:1]:
            yield Reading((("provider", provider),), 1.0, f"stage {turn.stage}, {turn.reason}")
        if not opened:
            yield Reading((("provider", provider),), 0.0, over=False)


def _dead_letters(rule: Rule, store: TelemetryStore, at_s: int) -> Iterator[Reading]:
    waiting = [
        letter
        for letter in store.dead_letters(Window(0.0, at_s))
        if letter.replayed_s is None or letter.replayed_s >= at_s
    ]
    if len(waiting) > rule.limit:
        codes: defaultdict[tuple[str | None, str], int] = defaultdict(int)
        for letter in waiting:
            codes[letter.failed_stage, letter.error_code] += 1
        stage, code = max(codes, key=lambda key: codes[key])
        yield Reading((), len(waiting), f"stage {stage}, {code}" if stage else code)


def _no_data(rule: Rule, store: TelemetryStore, at_s: int) -> Iterator[Reading]:
    window = Window(at_s - rule.window_s, at_s)
    ended = store.errors(window, pipeline=rule.pipeline, stage=RUNS)
    if not sum(sum(found.outcomes.values()) for found in ended):
        yield Reading((), 0.0)


#: By kind: yield values at the end of a minute, in seconds since the epoch. Kinds of `KNOWN` also
#: yield those within the limit: without any, there is too little to judge.
CONDITIONS: Mapping[Kind, Callable[[Rule, TelemetryStore, int], Iterator[Reading]]] = {
    Kind.LATENCY: _latency,
    Kind.FIRST_AUDIO: _latency,
    Kind.ERROR_RATE: _error_rate,
    Kind.BURN_RATE: _error_rate,
    Kind.BREAKER_OPEN: _breaker_open,
    Kind.DEAD_LETTERS: _dead_letters,
    Kind.NO_DATA: _no_data,
}
#: Name of the rule, and labels.
AlertKey: TypeAlias = tuple[str, Labels]


@dataclass(frozen=True, slots=True)
class Alert:
    """A pipeline or provider that exceeds the limit of a rule; times are seconds since the epoch.

    `firing_s` is None while it is pending, `value` is the last one over the limit, found at
    `seen_s`, and `told` says whether a message was stored that it fires. Since `clear_s` the limit
    is not exceeded, and `back` says whether a value within the limit was found since then. Of a
    regression, `series` holds the machine of each series.
    """

    rule: str
    labels: Labels
    since_s: float
    firing_s: float | None
    ended_s: float | None
    value: float
    likely: str
    told: bool = False
    what: str = ""
    runbook: str = ""
    owner: str = ""
    kind: str = ""
    series: Mapping[str, str] = field(default_factory=dict)
    seen_s: float = 0.0
    clear_s: float | None = None
    back: bool = False

    @property
    def key(self) -> AlertKey:
        """The key of the alert in mappings."""
        return self.rule, self.labels


def advanced(
    rule: str,
    alerts: Mapping[AlertKey, Alert],
    found: Iterable[Reading],
    at_s: float,
    *,
    for_s: float = 0.0,
    keep_s: float = 0.0,
    hold_s: float | None = None,
) -> tuple[Alert, ...]:
    """Return the alerts of a rule after one more evaluation; ended ones have `ended_s`.

    An alert is pending from the first evaluation that finds its limit exceeded, fires after `for_s`
    seconds, and ends after `keep_s` seconds within the limit. Where nothing is found, it is as
    before for `hold_s` seconds; None: nothing means within the limit.
    """
    now = {(rule, reading.labels): reading for reading in found}
    after = []
    for key in dict.fromkeys((*now, *(key for key in alerts if key[0] == rule))):
        reading, alert = now.get(key), alerts.get(key)
        if reading is not None and reading.over:
            alert = alert or Alert(rule, reading.labels, at_s, None, None, 0.0, "")
            likely = reading.likely or alert.likely
            alert = replace(alert, value=reading.value, likely=likely, seen_s=at_s, clear_s=None)
        elif alert is None:
            continue
        elif reading is not None or hold_s is None:
            alert = replace(alert, clear_s=alert.clear_s or at_s, back=True)
        elif at_s - alert.seen_s >= hold_s:
            alert = replace(alert, clear_s=alert.clear_s or at_s)
        if alert.clear_s is None:
            fires = alert.firing_s is None and at_s - alert.since_s >= for_s
            after.append(replace(alert, firing_s=at_s if fires else alert.firing_s, back=False))
        elif alert.firing_s is not None:
            ends = at_s - alert.clear_s >= keep_s
            after.append(replace(alert, ended_s=at_s if ends else None))
    return tuple(after)
