"""A simulation owns clocks, random numbers and ids, so that its token repeats it."""

# ruff: noqa: PLW0108 - a name is looked up when it is called

from __future__ import annotations

import datetime as dt
import os
import random
import re
import secrets
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from os import urandom
from random import random as draw
from secrets import token_hex
from time import monotonic, perf_counter_ns
from time import time as now
from types import ModuleType
from typing import Any
from unittest import mock
from uuid import uuid4

import numpy as np
import pytest

from stageflow import Pipeline, StageContext, StageOutput, stage
from stageflow.testing import EPOCH_S, Simulation, replay, simulate

#: Sources of chance and of ids, as code imports them.
CHANCE: dict[str, Callable[[], object]] = {
    "random.random": random.random,
    "from random import random": draw,
    "random.Random()": lambda: random.Random().random(),
    "random.SystemRandom()": lambda: random.SystemRandom().random(),
    "random.seed()": lambda: (random.seed(), random.random()),
    "random.shuffle": lambda: random.sample(range(100), 5),
    "uuid.uuid4": uuid.uuid4,
    "from uuid import uuid4": lambda: uuid4(),
    "uuid.uuid1": lambda: uuid.uuid1(node=1),
    "the node of uuid.uuid1": lambda: uuid.uuid1().node,
    "os.urandom": lambda: os.urandom(8),
    "from os import urandom": lambda: urandom(8),
    "secrets.token_hex": lambda: secrets.token_hex(),
    "from secrets import token_hex": lambda: token_hex(),
    "secrets.randbelow": lambda: secrets.randbelow(10**9),
    "numpy.random.rand": lambda: float(np.random.rand()),
    "numpy.random.default_rng": lambda: float(np.random.default_rng().random()),
}


@dataclass
class Stamped:
    at: float = field(default_factory=time.time)


def stamped(*, clock: Callable[[], float] = time.time) -> float:
    return clock()


#: Clocks, and what they say 90 seconds after the start.
CLOCKS: dict[str, tuple[Callable[[], object], object]] = {
    "time.time": (lambda: time.time(), EPOCH_S + 90),
    "from time import time": (lambda: now(), EPOCH_S + 90),
    "a default": (lambda: stamped(), EPOCH_S + 90),
    "a default of a data class": (lambda: Stamped().at, EPOCH_S + 90),
    "time.time_ns": (lambda: time.time_ns(), (10**9 + 90) * 10**9),
    "time.monotonic": (lambda: time.monotonic(), 90.0),
    "from time import monotonic": (lambda: monotonic(), 90.0),
    "perf_counter_ns": (lambda: perf_counter_ns(), 90 * 10**9),
    "time.process_time": (lambda: time.process_time(), 90.0),
    "time.clock_gettime": (lambda: time.clock_gettime(time.CLOCK_MONOTONIC), 90.0),
    "clock_gettime_ns": (lambda: time.clock_gettime_ns(time.CLOCK_REALTIME), (10**9 + 90) * 10**9),
    "time.gmtime": (lambda: time.gmtime()[:6], (2001, 9, 9, 1, 48, 10)),
    "time.strftime": (lambda: time.strftime("%S"), "10"),
    "time.ctime": (lambda: time.ctime()[-7:], "10 2001"),
    "datetime.now": (lambda: datetime.now(UTC), datetime(2001, 9, 9, 1, 48, 10, tzinfo=UTC)),
    "dt.datetime.utcnow": (lambda: dt.datetime.utcnow(), datetime(2001, 9, 9, 1, 48, 10)),
    "datetime.today": (lambda: datetime.today().second, 10),
    "date.today": (lambda: date.today().year, 2001),
}


@pytest.mark.parametrize("name", CHANCE)
def test_chance_follows_the_seed(name: str) -> None:
    """The same seed gives the same values, another seed others."""

    async def main(sim: Simulation) -> object:
        return [CHANCE[name]() for _ in range(3)]

    first, again, other = (simulate(main, seed=seed).value for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_chance_of_numpy_follows_the_seed_without_its_entry_among_the_modules() -> None:
    """A test runner drops the entry of what was imported late; NumPy keeps the module."""
    with mock.patch.dict(sys.modules):
        del sys.modules["numpy.random"]
        test_chance_follows_the_seed("numpy.random.rand")


@pytest.mark.parametrize("name", CLOCKS)
def test_clocks_follow_the_loop(name: str) -> None:
    """They begin at a fixed moment, and advance with virtual time alone."""
    read, expected = CLOCKS[name]

    async def main(sim: Simulation) -> object:
        sim.loop.pass_time(60)
        time.sleep(30)  # noqa: ASYNC251 - it blocks the loop for that time
        return read()

    assert simulate(main).value == expected


def test_everything_is_restored() -> None:
    """After a failure, too: the process goes on as without a simulation."""

    async def main(sim: Simulation) -> None:
        random.random()
        np.random.rand()
        uuid.uuid1()
        raise ValueError("fails")

    def held() -> list[object]:
        ids = [vars(uuid)[name] for name in ("_last_timestamp", "_generate_time_safe", "_node")]
        classes = [datetime.now.__name__, random.Random.seed, random.seed]
        return [vars(time).copy(), os.urandom, now, draw, *classes, *ids]

    state, numbers, before = random.getstate(), str(np.random.get_state()), held()
    with pytest.raises(ValueError, match="fails"):
        simulate(main)
    assert held() == before
    assert random.getstate() == state
    assert str(np.random.get_state()) == numbers
    assert abs(datetime.now(UTC).timestamp() - time.time()) < 60
    assert time.time() > EPOCH_S + 10**8
    assert os.urandom(8) != os.urandom(8)


def test_what_a_test_has_replaced_stays_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that is patched already belongs to the test that patched it."""

    async def main(sim: Simulation) -> float:
        return time.time()

    monkeypatch.setattr(time, "time", lambda: 5.0)
    assert simulate(main).value == 5.0
    assert time.time() == 5.0


def test_a_lazy_object_of_a_module_is_not_loaded() -> None:
    """`openai` has some, and loading one imports 1,500 modules and makes a client."""
    loaded = mock.PropertyMock(return_value=type)
    lazy = ModuleType("lazy")
    vars(lazy).update(proxy=type("Lazy", (), {"__class__": loaded})(), clock=time.time)
    with mock.patch.dict(sys.modules, lazy=lazy):
        assert simulate(read_clock, lazy).value == EPOCH_S
    loaded.assert_not_called()


async def read_clock(module: Any) -> Any:
    return module.clock()


def test_runs_without_a_context_of_the_simulation_repeat() -> None:
    """Their ids and wall clock come from the process, and so from the simulation."""

    @stage(outputs=["answer"])
    async def answer(ctx: StageContext) -> StageOutput:
        return StageOutput.ok(answer=f"{ctx.run.pipeline_run_id} {ctx.run.wall_clock()}")

    async def main(sim: Simulation) -> object:
        return (await Pipeline("p", [answer]).run()).unwrap()

    first, again = simulate(main).value, simulate(main).value
    assert first == again
    assert str(EPOCH_S) in str(first)


async def fails_by_chance(sim: Simulation) -> None:
    """Fails in half of the runs, with a text that repeats only if chance does."""
    drawn, at = random.random(), time.time()
    assert drawn < 0.5, f"drawn {drawn} {uuid.uuid4()} at {at}"


def test_the_token_of_a_failure_by_chance_repeats_it() -> None:
    """With the same text."""
    seed = next(seed for seed in range(20) if fails(seed))
    error = fails(seed)
    assert error is not None
    assert "To run exactly this again" in error.__notes__[-1]
    with pytest.raises(AssertionError) as again:
        replay(re.findall(r"sf1-[\w-]+", error.__notes__[-1])[-1])
    assert str(again.value) == str(error)


def fails(seed: int) -> AssertionError | None:
    try:
        simulate(fails_by_chance, seed=seed)
    except AssertionError as error:
        return error
    return None


def test_a_failure_that_does_not_repeat_says_so() -> None:
    """It is tried once more before a token is printed."""
    left: list[int] = []

    async def main(sim: Simulation) -> None:
        left.append(1)
        assert len(left) > 1, "fails in the first run alone"

    with pytest.raises(AssertionError) as caught:
        simulate(main)
    assert caught.value.__notes__[-1].startswith("This failure did not repeat")
    assert len(left) == 2
