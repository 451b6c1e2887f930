"""Compare stageflow with hand-written asyncio code: every ratio that has a goal, with its spread.

Pieces that are compared run in turn in every round, in CPU time. A row shows the median of all
rounds' own ratios, and in brackets the interval that holds the middle 80 % of them. This is a
report, not a gate: the exit code is 0 whether goals are met or not.
"""

from __future__ import annotations

import argparse
import functools
import graphlib
import json
import math
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

from benchmarks._lib import pairs
from benchmarks._lib.fresh_process import growth_bytes, import_seconds
from benchmarks._lib.interleaved import Spread, Work, interleaved, spread
from benchmarks._lib.turns import hand_voice_turn, repeat, voice_pairs_s, voice_turn
from benchmarks._lib.workloads import SHAPES, define_and_build, layers_of

ROUNDS = 25
BUILD_SIZES = (20, 100, 1_000, 10_000, 100_000)
PAIRS_A_ROUND = 100
TURNS_APART_S = 0.005
CPU_TURNS = 50


@dataclass(frozen=True, slots=True)
class Goal:
    """The goal of a number.

    Attributes:
        limit: The median should not exceed it.
        aim: An even better value; None if there is none.
        exact: The limit should lie within the spread, as neither more nor less is meant.
    """

    limit: float
    aim: float | None = None
    exact: bool = False

    def met(self, found: Spread) -> bool:
        """Return whether `found` meets the goal."""
        if self.exact:
            return found.low <= self.limit <= found.high
        return found.median <= self.limit

    def __str__(self) -> str:
        aim = f" (aim {self.aim:g})" if self.aim is not None else ""
        return f"{'=' if self.exact else '<='} {self.limit:g}{aim}"


@dataclass(frozen=True, slots=True)
class Row:
    """One number of the report.

    Attributes:
        subject: What was measured, and what it was compared with.
        unit: The unit of the spread.
        found: The number and its spread.
        goal: Its goal; None for a number that only helps to judge the others.
    """

    subject: str
    unit: str
    found: Spread
    goal: Goal | None = None

    @property
    def verdict(self) -> str:
        """Whether the goal is met, in a word; empty without a goal."""
        if self.goal is None:
            return ""
        if not self.goal.met(self.found):
            return "MISSED"
        better = self.goal.aim is not None and self.found.median <= self.goal.aim
        return "met, aim too" if better else "met"

    def __str__(self) -> str:
        numbers = f"{self.found.median:8.3f} [{self.found.low:7.3f} to {self.found.high:7.3f}]"
        goal = str(self.goal) if self.goal is not None else ""
        return f"  {self.subject:52} {numbers} {self.unit:16} {goal:17} {self.verdict}".rstrip()


Rows = Iterator[Row]
TIMES = "times the CPU"


def no_op_graphs(rounds: int) -> Rows:
    """Graphs whose stages return at once."""
    for graph in ("fan 1+10+1", "dense 4x5", "layered 10x10", "1,000 stages"):
        yield from _graph(graph, rounds, Goal(1.0, aim=0.6), Goal(0.5, aim=0.3), suspend=False)


def suspending_graphs(rounds: int) -> Rows:
    """The same with stages that suspend once (no goals: tasks are needed there)."""
    for graph in ("fan 1+10+1", "dense 4x5", "layered 10x10", "1,000 stages"):
        yield from _graph(graph, rounds, None, None, suspend=True)


def _graph(
    graph: str, rounds: int, beside_gather: Goal | None, beside_featured: Goal | None, suspend: bool
) -> Rows:
    ours, gather = pairs.beside_gather(graph, suspend=suspend)
    _, featured = pairs.beside_featured(graph, suspend=suspend)
    times = list(interleaved((ours, gather, featured), rounds))
    yield Row(f"{graph}, beside gather a layer", TIMES, _ratio(times, 1), beside_gather)
    yield Row(f"{graph}, beside the same features", TIMES, _ratio(times, 2), beside_featured)


def chains(rounds: int) -> Rows:
    """Chains, beside plain awaits with the same features."""
    for graph in ("chain of 10", "chain of 100"):
        times = list(interleaved(pairs.beside_featured(graph), rounds))
        yield Row(graph, TIMES, _ratio(times, 1), Goal(1.5))
        times = list(interleaved(pairs.beside_featured(graph, timeouts=False), rounds))
        yield Row(f"{graph}, without timeouts on either side", TIMES, _ratio(times, 1))
        times = list(interleaved(pairs.beside_featured(graph, suspend=True), rounds))
        yield Row(f"{graph}, stages suspend", TIMES, _ratio(times, 1))


def interceptors(rounds: int) -> Rows:
    """The cost that interceptors add to each of 100 stages, by the layered graph."""
    names = ("four observers", "all four")
    works = [pairs.interceptors(name)[0] for name in names]
    none_given, without = pairs.interceptors("none")
    times = list(interleaved((*works, none_given, without), rounds))
    stages = pairs.runs_a_batch("layered 10x10") * len(SHAPES["layered 10x10"])
    for position, (subject, goal) in enumerate(
        (("four synchronous observers", Goal(1.5)), ("tracing, metrics, logging, timeout", None))
    ):
        added = [(row[position] - row[-1]) / stages * 1e6 for row in times]
        yield Row(subject, "µs a stage", spread(added), goal)
    ratio = spread([row[-2] / row[-1] for row in times])
    yield Row("an empty list, beside no list", TIMES, ratio, Goal(1.0, exact=True))


def building(rounds: int) -> Rows:
    """Defining and building a pipeline from its specs."""
    found: dict[int, list[float]] = {}
    for stages in BUILD_SIZES:
        layers_of(stages)
        batch = max(1, 1_000 // stages)
        work = functools.partial(_build, stages, batch)
        large = stages > 1_000
        times = interleaved((work,), max(3, rounds // 5) if large else rounds)
        found[stages] = [took_s / batch / stages * 1e6 for (took_s,) in times]
        yield Row(f"{stages:,} stages", "µs a stage", spread(found[stages]), Goal(10.0))
    stages = 1_000
    works = functools.partial(_build, stages, 1), functools.partial(_sort_into_layers, stages)
    beside = spread([built_s / sorted_s for built_s, sorted_s in interleaved(works, rounds)])
    yield Row(f"{stages:,} stages, beside layers by graphlib", TIMES, beside, Goal(1.7))
    exponents = [
        1.0 + _slope([math.log(stages) for stages in found], [math.log(cost) for cost in costs])
        for costs in zip(*found.values(), strict=False)
    ]
    yield Row("growth: exponent of the number of stages", "", spread(exponents), Goal(1.1))


def _build(stages: int, times: int) -> None:
    for _ in range(times):
        define_and_build(stages)


def _sort_into_layers(stages: int) -> None:
    """Sort the same stages into layers, which is all that hand-written code has to build."""
    sorter = graphlib.TopologicalSorter({s.name: s.dependencies for s in layers_of(stages)})
    sorter.prepare()
    while sorter.is_active():
        sorter.done(*sorter.get_ready())


def _slope(xs: Sequence[float], ys: Sequence[float]) -> float:
    return statistics.linear_regression(xs, ys).slope


def concurrent_runs(rounds: int) -> Rows:
    """1,000 runs of 20 stages at once, beside as many by gather a layer."""
    few = max(3, rounds // 3)
    for suspend in (False, True):
        kind = "stages suspend" if suspend else "stages return at once"
        times = list(interleaved(pairs.concurrent_runs(suspend=suspend), few))
        yield Row(kind, TIMES, _ratio(times, 1), None if suspend else Goal(1.0))
        for position, whose in enumerate(("stageflow", "gather a layer")):
            rates = [pairs.CONCURRENT_RUNS / row[position] for row in times]
            yield Row(f"{kind}: {whose}", "runs a CPU second", spread(rates))
        grown = [growth_bytes(pairs.CONCURRENT_RUNS, suspend=suspend) / 1e6 for _ in range(3)]
        yield Row(f"{kind}: growth of memory", "MB", spread(grown), Goal(40.0))


def voice_turn_overhead(rounds: int) -> Rows:
    """A voice turn with the default fakes, beside the hand-written one that waits as long."""
    medians = []
    for _ in range(max(3, rounds // 5)):
        took = voice_pairs_s(PAIRS_A_ROUND, TURNS_APART_S)
        medians.append(statistics.median(kernel - hand for kernel, hand in took) * 1e3)
    yield Row("what it takes longer, at P50", "ms", spread(medians), Goal(0.3))
    works: tuple[Work, Work] = (
        lambda: repeat(voice_turn, CPU_TURNS),
        lambda: repeat(hand_voice_turn, CPU_TURNS),
    )
    added = [(kernel - hand) / CPU_TURNS * 1e3 for kernel, hand in interleaved(works, rounds)]
    yield Row("CPU time more, with fakes that answer at once", "ms", spread(added))


def bag(rounds: int) -> Rows:
    """An awaited ContextBag.write, beside a dict write with a check."""
    times = list(interleaved(pairs.bag_writes(), rounds))
    yield Row("10,000 writes", TIMES, _ratio(times, 1), Goal(4.0))


def imports(rounds: int) -> Rows:
    """Importing stageflow, beside importing asyncio, in fresh interpreters."""
    modules = ("stageflow", "asyncio")
    for module in modules:
        import_seconds(module)
    times = [tuple(map(import_seconds, modules)) for _ in range(min(rounds, 15))]
    yield Row("import stageflow", TIMES, _ratio(times, 1), Goal(2.0))


def _ratio(times: Sequence[tuple[float, ...]], other: int) -> Spread:
    """The spread of what the first took, as a multiple of what the one at `other` took."""
    return spread([row[0] / row[other] for row in times])


GROUPS: tuple[Callable[[int], Rows], ...] = (
    no_op_graphs,
    suspending_graphs,
    chains,
    interceptors,
    building,
    concurrent_runs,
    voice_turn_overhead,
    bag,
    imports,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and report; returns the exit code."""
    options = _options(arguments)
    # Rows come one by one, so in the plain report they are the progress themselves.
    say = sys.stderr.write if options.json else sys.stdout.write
    chosen = [group for group in GROUPS if options.only in group.__name__]
    say(
        f"{platform.python_implementation()} {platform.python_version()}, {options.rounds} rounds\n"
    )
    started_at = time.monotonic()
    report: dict[str, list[Row]] = {}
    for number, group in enumerate(chosen, start=1):
        title = (group.__doc__ or group.__name__).rstrip(".")
        say(f"\n[{number}/{len(chosen)}, {time.monotonic() - started_at:.0f} s] {title}\n")
        report[group.__name__] = []
        for row in group(options.rounds):
            report[group.__name__].append(row)
            say(f"{row}\n")
            sys.stdout.flush()
    rows = [row for group_rows in report.values() for row in group_rows if row.goal is not None]
    met = sum(row.verdict != "MISSED" for row in rows)
    say(f"\n{met} of {len(rows)} goals met, in {time.monotonic() - started_at:.0f} s\n")
    if options.json:
        json.dump(_as_json(options.rounds, report), sys.stdout, indent=2)
        sys.stdout.write("\n")
    return 0


def _as_json(rounds: int, report: dict[str, list[Row]]) -> dict[str, object]:
    groups = {
        name: [{**asdict(row), "verdict": row.verdict or None} for row in rows]
        for name, rows in report.items()
    }
    return {"python": platform.python_version(), "rounds": rounds, "groups": groups}


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tools.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--rounds",
        type=_positive,
        default=ROUNDS,
        help="rounds of short measurements; long ones take a fraction (default: %(default)s)",
    )
    parser.add_argument(
        "--only",
        default="",
        metavar="NAME",
        help=f"groups whose name contains NAME: {', '.join(group.__name__ for group in GROUPS)}",
    )
    parser.add_argument(
        "--json", action="store_true", help="write JSON to stdout, and the report to stderr"
    )
    options = parser.parse_args(arguments)
    if not any(options.only in group.__name__ for group in GROUPS):
        parser.error(f"--only: no group's name contains {options.only!r}")
    return options


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not 1 or more")
    return number


if __name__ == "__main__":
    sys.exit(main())
