"""The judge of the gate: each case by name, which code it leads to, and what it never does."""

from __future__ import annotations

import dataclasses
import datetime as dt
import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stageflow.pulse.gate import Budget, Evidence, Exit, Kind, Side, State, Value
from stageflow.pulse.gate.judge import to_confirm, to_repeat
from tests.utils.gate import (
    ABSENT,
    BASE,
    COUNTED,
    EXACT,
    HEAD,
    HISTORY,
    LIMITS,
    NAN,
    TIMED,
    TODAY,
    Given,
    accepted,
    budget,
    evidence,
    interval,
    judged,
    kinds,
    measured,
    only,
    timed,
    timing,
)

YESTERDAY = TODAY - dt.timedelta(days=1)


def pair(series: str, base: Given, head: Given) -> Evidence:
    """Evidence on one series."""
    return evidence({series: base}, {series: head})


@pytest.mark.parametrize(
    ("series", "base", "head", "kind", "code"),
    [
        (EXACT, 7.0, 7.0, Kind.UNCHANGED, Exit.OK),
        (EXACT, 7.0, 8.0, Kind.REGRESSION, Exit.REGRESSION),
        (EXACT, 7.0, 7.0000001, Kind.REGRESSION, Exit.REGRESSION),
        (EXACT, 0.0, 0.1, Kind.REGRESSION, Exit.REGRESSION),
        (EXACT, 7.0, 6.0, Kind.FASTER, Exit.OK),
        (EXACT, 0.0, 0.0, Kind.UNCHANGED, Exit.OK),
        (COUNTED, 1000.0, 1000.0, Kind.UNCHANGED, Exit.OK),
        (COUNTED, 1000.0, 1019.0, Kind.UNCHANGED, Exit.OK),
        (COUNTED, 1000.0, 1021.0, Kind.SLOWER, Exit.OK),
        (COUNTED, 1000.0, 1099.0, Kind.SLOWER, Exit.OK),
        (COUNTED, 1000.0, 1101.0, Kind.REGRESSION, Exit.REGRESSION),
        (COUNTED, 1000.0, 990.0, Kind.UNCHANGED, Exit.OK),
        (COUNTED, 1000.0, 900.0, Kind.FASTER, Exit.OK),
        (COUNTED, 0.0, 16.0, Kind.REGRESSION, Exit.REGRESSION),
        (COUNTED, -16.0, -8.0, Kind.REGRESSION, Exit.REGRESSION),
        (COUNTED, -8.0, -16.0, Kind.FASTER, Exit.OK),
    ],
)
def test_two_values(series: str, base: float, head: float, kind: Kind, code: Exit) -> None:
    """An exact series fails at any rise, a counted one beyond its limit; both name what fell."""
    judgement = judged(pair(series, base, head))
    assert only(judgement).kind is kind
    assert judgement.exit is code
    assert (only(judgement).base, only(judgement).head) == (base, head)


def test_ratio_of_nothing_is_infinite() -> None:
    """A rise from 0 has no ratio that a finite acceptance could cover."""
    verdict = only(judged(pair(EXACT, 0.0, 3.0)))
    assert verdict.ratio == math.inf
    assert verdict.sure == "exact"


def test_history_is_not_compared() -> None:
    """A series that is history only is never called a regression, however much it rose."""
    judgement = judged(pair(HISTORY, 1.0, 9.0), budget(HISTORY, 10.0))
    assert only(judgement).kind is Kind.ALONE
    assert judgement.exit is Exit.OK


@pytest.mark.parametrize("series", [EXACT, COUNTED])
@pytest.mark.parametrize(
    ("base", "head", "kind", "code"),
    [
        (NAN, 5.0, Kind.NEW, Exit.OK),
        (5.0, NAN, Kind.LOST_API, Exit.BROKEN),
        (NAN, NAN, Kind.SKIPPED, Exit.INSUFFICIENT_DATA),
        (5.0, None, Kind.BROKEN, Exit.BROKEN),
        (NAN, None, Kind.BROKEN, Exit.BROKEN),
        (ABSENT, None, Kind.BROKEN, Exit.BROKEN),
        (None, None, Kind.BROKEN, Exit.BROKEN),
        (None, 5.0, Kind.BROKE_ON_BASE, Exit.INSUFFICIENT_DATA),
        (None, NAN, Kind.SKIPPED, Exit.INSUFFICIENT_DATA),
        (ABSENT, 5.0, Kind.NOT_MEASURED, Exit.INSUFFICIENT_DATA),
        (ABSENT, NAN, Kind.SKIPPED, Exit.INSUFFICIENT_DATA),
        (5.0, ABSENT, Kind.NOT_MEASURED, Exit.INSUFFICIENT_DATA),
        (ABSENT, ABSENT, Kind.NOT_MEASURED, Exit.INSUFFICIENT_DATA),
    ],
)
def test_value_that_is_not_there(
    series: str, base: Given, head: Given, kind: Kind, code: Exit
) -> None:
    """New, lost, broken, skipped and not measured are different states, and none has a ratio."""
    judgement = judged(pair(series, base, head))
    assert only(judgement).kind is kind
    assert only(judgement).ratio is None
    assert judgement.exit is code


LATE = Value(None, note="asv: benchmark timed out", late=True)


@pytest.mark.parametrize(
    ("base", "head", "kind", "code"),
    [
        (Value(5.0), LATE, Kind.TOO_BUSY, Exit.INSUFFICIENT_DATA),
        (LATE, Value(5.0), Kind.TOO_BUSY, Exit.INSUFFICIENT_DATA),
        (LATE, LATE, Kind.TOO_BUSY, Exit.INSUFFICIENT_DATA),
        (LATE, Value(None), Kind.BROKEN, Exit.BROKEN),
    ],
)
def test_a_body_that_ran_out_of_time_is_not_an_error(
    base: Value, head: Value, kind: Kind, code: Exit
) -> None:
    """The machine was too busy: neither a broken benchmark nor a regression, and never fine."""
    found = evidence({COUNTED: 5.0, EXACT: 1.0}, {COUNTED: 5.0, EXACT: 1.0})
    assert found.base is not None
    for side, value in ((found.base, base), (found.head, head)):
        assert isinstance(side.values, dict)
        side.values[COUNTED] = value
    judgement = judged(found)
    assert kinds(judgement) == {COUNTED: kind, EXACT: Kind.UNCHANGED}
    assert judgement.exit is code
    assert judgement.verdicts[0].note


def test_new_beside_what_is_compared() -> None:
    """A new benchmark is named and is not a regression, and the rest is judged as ever."""
    found = evidence({EXACT: NAN, COUNTED: 5.0}, {EXACT: 9.0, COUNTED: 5.0})
    judgement = judged(found)
    assert kinds(judgement) == {EXACT: Kind.NEW, COUNTED: Kind.UNCHANGED}
    assert judgement.exit is Exit.OK


def test_fixed_benchmark_does_not_block() -> None:
    """One that broke on the base and works now is named; a fix must not be kept from merging."""
    found = evidence({EXACT: None, COUNTED: 5.0}, {EXACT: 9.0, COUNTED: 5.0})
    judgement = judged(found)
    assert kinds(judgement)[EXACT] is Kind.BROKE_ON_BASE
    assert judgement.exit is Exit.OK


def test_removed_is_named() -> None:
    """A benchmark that the base had and the head has not is named, and fails nothing."""
    found = dataclasses.replace(pair(COUNTED, 5.0, 5.0), removed=("counted.track_gone",))
    judgement = judged(found)
    assert kinds(judgement)["counted.track_gone"] is Kind.REMOVED
    assert judgement.exit is Exit.OK


def test_edited_is_named() -> None:
    """Files of benchmarks that were edited are named, and the comparison stands."""
    found = dataclasses.replace(pair(COUNTED, 5.0, 9.0), edited=("benchmarks/_lib/operations.py",))
    judgement = judged(found)
    assert any(
        "Edited" in note and "benchmarks/_lib/operations.py" in note for note in judgement.notes
    )
    assert judgement.exit is Exit.REGRESSION


def test_nothing_matched() -> None:
    """Where no series was asked about nothing is fine: code 4, and it is said."""
    judgement = judged(evidence())
    assert judgement.exit is Exit.INSUFFICIENT_DATA
    assert any("no benchmark matches" in note for note in judgement.notes)


def test_all_failed() -> None:
    """Where every benchmark broke on both commits the gate says broken, never fine."""
    judgement = judged(evidence({EXACT: None, COUNTED: None}, {EXACT: None, COUNTED: None}))
    assert set(kinds(judgement).values()) == {Kind.BROKEN}
    assert judgement.exit is Exit.BROKEN


def test_valgrind_absent() -> None:
    """Without valgrind counts are missing on the head: said, not lost, and exact decides."""
    found = evidence({EXACT: 7.0, COUNTED: 5.0}, {EXACT: 7.0, COUNTED: NAN})
    judgement = judged(dataclasses.replace(found, valgrind=False), budget(COUNTED, 9.0))
    assert kinds(judgement) == {EXACT: Kind.UNCHANGED, COUNTED: Kind.NOT_COUNTED}
    assert any("valgrind" in note for note in judgement.notes)
    assert judgement.checks[0].state is State.UNKNOWN
    assert judgement.exit is Exit.OK


def test_valgrind_absent_excuses_no_other_count() -> None:
    """Bytes are counted without valgrind: if a commit lacks them it has lost them."""
    found = dataclasses.replace(pair(COUNTED, 5.0, NAN), valgrind=False, units={COUNTED: "bytes"})
    assert only(judged(found)).kind is Kind.LOST_API


def test_valgrind_absent_and_nothing_else() -> None:
    """Without valgrind and without another signal nothing was measured: code 4."""
    found = dataclasses.replace(pair(COUNTED, NAN, NAN), valgrind=False)
    assert judged(found).exit is Exit.INSUFFICIENT_DATA


def test_first_commit() -> None:
    """Without a base only the budgets are held, which is said."""
    found = dataclasses.replace(pair(EXACT, ABSENT, 7.0), base=None)
    judgement = judged(found, budget(EXACT, 7.0))
    assert only(judgement).kind is Kind.ALONE
    assert judgement.exit is Exit.OK
    assert any("first commit" in note for note in judgement.notes)
    assert judged(found, budget(EXACT, 6.0)).exit is Exit.OVER_BUDGET


def test_first_commit_without_budgets() -> None:
    """Where there is neither a base nor a budget nothing was judged: code 4."""
    found = dataclasses.replace(pair(EXACT, ABSENT, 7.0), base=None)
    assert judged(found).exit is Exit.INSUFFICIENT_DATA


def test_base_is_head() -> None:
    """A commit against itself is said to be that, timed series included; budgets are held."""
    found = dataclasses.replace(
        timed(timing(interval(1.3, 1.5), interval(1.3, 1.5))),
        base=measured(HEAD, {}),
    )
    judgement = judged(found, budget(TIMED, 1000.0))
    assert only(judgement).kind is Kind.ALONE
    assert any("same commit" in note for note in judgement.notes)
    assert judgement.exit is Exit.OK


def test_other_machine() -> None:
    """Results of different machines are never compared: named, and code 4 if that is all."""
    found = dataclasses.replace(pair(EXACT, 7.0, 8.0), base=measured(BASE, {EXACT: 7.0}, "other"))
    judgement = judged(found, budget(EXACT, 9.0))
    assert only(judgement).kind is Kind.OTHER_MACHINE
    assert judgement.exit is Exit.INSUFFICIENT_DATA
    assert any("other" in note and "different machines" in note for note in judgement.notes)


def test_other_machine_beside_pairs() -> None:
    """Pairs are made on one machine: they are judged where asv's results cannot be."""
    found = dataclasses.replace(
        timed(timing(interval(0.98, 1.02))),
        units={EXACT: "tasks", TIMED: "ns"},
        head=measured(HEAD, {EXACT: 8.0}),
        base=measured(BASE, {EXACT: 7.0}, "other"),
    )
    judgement = judged(found)
    assert kinds(judgement) == {EXACT: Kind.OTHER_MACHINE, TIMED: Kind.UNCHANGED}
    assert judgement.exit is Exit.OK


@pytest.mark.parametrize(
    ("cpu", "again", "kind"),
    [
        ((0.97, 1.04), None, Kind.UNCHANGED),
        ((0.97, 3.00), None, Kind.UNCHANGED),
        ((1.04, 1.30), None, Kind.UNCHANGED),
        ((1.06, 1.30), None, Kind.SLOWER),
        ((1.19, 1.90), None, Kind.SLOWER),
        ((1.21, 1.30), None, Kind.SLOWER),
        ((1.21, 1.30), (1.19, 1.30), Kind.SLOWER),
        ((1.21, 1.30), (1.21, 1.30), Kind.REGRESSION),
        ((0.50, 0.94), None, Kind.FASTER),
        ((0.50, 0.96), None, Kind.UNCHANGED),
    ],
)
def test_timing(cpu: tuple[float, float], again: tuple[float, float] | None, kind: Kind) -> None:
    """Only an interval wholly above the limit that a second run confirms is a regression."""
    judgement = judged(timed(timing(interval(*cpu), interval(*again) if again else None)))
    assert only(judgement).kind is kind
    assert judgement.exit is (Exit.REGRESSION if kind is Kind.REGRESSION else Exit.OK)
    assert "99% interval" in only(judgement).sure


def test_what_has_to_be_confirmed() -> None:
    """A second run is requested where the first would fail, and only once."""
    first = timed(timing(interval(1.21, 1.3)))
    assert to_confirm(first, LIMITS, ()) == [TIMED]
    assert to_confirm(timed(timing(interval(1.19, 1.3))), LIMITS, ()) == []
    assert to_confirm(timed(timing(interval(1.21, 1.3), interval(1.0, 1.1))), LIMITS, ()) == []
    assert to_confirm(timed(timing(None)), LIMITS, ()) == []
    assert to_confirm(dataclasses.replace(first, units={}), LIMITS, ()) == []


LACKS = Side(missing=("ContextBag.write",))
BROKE = Side(error="ZeroDivisionError: 0")


@pytest.mark.parametrize(
    ("base", "head", "kind", "code"),
    [
        (LACKS, None, Kind.NEW, Exit.OK),
        (None, LACKS, Kind.LOST_API, Exit.BROKEN),
        (LACKS, LACKS, Kind.SKIPPED, Exit.INSUFFICIENT_DATA),
        (BROKE, None, Kind.BROKE_ON_BASE, Exit.INSUFFICIENT_DATA),
        (None, BROKE, Kind.BROKEN, Exit.BROKEN),
        (Side(), None, Kind.NOT_MEASURED, Exit.INSUFFICIENT_DATA),
        (None, Side(), Kind.NOT_MEASURED, Exit.INSUFFICIENT_DATA),
    ],
)
def test_timing_that_is_not_there(
    base: Side | None, head: Side | None, kind: Kind, code: Exit
) -> None:
    """A timed operation that a commit lacks, or that breaks there, has a state like any other."""
    judgement = judged(timed(timing(None, base=base, head=head)))
    assert only(judgement).kind is kind
    assert judgement.exit is code
    assert ("lacks ContextBag.write" in only(judgement).note) == (LACKS in (base, head))
    assert ("ZeroDivisionError" in only(judgement).note) == (BROKE in (base, head))


def test_too_few_pairs() -> None:
    """Where both ran but too seldom for an interval, too little was measured."""
    judgement = judged(timed(timing(None)))
    assert only(judgement).kind is Kind.NOT_MEASURED
    assert judgement.exit is Exit.INSUFFICIENT_DATA


def test_timing_that_was_asked_for_and_not_made() -> None:
    """A timed series without a timing counts as not measured."""
    judgement = judged(dataclasses.replace(timed(timing(None)), timings={}))
    assert only(judgement).kind is Kind.NOT_MEASURED


@pytest.mark.parametrize(
    ("up_to", "until", "kind"),
    [
        (1.5, TODAY, Kind.ACCEPTED),
        (1.49, TODAY, Kind.REGRESSION),
        (1.5, YESTERDAY, Kind.REGRESSION),
    ],
)
@pytest.mark.parametrize("series", [EXACT, COUNTED])
def test_acknowledged(series: str, up_to: float, until: dt.date, kind: Kind) -> None:
    """A known regression passes up to its ratio and to the end of its last day, by name."""
    judgement = judged(pair(series, 2.0, 3.0), known=(accepted(series, up_to, until),))
    assert only(judgement).kind is kind
    assert judgement.exit is (Exit.OK if kind is Kind.ACCEPTED else Exit.REGRESSION)
    assert only(judgement).note


def test_acknowledged_timing() -> None:
    """A certain and confirmed timing can be accepted too; its median decides."""
    slow = timed(timing(interval(1.25, 1.35), interval(1.25, 1.35)))
    assert judged(slow, known=(accepted(TIMED, 1.31),)).exit is Exit.OK
    assert judged(slow, known=(accepted(TIMED, 1.29),)).exit is Exit.REGRESSION


def test_acknowledged_rise_from_nothing() -> None:
    """A rise from 0 is accepted by an infinite ratio only."""
    rise = pair(EXACT, 0.0, 1.0)
    assert judged(rise, known=(accepted(EXACT, 1e9),)).exit is Exit.REGRESSION
    assert judged(rise, known=(accepted(EXACT, math.inf),)).exit is Exit.OK


def test_expired_is_named_wherever_it_is() -> None:
    """An acceptance whose time is over is named, even when nothing is slower."""
    judgement = judged(pair(EXACT, 2.0, 2.0), known=(accepted(COUNTED, 1.5, YESTERDAY),))
    assert any("No longer accepted" in note and COUNTED in note for note in judgement.notes)
    assert judgement.exit is Exit.OK


def test_acceptance_is_of_one_series() -> None:
    """An acceptance of one series does not hold for another."""
    assert judged(pair(EXACT, 2.0, 3.0), known=(accepted(COUNTED, 9.0),)).exit is Exit.REGRESSION


def test_budget_of_one_value() -> None:
    """A scalar is held to its P50 alone, converted into the budget's unit; equal is within."""
    same = pair(COUNTED, 5000.0, 5000.0)
    (kept,) = judged(same, budget(COUNTED, 5.0, factor=0.001)).checks
    assert (kept.figure, kept.measured, kept.state) == ("value", 5.0, State.KEPT)
    over = judged(same, budget(COUNTED, 4.9, factor=0.001))
    assert over.checks[0].state is State.OVER
    assert over.exit is Exit.OVER_BUDGET


@pytest.mark.parametrize(
    ("reference", "limit", "state"),
    [
        (100.0, 10.0, State.OVER),
        (150.0, 15.0, State.KEPT),
        (50.0, 5.0, State.OVER),
        (None, 10.0, State.UNKNOWN),
        (NAN, 10.0, State.UNKNOWN),
        (ABSENT, 10.0, State.UNKNOWN),
    ],
)
def test_a_budget_follows_its_reference(reference: Given, limit: float, state: State) -> None:
    """A machine on which the reference takes more has as much more room; without it, nothing."""
    found = evidence({COUNTED: 11.0, EXACT: reference}, {COUNTED: 11.0, EXACT: reference})
    held = dataclasses.replace(budget(COUNTED, 10.0), reference=(EXACT, 100.0))
    (check,) = judged(found, held).checks
    assert check.limit == pytest.approx(limit)
    assert check.state is state
    assert (EXACT in check.note) is (state is State.UNKNOWN)


def samples_of(series: str, samples: list[float]) -> Evidence:
    """Evidence on one series that has single measurements."""
    if series == TIMED:
        head = Side(tuple(samples))
        again = Side(head.wall_ns, (0.0,) * len(samples))
        found = dataclasses.replace(timing(interval(1.0, 1.0), head=head), again=again)
        return timed(found)
    at_head = dataclasses.replace(measured(HEAD, {}), values={series: Value(9.9, tuple(samples))})
    return dataclasses.replace(pair(series, 5.0, 5.0), head=at_head)


@pytest.mark.parametrize("series", [TIMED, HISTORY])
def test_budget_of_samples(series: str) -> None:
    """Percentiles come from the head's samples: of 1…200, P50 is 100 and P99 is 198."""
    found = samples_of(series, [float(n) for n in range(200, 0, -1)])
    judgement = judged(found, budget(series, 100.0, 197.9))
    assert [(c.figure, c.measured, c.state) for c in judgement.checks] == [
        ("P99", 198.0, State.OVER),
        ("P50", 100.0, State.KEPT),
    ]
    assert judgement.exit is Exit.OVER_BUDGET


@pytest.mark.parametrize(
    ("again", "lost", "state"),
    [
        (None, None, State.UNSURE),
        (11.0, 0.0, State.OVER),
        (10.0, 0.0, State.UNSURE),
        (15.0, 4.9, State.OVER),
        (15.0, 5.0, State.UNSURE),
        (3.0, 0.0, State.UNSURE),
    ],
)
@pytest.mark.parametrize("percent", [50, 99])
def test_a_budget_on_time_fails_only_for_certain(
    again: float | None, lost: float | None, state: State, percent: int
) -> None:
    """It has to be over a second time, also without what the machine took from a loop beside it."""
    runs: list[Side | None] = [Side((11.0,) * 100)]
    runs.append(None if again is None else Side((again,) * 100, (lost or 0.0,) * 100))
    found = timed(dataclasses.replace(timing(interval(1.0, 1.0), head=runs[0]), again=runs[1]))
    held = budget(TIMED, 10.0) if percent == 50 else budget(TIMED, 12.0, 10.0)
    judgement = judged(found, held)
    check = judgement.checks[0]
    assert (check.figure, check.measured, check.state) == (f"P{percent}", 11.0, state)
    assert bool(check.note) is True
    assert judgement.exit is (Exit.OVER_BUDGET if state is State.OVER else Exit.OK)
    assert to_confirm(found, LIMITS, (held,)) == ([TIMED] if again is None else [])
    assert to_confirm(found, LIMITS, ()) == []


def test_too_few_loops_make_nothing_certain() -> None:
    """Where what the machine lost is not known, a budget on time is only named."""
    again = Side((11.0,) * 100, (0.0,) * 19)
    head = Side((11.0,) * 100)
    found = timed(dataclasses.replace(timing(interval(1.0, 1.0), head=head), again=again))
    (check,) = judged(found, budget(TIMED, 10.0)).checks
    assert check.state is State.UNSURE
    assert "needs at least 20 samples" in check.note


def test_what_asv_timed_is_repeated() -> None:
    """Samples may be noise, one exact value is not; what keeps its budget is not asked again."""
    found = samples_of(HISTORY, [7.0] * 100)
    assert to_repeat(found, [budget(HISTORY, 6.0)]) == [HISTORY]
    assert to_repeat(found, [budget(HISTORY, 8.0)]) == []
    assert to_repeat(pair(EXACT, 7.0, 7.0), [budget(EXACT, 6.0)]) == []


@pytest.mark.parametrize(("count", "few"), [(19, ["P50", "P99"]), (99, ["P99"]), (100, [])])
def test_too_few_samples(count: int, few: list[str]) -> None:
    """A percentile of too few samples is not guessed: it is named, and code 4."""
    judgement = judged(samples_of(HISTORY, [1.0] * count), budget(HISTORY, 2.0, 2.0))
    assert [c.figure for c in judgement.checks if c.state is State.TOO_FEW] == few
    assert judgement.exit is (Exit.INSUFFICIENT_DATA if few else Exit.OK)


def test_p99_of_one_value() -> None:
    """A P99 on a series that turns out to have no samples is an error, not its one value."""
    judgement = judged(pair(HISTORY, 1.0, 1.0), budget(HISTORY, 2.0, 3.0))
    assert [c.state for c in judgement.checks] == [State.TOO_FEW, State.KEPT]
    assert judgement.exit is Exit.INSUFFICIENT_DATA


@pytest.mark.parametrize(
    ("head", "why"), [(None, "broken"), (NAN, "skipped"), (ABSENT, "not measured")]
)
def test_budget_of_what_is_not_there(head: Given, why: str) -> None:
    """A budget whose series has no value is not called kept."""
    (check,) = judged(pair(EXACT, NAN, head), budget(EXACT, 9.0)).checks
    assert check.state is State.UNKNOWN
    assert why in check.note


def test_budgets_of_others_are_left_out() -> None:
    """A budget of a series that is not asked about is neither kept nor missed."""
    assert judged(pair(EXACT, 1.0, 1.0), budget(COUNTED, 1.0)).checks == ()


#: One series that leads to each code, in the order of precedence.
CAUSES: dict[Exit, tuple[str, Given, Given]] = {
    Exit.BROKEN: ("exact.track_a", 1.0, None),
    Exit.INSUFFICIENT_DATA: ("exact.track_b", 1.0, ABSENT),
    Exit.REGRESSION: ("exact.track_c", 1.0, 2.0),
    Exit.OVER_BUDGET: ("exact.track_d", 9.0, 9.0),
    Exit.OK: ("exact.track_e", 1.0, 1.0),
}


@pytest.mark.parametrize(
    "chosen",
    [c for size in range(1, 6) for c in itertools.combinations(CAUSES, size)],
    ids=lambda chosen: "+".join(code.name for code in chosen),
)
def test_precedence(chosen: tuple[Exit, ...]) -> None:
    """Of several findings the gravest gives the code: broken, too little, regression, budget."""
    causes = [CAUSES[code] for code in chosen]
    found = Evidence(
        units={series: "tasks" for series, _, _ in causes},
        head=measured(HEAD, {series: head for series, _, head in causes}),
        base=measured(BASE, {series: base for series, base, _ in causes}),
    )
    tight = dataclasses.replace(budget(EXACT, 5.0), series="exact.track_d")
    assert judged(found, tight).exit is chosen[0]


def test_codes_differ() -> None:
    """Every code has a meaning of its own, as the guide and the help list them."""
    assert [int(code) for code in Exit] == [0, 1, 2, 3, 4, 5, 6, 130]


def test_gravest_comes_first() -> None:
    """Series that need a look come before those that are fine."""
    found = evidence({EXACT: 1.0, COUNTED: 5.0}, {EXACT: 1.0, COUNTED: 9.0})
    assert list(kinds(judged(found)).values()) == [Kind.REGRESSION, Kind.UNCHANGED]


SERIES = st.sampled_from([EXACT, COUNTED])
VALUES = st.one_of(st.floats(-1e12, 1e12), st.just(NAN), st.none())


@given(st.dictionaries(SERIES, VALUES, min_size=1))
def test_identical_measurements_never_alarm(values: dict[str, float | None]) -> None:
    """Two commits that measure the same are never a regression, nor slower, nor faster."""
    judgement = judged(evidence(values, values))
    assert not {Kind.REGRESSION, Kind.SLOWER, Kind.FASTER} & set(kinds(judgement).values())
    assert judgement.exit is not Exit.REGRESSION


@given(st.floats(-1e9, 1e9), st.floats(-1e9, 1e9))
def test_any_rise_of_an_exact_series_fails(one: float, other: float) -> None:
    """Whichever of two different values is the head's: higher fails, lower never does."""
    low, high = sorted((one, other))
    if low == high:
        return
    assert judged(pair(EXACT, low, high)).exit is Exit.REGRESSION
    assert judged(pair(EXACT, high, low)).exit is Exit.OK


@given(st.floats(1, 1e12), st.floats(0.1, 10))
def test_counted_fails_exactly_beyond_its_limit(base: float, ratio: float) -> None:
    """A counted series fails when the ratio is above the limit, and only then."""
    head = base * ratio
    failed = judged(pair(COUNTED, base, head)).exit is Exit.REGRESSION
    assert failed == (head / base > LIMITS.counted_fail)


@given(st.floats(0.2, 5), st.floats(0.2, 5), st.floats(0.2, 5), st.floats(0.2, 5))
def test_a_timing_fails_only_when_found_twice(a: float, b: float, c: float, d: float) -> None:
    """No interval that reaches down to the limit, in either run, makes a regression."""
    first, second = sorted((a, b)), sorted((c, d))
    failed = judged(timed(timing(interval(*first), interval(*second)))).exit is Exit.REGRESSION
    assert failed == (first[0] > LIMITS.timed_fail and second[0] > LIMITS.timed_fail)


@given(st.dictionaries(SERIES, VALUES), st.dictionaries(SERIES, VALUES), st.floats(-1e9, 1e9))
def test_fine_means_that_all_was_judged(
    base: dict[str, float | None], head: dict[str, float | None], limit: float
) -> None:
    """Code 0 is never given where a series broke, was lost, was not measured, or fails."""
    held: list[Budget] = [budget(series, limit) for series in (EXACT, COUNTED)]
    judgement = judged(evidence(base, head), *held)
    if judgement.exit is Exit.OK:
        bad = {Kind.BROKEN, Kind.LOST_API, Kind.NOT_MEASURED, Kind.REGRESSION}
        assert not bad & set(kinds(judgement).values())
        assert all(check.state is not State.OVER for check in judgement.checks)
        assert judgement.verdicts
