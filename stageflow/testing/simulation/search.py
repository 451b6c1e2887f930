"""Which orders are tried, and how a failure is reduced to few deviations from asyncio's own."""

import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, cycle, repeat
from types import FrameType
from typing import Any, TypeAlias, TypeVar

from stageflow.testing.simulation.errors import SimulationError
from stageflow.testing.simulation.scenario import Scenario, Strategy

T = TypeVar("T")

#: After asyncio's own order; no strategy finds everything.
_IN_TURN: tuple[Strategy, ...] = (
    *("speeds", "uniform", "pct3"),
    *("speeds", "uniform", "pct4"),
    *("speeds", "uniform", "pct2"),
)
#: A failure is tried again this often at most, and for so many callbacks, to reduce it.
_MOST_TRIES, _MOST_STEPS = 400, 100_000

_OWN = ("stageflow.testing.simulation", "asyncio.", "contextlib")

Deviations: TypeAlias = Sequence[tuple[int, int]]


class Exploration(list[T]):
    """The outcomes of `explore`, one for each run.

    Attributes:
        orders: How many different orders were tried.
        proven: Of which orders it is proven that they hold: "all 112 orders with at most 3
            deviations"; empty if not all of a kind were tried.
    """

    orders, proven = 0, ""

    def __str__(self) -> str:
        """Return how many runs there were, and what they show."""
        text = f"{len(self):,} runs, {self.orders:,} orders"
        return f"{text}: {self.proven} hold" if self.proven else text


def portfolio(scenario: Scenario, runs: int) -> Iterator[Scenario]:
    """Yield the scenario of each run: asyncio's own order, and then each strategy in turn."""
    assert scenario.seed is not None, "explore refuses that"
    several = scenario.order == "tasks" and scenario.switches is None
    strategies: Any = repeat(scenario.strategy)
    if several and scenario.strategy is None:
        strategies = chain(["asyncio"], cycle(_IN_TURN))
    for number, strategy in zip(range(runs), strategies, strict=False):
        yield replace(scenario, seed=scenario.seed + number, strategy=strategy)


def deepened(
    attempt: Callable[[Deviations], T], widths: Callable[[], list[int]], most: int, runs: int
) -> Exploration[T]:
    """Try all orders with up to `most` deviations from asyncio's own, the fewest first.

    Args:
        attempt: Runs an order.
        widths: Returns how many callbacks there were at each choice of the latest run.
        most: How many deviations.
        runs: How many runs at most.
    """
    found = Exploration[T]()
    level: list[Deviations] = [()]
    for _ in range(most + 1):
        deeper: list[Deviations] = []
        for deviations in level:
            if len(found) == runs:
                return found
            found.append(attempt(deviations))
            found.orders += 1
            first = deviations[-1][0] + 1 if deviations else 0
            for at, width in enumerate(widths()[first:], first):
                # With more than can be run, nothing is proven; the others need no memory.
                if len(deeper) <= runs:
                    deeper += [(*deviations, (at, position)) for position in range(1, width)]
        if not deeper:
            found.proven = f"all {found.orders:,} orders"
            return found
        level = deeper
    found.proven = f"all {found.orders:,} orders with at most {most} deviations"
    return found


def reduced(
    attempt: Callable[[Deviations], tuple[BaseException | None, Deviations, int]],
    deviations: Deviations,
    failure: BaseException,
) -> Deviations:
    """Return the fewest deviations found with which the same failure happens at the same place.

    Args:
        attempt: Runs an order; returns what it raised, its deviations, and its callbacks.
        deviations: With which it fails.
        failure: What was raised then.
    """
    best, wanted, tries, steps = deviations, kind(failure), 0, 0

    def fails(fewer: Deviations) -> bool:
        nonlocal best, tries, steps
        if tries >= _MOST_TRIES or steps >= _MOST_STEPS:
            return False
        error, done, called = attempt(fewer)
        tries, steps = tries + 1, steps + called
        found = error is not None and kind(error) == wanted and len(done) < len(best)
        best = done if found else best
        return found

    size = 0 if fails(()) else len(best)
    while size:
        at, before = 0, len(best)
        while at < len(best):
            at += 0 if fails((*best[:at], *best[at + size :])) else size
        size = size // 2 if size > 1 or len(best) == before else 1
    return best


def kind(error: BaseException) -> object:
    """Return what a failure has in common with itself in another order: its type and place."""
    if isinstance(error, BaseExceptionGroup):
        return type(error), sorted(str(kind(one)) for one in error.exceptions)
    frames = [f for f, _ in traceback.walk_tb(error.__traceback__) if not of_kit(f)]
    place = (frames[-1].f_code.co_filename, frames[-1].f_lineno) if frames else None
    return type(error), None if isinstance(error, SimulationError) else place


def of_kit(frame: FrameType) -> bool:
    """Return whether a frame is of the simulation or of asyncio, and not of the code under test."""
    return str(frame.f_globals.get("__name__")).startswith(_OWN)
