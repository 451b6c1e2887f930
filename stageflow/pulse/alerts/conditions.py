"""What a rule finds in a file of telemetry at one moment.

Each function asks the same as the expression of its kind in `stageflow.pulse.alerts.prometheus`;
tests/utils/alert_cases.py holds what both have to say of the same series.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from stageflow.events import FAILED
from stageflow.pulse.alerts.rules import Kind, Rule
from stageflow.pulse.alerts.words import milliseconds
from stageflow.telemetry.store import Errors, TelemetryStore, Window

#: Runs, not one of their stages.
RUNS = ""

#: The share that a P99 leaves above it.
_ABOVE_P99 = 0.01

#: A breaker whose process died stays as it was. One that calls pass through changes with each
#: cool-down; of one that has not changed for so long, in seconds, nobody can say that it is open.
FORGOTTEN_S = 6 * 3600

#: Names of labels with their values, in order of the names.
Labels: TypeAlias = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Reading:
    """A rule's limit is exceeded.

    Attributes:
        labels: Of what: a pipeline, a provider.
        value: By what, in the unit of the rule's limit.
        likely: What is likely to blame, in words; empty if that is not known.
    """

    labels: Labels
    value: float
    likely: str = ""


def exceeded(rule: Rule, store: TelemetryStore, at_s: int) -> tuple[Reading, ...]:
    """Where a rule's limit is exceeded.

    Args:
        rule: The rule.
        store: The telemetry.
        at_s: When, in seconds since the epoch: the end of a minute, all of which is written.

    Raises:
        TelemetryFileError: The telemetry cannot be read.
    """
    return tuple(_CONDITIONS[rule.kind](rule, store, at_s))


def _latency(rule: Rule, store: TelemetryStore, at_s: int) -> Iterator[Reading]:
    window = Window(at_s - rule.window_s, at_s)
    for found in store.latencies(window, pipeline=rule.pipeline, stage=RUNS):
        # By counts, which are exact at a bound, as the percentile in the middle of a bucket is not.
        if found.histogram.over(rule.limit) > _ABOVE_P99 * found.histogram.count:
            stages = store.latencies(window, pipeline=found.pipeline)
            slowest = max(
                (stage for stage in stages if stage.stage is not None),
                key=lambda stage: stage.p99_ms,
                default=None,
            )
            likely = f"stage {slowest.stage}, P99 {milliseconds(slowest.p99_ms)}" if slowest else ""
            yield Reading((("pipeline", found.pipeline),), found.p99_ms, likely)


def _error_rate(rule: Rule, store: TelemetryStore, at_s: int) -> Iterator[Reading]:
    window = Window(at_s - rule.window_s, at_s)
    for found in store.errors(window, pipeline=rule.pipeline, stage=RUNS):
        if found.rate > rule.limit:
            labels = (("pipeline", found.pipeline),)
            yield Reading(labels, found.rate, _culprit(store, window, found.pipeline))


def _burn_rate(rule: Rule, store: TelemetryStore, at_s: int) -> Iterator[Reading]:
    long, short = (Window(at_s - s, at_s) for s in (rule.window_s, rule.short_window_s))
    now = {found.pipeline: found.rate for found in store.errors(short, stage=RUNS)}
    for found in store.errors(long, pipeline=rule.pipeline, stage=RUNS):
        if found.rate > rule.limit and now.get(found.pipeline, 0.0) > rule.limit:
            labels = (("pipeline", found.pipeline),)
            yield Reading(labels, found.rate, _culprit(store, short, found.pipeline))


def _culprit(store: TelemetryStore, window: Window, pipeline: str) -> str:
    """The stage that failed most often, and why it mostly did."""
    stages = [found for found in store.errors(window, pipeline=pipeline) if found.stage is not None]
    worst = max(stages, key=_failures, default=None)
    if worst is None or not _failures(worst):
        return ""
    code = max(worst.codes, key=lambda code: worst.codes[code])
    return f"stage {worst.stage}, {code}"


def _failures(errors: Errors) -> int:
    return errors.outcomes.get(FAILED, 0)


def _breaker_open(rule: Rule, store: TelemetryStore, at_s: int) -> Iterator[Reading]:
    latest = {
        (turn.provider, turn.source): turn
        for turn in store.breaker_changes(Window(at_s - FORGOTTEN_S, at_s))
    }
    reasons: dict[str, str] = {}
    for (provider, _), turn in sorted(latest.items()):
        if turn.after != "closed" and turn.at_s >= at_s - FORGOTTEN_S:
            reasons.setdefault(provider, f"stage {turn.stage}, {turn.reason}")
    for provider, reason in reasons.items():
        yield Reading((("provider", provider),), 1.0, reason)


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


_CONDITIONS: Mapping[Kind, Callable[[Rule, TelemetryStore, int], Iterator[Reading]]] = {
    Kind.LATENCY: _latency,
    Kind.ERROR_RATE: _error_rate,
    Kind.BURN_RATE: _burn_rate,
    Kind.BREAKER_OPEN: _breaker_open,
    Kind.DEAD_LETTERS: _dead_letters,
    Kind.NO_DATA: _no_data,
}
