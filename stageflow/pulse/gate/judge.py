"""The judge: from what was measured to a verdict on each series, and to one exit code.

It is pure: the same evidence on the same day gives the same judgement.
"""

from __future__ import annotations

import datetime as dt
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum, StrEnum

from stageflow.pulse.errors import TooFewSamplesError
from stageflow.pulse.gate.accepted import Accepted
from stageflow.pulse.gate.budgets import Budget, Limits
from stageflow.pulse.gate.evidence import Evidence, Side, Timing
from stageflow.pulse.gate.samples import percentile
from stageflow.pulse.gate.series import Signal, signal_of


class Exit(IntEnum):
    """What the gate ends with."""

    FINE = 0
    REGRESSION = 1
    USAGE = 2
    OVER_BUDGET = 3
    TOO_LITTLE = 4
    BROKEN = 5
    SET_UP = 6
    INTERRUPTED = 130


class Kind(StrEnum):
    """What became of a series; those that fail the gate come first."""

    BROKEN = "broken"
    LOST_API = "lost its API"
    NOT_MEASURED = "not measured"
    REGRESSION = "regression"
    SLOWER = "slower"
    ACCEPTED = "accepted"
    OTHER_MACHINE = "measured on another machine"
    BROKE_ON_BASE = "broke on the base"
    NEW = "new"
    REMOVED = "removed"
    NOT_COUNTED = "not counted"
    SKIPPED = "skipped on both"
    FASTER = "faster"
    UNCHANGED = "unchanged"
    ALONE = "measured, not compared"


#: Those in which two values were set against each other.
COMPARED = frozenset({Kind.REGRESSION, Kind.SLOWER, Kind.ACCEPTED, Kind.FASTER, Kind.UNCHANGED})


class State(StrEnum):
    """What became of a budget's figure."""

    OVER = "over"
    TOO_FEW = "too few samples"
    UNKNOWN = "not known"
    KEPT = "kept"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is said of one series.

    Attributes:
        series: The series.
        signal: What it was judged by.
        kind: What became of it.
        base, head: The values, in `unit`; None where there is none.
        ratio: Head to base; infinite where something came of nothing.
        sure: How sure that is.
        note: What else there is to say.
    """

    series: str
    signal: Signal
    kind: Kind
    unit: str
    base: float | None = None
    head: float | None = None
    ratio: float | None = None
    sure: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """One figure of a budget, held against what was measured.

    Attributes:
        budget: The budget.
        figure: ``P50``, ``P99``, or ``value`` where a series has one value a commit.
        limit: The most it may be, in the budget's unit.
        measured: What it is, in the budget's unit; None when it is not known.
        state: What became of it.
        note: Why it is not known.
    """

    budget: Budget
    figure: str
    limit: float
    measured: float | None
    state: State
    note: str = ""


@dataclass(frozen=True, slots=True)
class Judgement:
    """All verdicts and checks, what is to be said besides, and the exit code that follows."""

    verdicts: tuple[Verdict, ...]
    checks: tuple[Check, ...]
    notes: tuple[str, ...]

    @property
    def exit(self) -> Exit:
        """The gravest of what was found; what could not be looked at is graver than slowness."""
        kinds = Counter(verdict.kind for verdict in self.verdicts)
        states = Counter(check.state for check in self.checks)
        if kinds[Kind.BROKEN] or kinds[Kind.LOST_API]:
            return Exit.BROKEN
        known = states[State.KEPT] + states[State.OVER]
        seen = known + kinds[Kind.NEW] + sum(kinds[kind] for kind in COMPARED)
        unseen = kinds[Kind.NOT_MEASURED] + states[State.TOO_FEW]
        # Values of another machine are no comparison, however many budgets they keep.
        only_elsewhere = kinds[Kind.OTHER_MACHINE] and not any(kinds[kind] for kind in COMPARED)
        if not seen or unseen or only_elsewhere:
            return Exit.TOO_LITTLE
        if kinds[Kind.REGRESSION]:
            return Exit.REGRESSION
        return Exit.OVER_BUDGET if states[State.OVER] else Exit.FINE


def judge(
    evidence: Evidence,
    limits: Limits,
    budgets: Sequence[Budget],
    accepted: Sequence[Accepted],
    today: dt.date,
) -> Judgement:
    """Judge every series that is asked about, and every budget that is held.

    Args:
        evidence: What was measured.
        limits: From which ratio on a series is slower, and fails.
        budgets: Those that are held now; those of series that are not asked about are left out.
        accepted: Known regressions.
        today: The day on which their time may have run out.
    """
    verdicts = [
        _accept(_verdict(series, evidence, limits), accepted, today) for series in evidence.units
    ]
    verdicts += [
        Verdict(series, signal_of(series), Kind.REMOVED, "") for series in evidence.removed
    ]
    order = list(Kind)
    verdicts.sort(key=lambda verdict: order.index(verdict.kind))
    checks = [
        check
        for budget in budgets
        if budget.series in evidence.units
        for check in _checks(budget, evidence)
    ]
    checks.sort(key=lambda check: list(State).index(check.state))
    notes = _notes(evidence, verdicts, accepted, today)
    return Judgement(tuple(verdicts), tuple(checks), tuple(notes))


def to_confirm(evidence: Evidence, limits: Limits) -> list[str]:
    """The timed series that would fail if a second run in fresh processes found the same."""
    return [
        series
        for series, timing in evidence.timings.items()
        if series in evidence.units
        and timing.cpu is not None
        and timing.cpu.low > limits.timed_fail
        and timing.confirmation is None
    ]


class _Status(StrEnum):
    """How a series stands on one commit."""

    ABSENT = "not measured"
    BROKEN = "broken"
    LACKING = "skipped there"
    VALUE = "measured"


def _verdict(series: str, evidence: Evidence, limits: Limits) -> Verdict:
    """What became of one series: by how it stands on either commit, and if on both, by ratio."""
    base, head = _standing(series, evidence, of_head=False), _standing(series, evidence)
    verdict = Verdict(
        series,
        signal_of(series),
        _kind(series, base.status, head.status, evidence),
        evidence.units[series],
        base.value,
        head.value,
        note=head.note or base.note,
    )
    if verdict.kind is not Kind.UNCHANGED or base.value is None or head.value is None:
        return verdict
    if verdict.signal is Signal.TIMED:
        return _paired(verdict, evidence.timings[series], limits)
    return _scalar(verdict, base.value, head.value, limits)


def _kind(series: str, base: _Status, head: _Status, evidence: Evidence) -> Kind:
    """What follows before any two values are compared; UNCHANGED where they have to be."""
    signal = signal_of(series)
    by_valgrind = signal is Signal.COUNTED and evidence.units[series] in _UNITS_OF_VALGRIND
    if head is _Status.LACKING and by_valgrind and not evidence.valgrind:
        return Kind.NOT_COUNTED
    if head is _Status.VALUE and (signal is Signal.HISTORY or not evidence.comparable):
        return Kind.ALONE
    if head is _Status.VALUE and base is not _Status.ABSENT and _elsewhere(signal, evidence):
        return Kind.OTHER_MACHINE
    return _KINDS.get((head, base)) or _KINDS[head, None]


#: What is counted under valgrind, or follows from it; bytes and modules are counted without.
_UNITS_OF_VALGRIND = ("instructions", "exponent")

_KINDS: Mapping[tuple[_Status, _Status | None], Kind] = {
    (_Status.ABSENT, None): Kind.NOT_MEASURED,
    (_Status.BROKEN, None): Kind.BROKEN,
    (_Status.LACKING, None): Kind.SKIPPED,
    (_Status.LACKING, _Status.VALUE): Kind.LOST_API,
    (_Status.VALUE, _Status.VALUE): Kind.UNCHANGED,
    (_Status.VALUE, _Status.LACKING): Kind.NEW,
    (_Status.VALUE, _Status.BROKEN): Kind.BROKE_ON_BASE,
    (_Status.VALUE, _Status.ABSENT): Kind.NOT_MEASURED,
}


def _elsewhere(signal: Signal, evidence: Evidence) -> bool:
    # Pairs are always made on one machine.
    other = evidence.base is not None and evidence.base.machine != evidence.head.machine
    return other and signal is not Signal.TIMED


@dataclass(frozen=True, slots=True)
class _Standing:
    """How a series stands on one commit: its status, its value, its samples, why it has none."""

    status: _Status
    value: float | None = None
    samples: tuple[float, ...] = ()
    note: str = ""


def _standing(series: str, evidence: Evidence, *, of_head: bool = True) -> _Standing:
    if not of_head and not evidence.comparable:
        return _Standing(_Status.ABSENT)
    if signal_of(series) is Signal.TIMED:
        timing = evidence.timings.get(series)
        return _of_side(None if timing is None else timing.head if of_head else timing.base)
    measured = evidence.head if of_head else evidence.base
    found = measured.values.get(series) if measured else None
    if found is None:
        return _Standing(_Status.ABSENT)
    if found.value is None:
        return _Standing(_Status.BROKEN, note="asv says above how" if of_head else "")
    if math.isnan(found.value):
        return _Standing(_Status.LACKING)
    return _Standing(_Status.VALUE, found.value, found.samples)


def _of_side(side: Side | None) -> _Standing:
    if side is None:
        return _Standing(_Status.ABSENT)
    if side.error is not None:
        return _Standing(_Status.BROKEN, note=side.error)
    if side.missing:
        return _Standing(_Status.LACKING, note=f"lacks {', '.join(side.missing)}")
    if not side.wall_ns:
        return _Standing(_Status.ABSENT)
    middle = sorted(side.wall_ns)[(len(side.wall_ns) - 1) // 2]
    return _Standing(_Status.VALUE, middle, side.wall_ns)


def _scalar(verdict: Verdict, base: float, head: float, limits: Limits) -> Verdict:
    """Compare two values that do not scatter."""
    ratio = ratio_of(base, head)
    if verdict.signal is Signal.EXACT:
        kind = _beyond(head, base, base, faster_below=base)
        return replace(verdict, kind=kind, ratio=ratio, sure="exact")
    fail, warn = limits.counted_fail, limits.counted_warn
    kind = _beyond(ratio, fail, warn, faster_below=1 / warn)
    return replace(verdict, kind=kind, ratio=ratio, sure="counted, does not scatter")


def ratio_of(base: float, head: float) -> float:
    """Head to base; of nothing (or less, as memory given back is) to more it is infinite."""
    if base == head:
        return 1.0
    if base > 0:
        return head / base
    return math.inf if head > base else 0.0


def _beyond(value: float, fail: float, warn: float, faster_below: float) -> Kind:
    if value > fail:
        return Kind.REGRESSION
    if value > warn:
        return Kind.SLOWER
    return Kind.FASTER if value < faster_below else Kind.UNCHANGED


def _paired(verdict: Verdict, timing: Timing, limits: Limits) -> Verdict:
    """Judge a work that both commits did in turn: only what is certain, and found twice, fails."""
    cpu, again = timing.cpu, timing.confirmation
    if cpu is None:
        return replace(verdict, kind=Kind.NOT_MEASURED, note="too few pairs")
    verdict = replace(verdict, ratio=cpu.median, sure=str(cpu))
    if cpu.high < 1 / limits.timed_warn:
        return replace(verdict, kind=Kind.FASTER)
    if cpu.low <= limits.timed_fail:
        slower = cpu.low > limits.timed_warn
        return replace(verdict, kind=Kind.SLOWER if slower else Kind.UNCHANGED)
    if again is not None and again.low > limits.timed_fail:
        sure = f"{cpu}, confirmed by a second run"
        return replace(verdict, kind=Kind.REGRESSION, sure=sure)
    return replace(verdict, kind=Kind.SLOWER, sure=f"{cpu}, not confirmed by a second run")


def _accept(verdict: Verdict, accepted: Sequence[Accepted], today: dt.date) -> Verdict:
    """Let a regression pass that is known and within what was accepted."""
    if verdict.kind is not Kind.REGRESSION or verdict.ratio is None:
        return verdict
    for known in accepted:
        if known.series != verdict.series:
            continue
        if not known.counts(today):
            return replace(verdict, note=f"was accepted until {known.until}: that time is over")
        if verdict.ratio > known.up_to:
            return replace(verdict, note=f"only a ratio up to {known.up_to:g} is accepted")
        note = f"up to {known.up_to:g} until {known.until} by {known.owner}: {known.reason}"
        return replace(verdict, kind=Kind.ACCEPTED, note=note)
    return verdict


def _checks(budget: Budget, evidence: Evidence) -> Iterator[Check]:
    for percent, limit in ((50, budget.p50), (99, budget.p99)):
        if limit is not None:
            yield _check(budget, percent, limit, evidence)


def _check(budget: Budget, percent: int, limit: float, evidence: Evidence) -> Check:
    """Hold one figure of a budget against the head's samples, or against its one value."""
    head = _standing(budget.series, evidence)
    figure = f"P{percent}"
    if head.value is None:
        note = f"{head.status}: {head.note}" if head.note else str(head.status)
        return Check(budget, figure, limit, None, State.UNKNOWN, note)
    value = head.value
    if percent == 50 and not head.samples:
        figure = "value"
    else:
        try:
            value = percentile(head.samples, percent)
        except TooFewSamplesError as error:
            return Check(budget, figure, limit, None, State.TOO_FEW, str(error))
    measured = value * budget.factor
    return Check(budget, figure, limit, measured, State.OVER if measured > limit else State.KEPT)


def _notes(
    evidence: Evidence, verdicts: Sequence[Verdict], accepted: Sequence[Accepted], today: dt.date
) -> Iterator[str]:
    if not evidence.units:
        yield "Nothing was measured: no benchmark matches."
    if evidence.base is None:
        yield "This is the first commit: nothing to compare it with, only budgets are held."
    elif not evidence.comparable:
        yield "Base and head are the same commit: only budgets are held (name another base)."
    elif evidence.base.machine != evidence.head.machine:
        yield (
            f"Not compared, as they were measured on different machines: the base on "
            f"{evidence.base.machine}, the head on {evidence.head.machine}."
        )
    if evidence.edited:
        yield (
            f"Edited since the base: {', '.join(evidence.edited)}; both commits were measured "
            "with the benchmarks as they are now."
        )
    if any(verdict.kind is Kind.NOT_COUNTED for verdict in verdicts):
        yield "valgrind is absent: no instructions were counted; exact and timed signals remain."
    for known in accepted:
        if not known.counts(today):
            yield f"No longer accepted since {known.until}: {known.series} ({known.reason})."
