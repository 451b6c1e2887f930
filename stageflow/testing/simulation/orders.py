"""How the next callback is chosen, which orders are tried, and how a failure is reduced.

Where several callbacks could be next, a position among them is chosen and recorded; 0 is that of
asyncio's own order. A failure is reduced to few deviations from that.
"""

import asyncio
import random
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain, cycle, repeat
from operator import attrgetter
from typing import Any, TypeAlias, TypeVar

from stageflow.testing.simulation.errors import SimulationError, of_kit
from stageflow.testing.simulation.scenario import Deviations, Scenario, Schedule, parsed

#: So much more often a fast task is called: many failures need one many steps ahead of another.
_SPEED = 4.0
#: How many calls of one task by priority are made before others run: it may only poll.
_MOST_CALLS = 100


class Lane:
    """A task: what it schedules keeps its order, and is called as its speed or priority says."""

    __slots__ = ("behind", "calls", "is_ready", "priority", "speed")

    def __init__(self, speed: float = 1.0, priority: float = 0.0) -> None:
        self.speed, self.priority, self.calls = speed, priority, 0
        #: Whether the first callback that it has scheduled is ready, and what comes behind that.
        self.is_ready, self.behind = False, deque[Any]()


#: A ready callback: when it became ready, the lane that keeps its order, the callback, and the task
#: that it is a step of; one common lane for all other callbacks.
Entry: TypeAlias = tuple[int, Lane | None, asyncio.Handle, Lane]
Pick: TypeAlias = Callable[["Order", Sequence[Entry]], int]


class Tried:
    """The orders of a program that were tried, so that none is tried twice."""

    #: How many choices are kept at most, which bounds the memory.
    _MOST_CHOICES = 3_000_000

    def __init__(self) -> None:
        #: Each node has the next one by the position chosen; None if all orders there were tried,
        #: and if one was, a list of its further choices, the last first.
        self._root: dict[int, Any] = {}
        self._kept = 0
        self.at: dict[int, Any] | None = self._root
        #: What was chosen since the run has left all that were tried.
        self.rest: list[int] = []
        self._path: list[tuple[dict[int, Any], int, int]] = []

    def untried(self, chosen: int, width: int, chance: random.Random) -> int:
        """Return the position chosen, or another one if all orders that begin so were tried."""
        node: Any = self.at
        if node.get(chosen, node) is None:
            untried = [n for n in range(width) if node.get(n, node) is not None]
            chosen = chance.choice(untried or [0])
        self._path.append((node, chosen, width))
        if isinstance(node.get(chosen), list):
            rest = node[chosen]
            node[chosen] = {rest.pop(): rest or None}
        self.at = node.get(chosen)
        return chosen

    def end(self) -> None:
        """End a run, and with it an order."""
        rest = self.rest[::-1]
        for node, chosen, width in reversed(self._path if self._kept < self._MOST_CHOICES else []):
            if rest:
                node.setdefault(chosen, rest)
                break
            node[chosen] = None
            if len(node) < width or any(child is not None for child in node.values()):
                break
        self._kept += len(rest) + 1
        self.at, self.rest, self._path = self._root, [], []


class Order:
    """Chooses the next callback, and records it."""

    def __init__(self, schedule: Schedule, tried: Tried | None = None) -> None:
        given = schedule.seed is not None or schedule.choices is not None
        self.drawn = given and schedule.order != "asyncio"  # or recorded
        self._tried = tried if schedule.switches is None else None
        #: The number of each choice that was not the first, and the position chosen.
        self.deviations: list[tuple[int, int]] = []
        self.passed: asyncio.Handle | None = None  # the first, if another runs
        self.choices = 0  # how often there was more than one callback to choose from
        self.widths: list[int] | None = None  # how many there were; None if that is not recorded
        self._random = random.Random(schedule.seed)
        self._ranked = schedule.strategy in ("pct2", "pct3", "pct4")
        self._lowest = 0.0
        fitting = (None, "speeds", "kinds") if schedule.order == "tasks" else ()
        self._speeds = schedule.strategy in fitting
        #: The speed of the tasks of each function; None if each task has its own.
        self._kinds: dict[str, float] | None = {} if schedule.strategy == "kinds" else None
        self._pick = self._strategy(schedule)

    def _strategy(self, schedule: Schedule) -> Pick:
        seed, limit, horizon = schedule.seed, schedule.switches, schedule.horizon
        if schedule.choices is not None:
            self._recorded = dict(parsed(schedule.choices))
            return lambda it, ready: min(it._recorded.get(it.choices, 0), len(ready) - 1)
        if schedule.strategy == "asyncio":
            return lambda it, ready: 0
        if limit is not None:
            # Without a horizon they are among 8 to 4,096 choices. Fewer switches are some of those.
            scatter = random.Random(f"switches of {seed}")
            among = horizon or 2.0 ** (3 + 9 * scatter.random())
            self._switch_at = {int(among * scatter.random()) for _ in range(limit)}
            return Order._switched
        if self._ranked:
            draw = partial(self._random.randrange, horizon or 100)
            self._change_at = {draw() for _ in range(int(str(schedule.strategy)[-1]) - 1)}
            return Order._by_priority
        return Order._by_speed if self._speeds and self._kinds is None else Order._uniform

    def lane(self, task: asyncio.Task[Any] | None = None) -> Lane:
        """Return the lane of a task, or thread, that has not scheduled anything yet."""
        if self._ranked:
            return Lane(priority=self._random.random())
        speed = 1 / _SPEED if self._speeds and self._random.random() < 0.5 else 1.0
        if self._kinds is not None and task is not None:
            function = getattr(task.get_coro(), "__qualname__", "")
            speed = self._kinds.setdefault(function, speed)
        return Lane(speed)

    def position(self, ready: Sequence[Entry]) -> int:
        """Return the position of the next of at least two callbacks."""
        chosen = self._pick(self, ready)
        if (tried := self._tried) is not None:
            if tried.at is None:
                tried.rest.append(chosen)
            else:
                chosen = tried.untried(chosen, len(ready), self._random)
        if chosen:
            self.deviations.append((self.choices, chosen))
            self.passed = ready[0][2]
        if self.widths is not None:
            self.widths.append(len(ready))
        self.choices += 1
        return chosen

    def _uniform(self, ready: Sequence[Entry]) -> int:
        # With equal speeds, all orders are about as likely if long lanes are more likely.
        weights = [
            owner.speed * (1 + len(lane.behind)) if lane and lane.behind else owner.speed
            for _, lane, _, owner in ready
        ]
        position, at = 0, self._random.random() * sum(weights)
        while at >= weights[position]:
            at -= weights[position]
            position += 1
        return position

    def _by_speed(self, ready: Sequence[Entry]) -> int:
        while True:
            position, part = divmod(self._random.random() * len(ready), 1)
            if part < ready[int(position)][3].speed:
                return int(position)

    def _switched(self, ready: Sequence[Entry]) -> int:
        if self.choices not in self._switch_at:
            return 0
        return 1 + int(self._random.random() * (len(ready) - 1))

    def _by_priority(self, ready: Sequence[Entry]) -> int:
        lanes = [entry[3] for entry in ready]
        lane = max(lanes, key=_priority)
        lane.calls += 1
        if self.choices in self._change_at or not lane.calls % _MOST_CALLS:
            # Below all that were not lowered; after many calls, below all others.
            self._lowest -= not lane.calls % _MOST_CALLS
            lane.priority = self._lowest - self._random.random()
            lane = max(lanes, key=_priority)
        return lanes.index(lane)


_T = TypeVar("_T")
_priority = attrgetter("priority")

#: After asyncio's own order; no strategy finds everything.
_IN_TURN = [
    *("pct3", "speeds", "kinds", "pct2", "speeds", "kinds"),
    *("pct3", "speeds", "kinds", "pct4", "speeds", "kinds", "uniform"),
]
#: How often a failure is repeated to reduce it, and for how many callbacks, at most.
_MOST_TRIES, _MOST_STEPS = 400, 100_000

Attempt: TypeAlias = Callable[[Deviations], tuple[BaseException | None, Deviations, int]]


class Exploration(list[_T]):
    """The outcomes of `explore`, one for each run.

    Attributes:
        orders: How many different orders were tried.
        proven: Of which orders it is proven that they hold: "all 112 orders with at most 3
            deviations"; empty if not all of a kind were tried.
    """

    orders, proven = 0, ""

    def __str__(self) -> str:
        """Return how many runs there were, and what they show."""
        text = f"{len(self):,} runs, {self.orders:,} order{'s' * (self.orders != 1)}"
        return f"{text}: {self.proven} hold" if self.proven else text


def portfolio(scenario: Scenario, runs: int) -> Iterator[tuple[int, Any]]:
    """Yield seed and strategy of each run: asyncio's own order, and then each strategy in turn."""
    assert scenario.seed is not None, "explore refuses that"
    several = scenario.order == "tasks" and scenario.switches is None
    fixed = scenario.strategy is not None or not several
    strategies: Any = repeat(scenario.strategy) if fixed else chain(["asyncio"], cycle(_IN_TURN))
    return zip(range(scenario.seed, scenario.seed + runs), strategies, strict=False)


def deepened(
    attempt: Callable[[Deviations], _T], widths: Callable[[], list[int]], most: int, runs: int
) -> Exploration[_T]:
    """Try all orders with up to `most` deviations from asyncio's own, the fewest first.

    `widths` returns how many callbacks there were at each choice of the latest run.
    """
    found = Exploration[_T]()
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
        level = deeper
        if not deeper:
            found.proven = f"all {found.orders:,} orders"
            return found
    found.proven = f"all {found.orders:,} orders with at most {most} deviations"
    return found


def reduced(attempt: Attempt, deviations: Deviations, failure: BaseException) -> Deviations:
    """Return the fewest deviations found with which the same failure happens at the same place.

    `attempt` runs an order; it returns what was raised, the deviations, and how many callbacks ran.
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
    """Return what identifies a failure in any order: its type and place."""
    if isinstance(error, BaseExceptionGroup):
        return type(error), sorted(str(kind(one)) for one in error.exceptions)
    frames = [f for f, _ in traceback.walk_tb(error.__traceback__) if not of_kit(f)]
    place = (frames[-1].f_code.co_filename, frames[-1].f_lineno) if frames else None
    ours = isinstance(error, SimulationError)
    return type(error), getattr(error, "claim", None) if ours else place
