"""Trials of the gate's judge: on identical code, on planted defects, and on faults of its own."""

from __future__ import annotations

import datetime as dt
import json
import math
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from stageflow.pulse import PulseError
from stageflow.pulse.gate import (
    Both,
    Budget,
    Evidence,
    Exit,
    Judgement,
    Kind,
    Limits,
    Measured,
    Side,
    Timing,
    Value,
    judge,
    time_pairs,
)
from stageflow.pulse.history import Signal, operation_of, percentile, signal_of
from tools.gate_selftest.plants import HALF_THE_WORK, RARE_WAIT, LostOverlap, Slowdown
from tools.gate_selftest.rounds import Pool, Round, evidence, values_of

TODAY = dt.date(2000, 1, 1)
#: What knows how much each benchmark does.
WORK_DONE = "tests/unit/benchmarks/test_work_done.py"
#: Two-sided 95 %.
_Z = 1.959963984540054


@dataclass(frozen=True, slots=True)
class Rate:
    """How often something happened.

    Attributes:
        happened: How often.
        of: In how many trials.
    """

    happened: int
    of: int

    @property
    def share(self) -> float:
        """The share of trials."""
        return self.happened / self.of if self.of else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the true share, for independent trials.

        It is the score interval of E. B. Wilson, "Probable inference, the law of succession, and
        statistical inference", J. Am. Stat. Assoc. 22 (1927), 209-212; it holds for few trials and
        for shares near 0 and 1.
        """
        if not self.of:
            return 0.0, 1.0
        n, p, z2 = self.of, self.share, _Z * _Z
        middle = (p + z2 / (2 * n)) / (1 + z2 / n)
        reach = _Z * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
        return max(0.0, middle - reach), min(1.0, middle + reach)


@dataclass(frozen=True, slots=True)
class Identical:
    """The gate's verdicts on identical code under one condition.

    Attributes:
        condition: ``quiet`` or ``loaded``.
        load: The machine's load average, at the median round.
        alarms: Comparisons of rounds, each used once, that failed.
        resampled: Comparisons of rounds drawn by chance that failed.
        named: Comparisons of both kinds in which a series was called slower.
        scatter: The largest relative difference of a counted series between two rounds.
        worst: The series that it is of.
        culprits: The series that failed or were called slower, and how often.
    """

    condition: str
    load: float
    alarms: Rate
    resampled: Rate
    named: Rate
    scatter: float
    worst: str
    culprits: dict[str, int]


@dataclass(frozen=True, slots=True)
class Detected:
    """The gate's verdicts on a planted defect.

    Attributes:
        layer: What was slowed down.
        series: The series that had to show it.
        planted: The rise that was planted, as measured, such as 0.1; infinite from zero.
        failed: How often the gate failed.
        caught: How often it failed or named the series as slower.
    """

    layer: str
    series: str
    planted: float
    failed: Rate
    caught: Rate


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault of the gate's own, and what it must end with and did."""

    what: str
    expected: Exit
    found: Exit


@dataclass(frozen=True, slots=True)
class Other:
    """Another planted defect: what it is, by what it has to be found, what that said, and if so."""

    what: str
    by: str
    found: str
    caught: bool


def identical(
    pool: Pool, units: dict[str, str], limits: Limits, draws: int, chance: random.Random
) -> Identical:
    """Compare the rounds of a pool with each other."""
    counted: dict[str, int] = {}

    def judged(base: Round, head: Round, processes: Sequence[Mapping[str, Both]]) -> Judgement:
        confirming = pool.drawn(chance)[2]
        found = evidence(units, base.values, head.values, processes, confirming)
        judgement = judge(found, limits, (), (), TODAY)
        for verdict in judgement.verdicts:
            if verdict.kind in (Kind.REGRESSION, Kind.SLOWER):
                counted[verdict.series] = counted.get(verdict.series, 0) + 1
        return judgement

    real = [judged(*one) for one in pool.in_order()]
    drawn = [judged(*pool.drawn(chance)) for _ in range(draws)]
    named = sum(any(v.kind is Kind.SLOWER for v in one.verdicts) for one in [*real, *drawn])
    scatter, worst = max(_scatter(pool.rounds), default=(0.0, ""))
    return Identical(
        condition=pool.condition,
        load=sorted(pool.loads)[len(pool.loads) // 2],
        alarms=_failed(real),
        resampled=_failed(drawn),
        named=Rate(named, len(real) + len(drawn)),
        scatter=scatter,
        worst=worst,
        culprits=dict(sorted(counted.items(), key=lambda one: -one[1])),
    )


def _failed(judgements: Sequence[Judgement]) -> Rate:
    return Rate(sum(one.exit is not Exit.OK for one in judgements), len(judgements))


def _scatter(rounds: Sequence[Round]) -> Iterator[tuple[float, str]]:
    """How far the values of each counted series lie apart, as a share of the least."""
    for series in rounds[0].values:
        values = [one.values[series] for one in rounds]
        if signal_of(series) is Signal.COUNTED and min(values) > 0:
            yield max(values) / min(values) - 1, series


# ── planted defects ─────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Planter:
    """Plants defects and has them judged.

    Attributes:
        benchmarks: The folder of the benchmarks.
        clean: A folder with the package as it is.
        copied: Makes a folder with a copy of the package in it, and plants into the package.
        pools: Rounds of the clean package, to be compared with.
        limits: From when on the gate names and fails.
        repeats: How often each defect is measured.
    """

    benchmarks: Path
    clean: Path
    copied: Callable[[Callable[[Path], None]], Path]
    pools: Sequence[Pool]
    limits: Limits
    repeats: int

    def slowdowns(self, plant: Slowdown, rises: Sequence[float]) -> Iterator[Detected]:
        """Slow a function down so that its series rises by each of `rises`, or hardly more."""
        before, hundred = (self._value(plant, statements) for statements in (0, 100))
        each = (hundred - before) / 100
        if each <= 0:
            raise PulseError(
                f"what is planted into {plant.function} does not show in {plant.series}"
            )
        yield from (self._slowdown(plant, rise, before, each) for rise in rises)

    def _slowdown(self, plant: Slowdown, rise: float, before: float, each: float) -> Detected:
        series = plant.series
        statements = math.ceil(before * rise / each)
        tree = self.copied(lambda package: plant.into(package, statements))
        heads = [values_of(self.benchmarks, tree, [series]) for _ in range(self.repeats)]
        # Counted by itself as well: among others a count differs by some thousandths.
        kinds = [self._kind(series, before, head[series]) for head in heads]
        return _detected(plant.layer, series, heads[0][series] / before - 1, kinds)

    def lost(self, plant: LostOverlap) -> Detected:
        """Lose an overlap; it is caught if any of its series fails."""
        series = plant.series
        tree = self.copied(plant.into)
        kinds = []
        for _ in range(self.repeats):
            head = values_of(self.benchmarks, tree, series)
            for base in (one for pool in self.pools for one in pool.rounds):
                each = [self._kind(name, base.values[name], head[name]) for name in series]
                kinds.append(Kind.REGRESSION if Kind.REGRESSION in each else each[0])
        rises = {name: head[name] / base.values[name] - 1 for name in series}
        most = max(rises, key=lambda name: rises[name])
        return _detected(plant.layer, most, rises[most], kinds)

    def timed(self, plant: Slowdown, statements: int) -> Detected:
        """Slow a function down, and let timing alone find it: in pairs, and again to confirm."""
        operation = operation_of(plant.series)
        tree = self.copied(lambda package: plant.into(package, statements))
        kinds, rises = [], []
        for _ in range(self.repeats):
            first, second = (
                time_pairs(self.benchmarks, (self.clean, tree), [operation], lambda _: None)
                for _ in range(2)
            )
            found = evidence({plant.series: "ns"}, {}, {}, [first], [second])
            (verdict,) = judge(found, self.limits, (), (), TODAY).verdicts
            kinds.append(verdict.kind)
            rises.append((verdict.ratio or math.nan) - 1)
        return _detected(plant.layer, plant.series, sorted(rises)[len(rises) // 2], kinds)

    def tail(self, held: Sequence[Budget]) -> Other:
        """Let one turn in 25 wait for as long as the slowest ones take; the median stays."""
        before = _turns_s(self.benchmarks, self.clean)
        worst = percentile(before, 99)
        plant = replace(RARE_WAIT, statement=RARE_WAIT.statement.format(seconds=1.3 * worst))
        after = _turns_s(self.benchmarks, self.copied(lambda package: plant.into(package, 1)))
        sides = [
            Measured(name, "here", {plant.series: Value(percentile(samples, 50), tuple(samples))})
            for name, samples in (("base", before), ("head", after))
        ]
        found = Evidence(units={plant.series: "seconds"}, base=sides[0], head=sides[1])
        code = judge(found, self.limits, held, (), TODAY).exit
        p50, p99 = (percentile(after, of) / percentile(before, of) for of in (50, 99))
        return Other(
            f"P99 of a voice turn {p99:.2f} times, its P50 {p50:.2f} times",
            "the gate's nightly budgets",
            f"{code:d} ({code.name})",
            code is Exit.OVER_BUDGET,
        )

    def _value(self, plant: Slowdown, statements: int) -> float:
        tree = self.copied(lambda package: plant.into(package, statements))
        return values_of(self.benchmarks, tree, [plant.series])[plant.series]

    def _kind(self, series: str, base: float, head: float) -> Kind:
        found = evidence({series: ""}, {series: base}, {series: head}, ())
        (verdict,) = judge(found, self.limits, (), (), TODAY).verdicts
        return verdict.kind


def _detected(layer: str, series: str, planted: float, kinds: Sequence[Kind]) -> Detected:
    failed = sum(kind is Kind.REGRESSION for kind in kinds)
    named = sum(kind is Kind.SLOWER for kind in kinds)
    return Detected(
        layer, series, planted, Rate(failed, len(kinds)), Rate(failed + named, len(kinds))
    )


_TURNS = """\
import json
from benchmarks.simulation import VirtualLatency
print(json.dumps(VirtualLatency().track_voice_turn()["samples"]))
"""


def _turns_s(benchmarks: Path, tree: Path) -> list[float]:
    """Return how long 200 voice turns take in virtual time, with the package in `tree`."""
    env = os.environ | {"PYTHONPATH": f"{tree}{os.pathsep}{benchmarks.parent}"}
    command = [sys.executable, "-P", "-c", _TURNS]
    done = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True)
    found: list[float] = json.loads(done.stdout)
    return found


def under_measuring(root: Path) -> Other:
    """Let a benchmark do half its work, which no limit from above can notice, but its test.

    Args:
        root: A copy of the package, the benchmarks and the tests.
    """
    HALF_THE_WORK.into(root / "benchmarks")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", WORK_DONE]
    done = subprocess.run(command, cwd=root, check=False, stdout=subprocess.PIPE, text=True)
    last = done.stdout.strip().splitlines()[-1]
    what = f"{HALF_THE_WORK.layer}, which makes it cheaper"
    return Other(what, f"`{WORK_DONE}`", last, done.returncode == 1)


# ── faults of the gate's own ────────────────────────────────────────────────────────────────


def faults(
    pool: Pool, units: dict[str, str], limits: Limits, held: Sequence[Budget]
) -> list[Fault]:
    """Spoil what was recorded in every way that the gate must not take for a verdict."""
    base, head, processes = pool.in_order()[0]
    sound = evidence(units, base.values, head.values, processes)
    lone = next(name for name in units if signal_of(name) is Signal.EXACT)

    def spoiled(what: str, expected: Exit, found: Evidence) -> Fault:
        return Fault(what, expected, judge(found, limits, held, (), TODAY).exit)

    def with_head(value: float | None) -> Evidence:
        values = dict.fromkeys(sound.head.values, Value(value))
        return replace(sound, head=Measured("head", "here", values), timings={})

    def with_one(value: float | None) -> Evidence:
        values = {**sound.head.values, lone: Value(value)}
        return replace(sound, head=Measured("head", "here", values))

    short = {name: _shortened(timing) for name, timing in sound.timings.items()}
    broken = {name: replace(t, head=Side(error="died")) for name, t in sound.timings.items()}
    missing = {name: value for name, value in sound.head.values.items() if name != lone}
    there = replace(sound.base, machine="there") if sound.base else None
    return [
        spoiled("no benchmark matched", Exit.INSUFFICIENT_DATA, replace(sound, units={})),
        spoiled("all benchmarks failed", Exit.BROKEN, with_head(None)),
        spoiled("one benchmark failed", Exit.BROKEN, with_one(None)),
        spoiled("one benchmark lost what it measures", Exit.BROKEN, with_one(math.nan)),
        spoiled(
            "one result is missing",
            Exit.INSUFFICIENT_DATA,
            replace(sound, head=Measured("head", "here", missing)),
        ),
        spoiled("samples are missing", Exit.INSUFFICIENT_DATA, replace(sound, timings=short)),
        spoiled("nothing was timed", Exit.INSUFFICIENT_DATA, replace(sound, timings={})),
        spoiled("the timed operations died", Exit.BROKEN, replace(sound, timings=broken)),
        spoiled(
            "results of another machine",
            Exit.INSUFFICIENT_DATA,
            replace(sound, base=there, units={n: u for n, u in units.items() if n in base.values}),
        ),
    ]


def _shortened(timing: Timing) -> Timing:
    base, head = (replace(side, wall_ns=side.wall_ns[:5]) for side in (timing.base, timing.head))
    return replace(timing, base=base, head=head, cpu=None)
