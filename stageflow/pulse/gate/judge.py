"""Judge each series of two commits; the same evidence gives the same verdicts and exit code."""

from __future__ import annotations

import datetime as dt
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum, StrEnum

from stageflow.pulse.errors import TooFewSamplesError
from stageflow.pulse.gate.budgets import Accepted, Budget, Limits
from stageflow.pulse.history import Interval, Signal, percentile, ratio_of, signal_of


@dataclass(frozen=True, slots=True)
class Value:
    """The value of one series on one commit.

    The value is None if it failed there (how is in `note`; in time if not `late`), NaN if skipped.
    """

    value: float | None
    samples: tuple[float, ...] = ()
    note: str = ""
    late: bool = False
    #: Values of several processes, if the series is read apart from asv.
    repeats: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Measured:
    """The results of one commit: its hash, machine, and values by series, if measured."""

    commit: str
    machine: str
    values: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Side:
    """How a timed operation went on one commit, how it failed, or what the commit lacks for it.

    `wall_ns` is the wall time of single operations. `lost_ns` is by how much loops beside them, as
    long as a call, exceeded their fastest turns, by operation: what the machine gave to others.
    """

    wall_ns: tuple[float, ...] = ()
    lost_ns: tuple[float, ...] = ()
    error: str | None = None
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Timing:
    """An operation that two commits did in turn: both sides, and ratios of time, head to base.

    `confirmation` and `again` are `cpu` and `head` of a second run in fresh processes.
    """

    base: Side
    head: Side
    cpu: Interval | None = None
    confirmation: Interval | None = None
    again: Side | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """The input of `judge`: the commits, and by series its unit and its timing.

    Attributes:
        removed: Series that only the base's benchmarks had.
        edited: Files of benchmarks that were changed since the base.
        valgrind: Whether instructions can be counted on this machine.
    """

    units: Mapping[str, str]
    head: Measured
    base: Measured | None
    timings: Mapping[str, Timing] = field(default_factory=dict)
    removed: tuple[str, ...] = ()
    edited: tuple[str, ...] = ()
    valgrind: bool = True

    @property
    def comparable(self) -> bool:
        """Whether there are two commits."""
        return self.base is not None and self.base.commit != self.head.commit


class Exit(IntEnum):
    """The gate's exit codes."""

    OK = 0
    REGRESSION = 1
    USAGE = 2
    OVER_BUDGET = 3
    INSUFFICIENT_DATA = 4
    BROKEN = 5
    SETUP_FAILED = 6
    INTERRUPTED = 130


class Kind(StrEnum):
    """The verdict on a series; those that fail the gate come first."""

    BROKEN = "broken"
    LOST_API = "lost its API"
    NOT_MEASURED = "not measured"
    TOO_BUSY = "machine too busy"
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


#: Those in which two values were compared.
COMPARED = frozenset({Kind.REGRESSION, Kind.SLOWER, Kind.ACCEPTED, Kind.FASTER, Kind.UNCHANGED})


class State(StrEnum):
    """The state of a budget's figure."""

    OVER = "over"
    UNSURE = "over, not certain"
    TOO_FEW = "too few samples"
    UNKNOWN = "not known"
    KEPT = "kept"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The judgement of one series: values of both commits, their ratio, and how certain it is."""

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
    """One figure of a budget, compared with what was measured, in the budget's unit.

    The figure is ``P50``, ``P99``, or ``value`` where a series has one value a commit. The note
    says why it is not known, or not certain.
    """

    budget: Budget
    figure: str
    limit: float
    measured: float | None
    state: State
    note: str = ""


@dataclass(frozen=True, slots=True)
class Judgement:
    """All verdicts, checks and notes, and the exit code that follows."""

    verdicts: tuple[Verdict, ...]
    checks: tuple[Check, ...]
    notes: tuple[str, ...]

    @property
    def exit(self) -> Exit:
        """The gravest finding; what could not be measured is graver than slowness."""
        kinds = Counter(verdict.kind for verdict in self.verdicts)
        states = Counter(check.state for check in self.checks)
        if kinds[Kind.BROKEN] or kinds[Kind.LOST_API]:
            return Exit.BROKEN
        known = states[State.KEPT] + states[State.OVER] + states[State.UNSURE]
        seen = known + kinds[Kind.NEW] + sum(kinds[kind] for kind in COMPARED)
        unseen = kinds[Kind.NOT_MEASURED] + kinds[Kind.TOO_BUSY] + states[State.TOO_FEW]
        # Values of another machine cannot be compared, however many budgets they keep.
        only_elsewhere = kinds[Kind.OTHER_MACHINE] and not any(kinds[kind] for kind in COMPARED)
        if not seen or unseen or only_elsewhere:
            return Exit.INSUFFICIENT_DATA
        if kinds[Kind.REGRESSION]:
            return Exit.REGRESSION
        return Exit.OVER_BUDGET if states[State.OVER] else Exit.OK


def judge(
    evidence: Evidence,
    limits: Limits,
    budgets: Sequence[Budget],
    accepted: Sequence[Accepted],
    today: dt.date,
) -> Judgement:
    """Judge every series of the evidence, and every budget on them.

    In `limits` are the ratios from which on a series is slower, and fails. What is accepted may
    have expired by `today`.
    """
    verdicts = [
        _accept(_verdict(series, evidence, limits), accepted, today) for series in evidence.units
    ]
    verdicts += [Verdict(name, signal_of(name), Kind.REMOVED, "") for name in evidence.removed]
    verdicts.sort(key=lambda verdict: list(Kind).index(verdict.kind))
    checks = sorted(_checks(evidence, budgets), key=lambda check: list(State).index(check.state))
    notes = _notes(evidence, verdicts, accepted, today)
    return Judgement(tuple(verdicts), tuple(checks), tuple(notes))


def to_repeat(evidence: Evidence, budgets: Sequence[Budget]) -> list[str]:
    """Return the series that asv times and that are over budget, to be measured a second time."""
    over = [check for check in _checks(evidence, budgets) if check.state is State.OVER]
    series = dict.fromkeys(check.budget.series for check in over)
    return [name for name in series if getattr(evidence.head.values.get(name), "samples", ())]


def to_confirm(evidence: Evidence, limits: Limits, budgets: Sequence[Budget]) -> list[str]:
    """Return the timed series that fail if a second run in fresh processes finds the same."""
    checks = _checks(evidence, budgets)
    over = {check.budget.series for check in checks if check.state is State.UNSURE}
    return [
        series
        for series, timing in evidence.timings.items()
        if series in evidence.units
        and (timing.again or timing.confirmation) is None
        and (series in over or (timing.cpu is not None and timing.cpu.low > limits.timed_fail))
    ]


def _checks(evidence: Evidence, budgets: Sequence[Budget]) -> list[Check]:
    return [
        _check(budget, percent, limit, evidence)
        for budget in budgets
        if budget.series in evidence.units
        for percent, limit in ((50, budget.p50), (99, budget.p99))
        if limit is not None
    ]


class _Status(StrEnum):
    ABSENT = "not measured"
    BROKEN = "broken"
    LATE = "not done in time"
    LACKING = "skipped there"
    VALUE = "measured"


def _verdict(series: str, evidence: Evidence, limits: Limits) -> Verdict:
    before, base = _standing(series, evidence, of_head=False)
    now, head = _standing(series, evidence)
    kind, unit = _kind(series, before, now, evidence), evidence.units[series]
    verdict = Verdict(series, signal_of(series), kind, unit, base.value, head.value)
    verdict = replace(verdict, note=head.note or base.note)
    if verdict.kind is not Kind.UNCHANGED or base.value is None or head.value is None:
        return verdict
    if verdict.signal is Signal.TIMED:
        return _paired(verdict, evidence.timings[series], limits)
    verdict = _scalar(verdict, base.value, head.value, limits)
    # Values that scatter fail only if the least of the head is beyond the greatest of the base.
    least, most = min(head.repeats, default=head.value), max(base.repeats, default=base.value)
    if verdict.kind is Kind.REGRESSION and ratio_of(most, least) <= limits.fail(verdict.signal):
        return replace(verdict, kind=Kind.SLOWER, sure="values of several processes overlap")
    return verdict


def _kind(series: str, base: _Status, head: _Status, evidence: Evidence) -> Kind:
    """Return the verdict if no two values need to be compared; else UNCHANGED."""
    signal = signal_of(series)
    by_valgrind = signal is Signal.COUNTED and evidence.units[series] in _UNITS_OF_VALGRIND
    if head is _Status.LACKING and by_valgrind and not evidence.valgrind:
        return Kind.NOT_COUNTED
    if head is _Status.VALUE and (signal is Signal.HISTORY or not evidence.comparable):
        return Kind.ALONE
    other = evidence.base is not None and evidence.base.machine != evidence.head.machine
    # Pairs are always made on one machine.
    other = other and base is not _Status.ABSENT and signal is not Signal.TIMED
    if head is _Status.VALUE and other:
        return Kind.OTHER_MACHINE
    return _KINDS.get((head, base)) or _KINDS[head, None]


#: What is counted under valgrind, or follows from it; bytes and modules are counted without.
_UNITS_OF_VALGRIND = ("instructions", "exponent")
_KINDS: Mapping[tuple[_Status, _Status | None], Kind] = {
    (_Status.ABSENT, None): Kind.NOT_MEASURED,
    (_Status.BROKEN, None): Kind.BROKEN,
    (_Status.LATE, None): Kind.TOO_BUSY,
    (_Status.LACKING, None): Kind.SKIPPED,
    (_Status.LACKING, _Status.VALUE): Kind.LOST_API,
    (_Status.VALUE, _Status.VALUE): Kind.UNCHANGED,
    (_Status.VALUE, _Status.LACKING): Kind.NEW,
    (_Status.VALUE, _Status.BROKEN): Kind.BROKE_ON_BASE,
    (_Status.VALUE, _Status.ABSENT): Kind.NOT_MEASURED,
    (_Status.VALUE, _Status.LATE): Kind.TOO_BUSY,
}


_ABSENT, _LACKING = (_Status.ABSENT, Value(None)), (_Status.LACKING, Value(None))


def _standing(series: str, evidence: Evidence, *, of_head: bool = True) -> tuple[_Status, Value]:
    side = evidence.head if of_head else evidence.base
    if side is None or not (of_head or evidence.comparable):
        return _ABSENT
    if signal_of(series) is Signal.TIMED:
        timing = evidence.timings.get(series)
        return _of_side(Side() if timing is None else timing.head if of_head else timing.base)
    found = side.values.get(series)
    if found is None:
        return _ABSENT
    if found.value is None:
        note = found.note or ("asv says above how" if of_head else "")
        return _Status.LATE if found.late else _Status.BROKEN, replace(found, note=note)
    return _LACKING if math.isnan(found.value) else (_Status.VALUE, found)


def _of_side(side: Side) -> tuple[_Status, Value]:
    if side.error is not None:
        return _Status.BROKEN, Value(None, note=side.error)
    if side.missing:
        return _Status.LACKING, Value(None, note=f"lacks {', '.join(side.missing)}")
    if not side.wall_ns:
        return _ABSENT
    middle = sorted(side.wall_ns)[(len(side.wall_ns) - 1) // 2]
    return _Status.VALUE, Value(middle, side.wall_ns)


def _scalar(verdict: Verdict, base: float, head: float, limits: Limits) -> Verdict:
    ratio, warn = ratio_of(base, head), limits.counted_warn
    value, limit, slow, fast = ratio, limits.counted_fail, warn, 1 / warn
    sure = "counted, does not scatter"
    if verdict.signal is Signal.EXACT:
        value, limit, slow, fast, sure = head, base, base, base, "exact"
    kind = Kind.FASTER if value < fast else Kind.UNCHANGED
    if value > slow:
        kind = Kind.REGRESSION if value > limit else Kind.SLOWER
    return replace(verdict, kind=kind, ratio=ratio, sure=sure)


def _paired(verdict: Verdict, timing: Timing, limits: Limits) -> Verdict:
    """Judge paired timings: a regression is a difference that is certain and confirmed."""
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


def _check(budget: Budget, percent: int, limit: float, evidence: Evidence) -> Check:
    """Compare one figure of a budget with the head's samples, or with its one value."""
    status, head = _standing(budget.series, evidence)
    figure = f"P{percent}"
    if head.value is None:
        note = f"{status}: {head.note}" if head.note else str(status)
        return Check(budget, figure, limit, None, State.UNKNOWN, note)
    if budget.reference is not None:
        series, value = budget.reference
        here = _standing(series, evidence)[1].value
        if here is None:
            note = f"{series}, which it is relative to, has no value"
            return Check(budget, figure, limit, None, State.UNKNOWN, note)
        limit *= here / value
    value = head.value
    if percent == 50 and not head.samples:
        figure = "value"
    else:
        try:
            value = percentile(head.samples, percent)
        except TooFewSamplesError as error:
            return Check(budget, figure, limit, None, State.TOO_FEW, str(error))
    measured = value * budget.factor
    check = Check(budget, figure, limit, measured, State.OVER if measured > limit else State.KEPT)
    if check.state is State.OVER and signal_of(budget.series) is Signal.TIMED:
        return _confirmed(check, percent, evidence.timings[budget.series].again)
    return check


def _confirmed(check: Check, percent: int, again: Side | None) -> Check:
    """Return OVER if a second run exceeds the limit, too, less what loops beside it have lost."""
    if again is None:
        return replace(check, state=State.UNSURE, note="timed once")
    try:
        taken, lost = (percentile(ns, percent) for ns in (again.wall_ns, again.lost_ns))
    except TooFewSamplesError as error:
        return replace(check, state=State.UNSURE, note=f"in the second run, {error}")
    factor, limit = check.budget.factor, check.limit
    note = f"{taken * factor:.4g} in a second run, in which a loop lost {lost * factor:.4g}"
    state = State.OVER if (taken - lost) * factor > limit else State.UNSURE
    return replace(check, state=state, note=note)


def _notes(
    evidence: Evidence, verdicts: Sequence[Verdict], accepted: Sequence[Accepted], today: dt.date
) -> Iterator[str]:
    if not evidence.units:
        yield "Nothing was measured: no benchmark matches."
    if evidence.base is None:
        yield "This is the first commit: there is no base, so only budgets are judged."
    elif not evidence.comparable:
        yield "Base and head are the same commit: only budgets are judged (see --base)."
    elif evidence.base.machine != evidence.head.machine:
        where = f"the base on {evidence.base.machine}, the head on {evidence.head.machine}."
        yield f"Not compared, as they were measured on different machines: {where}"
    if evidence.edited:
        how = "both commits were measured with the benchmarks as they are now."
        yield f"Edited since the base: {', '.join(evidence.edited)}; {how}"
    if any(verdict.kind is Kind.NOT_COUNTED for verdict in verdicts):
        yield "valgrind is absent: no instructions were counted; exact and timed signals remain."
    for known in accepted:
        if not known.counts(today):
            yield f"No longer accepted since {known.until}: {known.series} ({known.reason})."
