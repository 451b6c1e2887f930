"""What a rule finds in a file of telemetry at one moment.

Each function asks the same as the expression of its kind in `stageflow.pulse.alerts.prometheus`;
tests/utils/alert_cases.py holds what both have to say of the same series.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from stageflow.events import FAILED
from stageflow.pulse.alerts.rules import Kind, Rule
from stageflow.pulse.alerts.words import milliseconds
from stageflow.telemetry.store import Errors, First, Latency, TelemetryStore, Window

#: Runs, not one of their stages.
RUNS = ""

#: The share that a P99 leaves above it.
_ABOVE_P99 = 0.01

#: So many of what the first audio waited for are named, the slowest first.
SUSPECTS = 3

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
        if _is_late(found, rule):
            stages = store.latencies(window, pipeline=found.pipeline)
            yield _late(found, _slowest(stages)[:1])


def _first_audio(rule: Rule, store: TelemetryStore, at_s: int) -> Iterator[Reading]:
    window = Window(at_s - rule.window_s, at_s)
    for found in store.firsts(window, pipeline=rule.pipeline, stage=RUNS):
        if _is_late(found, rule):
            firsts = store.firsts(window, pipeline=found.pipeline)
            streaming = {first.stage for first in firsts}
            stages = store.latencies(window, pipeline=found.pipeline)
            others = [stage for stage in stages if stage.stage not in streaming]
            # What takes longer than the first audio came after it, as speaking does.
            before = [one for one in (*firsts, *others) if one.p99_ms <= found.p99_ms]
            yield _late(found, _slowest(before)[:SUSPECTS])


def _is_late(found: Latency, rule: Rule) -> bool:
    # By counts, which are exact at a bound, as the percentile in the middle of a bucket is not.
    return found.histogram.over(rule.limit) > _ABOVE_P99 * found.histogram.count


def _slowest(found: Iterable[Latency]) -> list[Latency]:
    """The stages among them, the slowest first."""
    stages = (one for one in found if one.stage is not None)
    return sorted(stages, key=lambda one: one.p99_ms, reverse=True)


def _late(found: Latency, suspects: Iterable[Latency]) -> Reading:
    likely = "; ".join(f"{_named(one)}, P99 {milliseconds(one.p99_ms)}" for one in suspects)
    return Reading((("pipeline", found.pipeline),), found.p99_ms, likely)


def _named(one: Latency) -> str:
    return f"stage {one.stage}" + (f" to {one.stream}" if isinstance(one, First) else "")


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
    Kind.FIRST_AUDIO: _first_audio,
    Kind.ERROR_RATE: _error_rate,
    Kind.BURN_RATE: _burn_rate,
    Kind.BREAKER_OPEN: _breaker_open,
    Kind.DEAD_LETTERS: _dead_letters,
    Kind.NO_DATA: _no_data,
}
