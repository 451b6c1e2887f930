"""Which orders `explore` tries, what it says of them, and how it reduces a failure."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from stageflow.testing import DeadlockError, Scenario, Simulation, Token, explore, replay, simulate
from tools.compare_simulation.programs import BUGGY, CORRECT, lock_order, made_twice

Program = Callable[[], Coroutine[Any, Any, None]]


async def pair(sim: Simulation) -> list[int]:
    """Two tasks of two steps."""
    order: list[int] = []

    async def run(number: int) -> None:
        for _ in range(2):
            order.append(number)
            await asyncio.sleep(0)

    await asyncio.gather(run(0), run(1))
    return order


async def nothing() -> str:
    """Take no simulation."""
    await asyncio.sleep(1)
    return "done"


async def told(text: str, *, sim: None = None) -> str:
    """Take an argument, and no simulation."""
    return text


def failed(main: Program, runs: int = 500) -> tuple[BaseException, Token]:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - each program has its own
        explore(main, runs=runs)
    (text,) = re.findall(r"replay\('(.*)'\)", caught.value.__notes__[-1])
    return caught.value, Token.parse(text)


def test_a_main_may_take_nothing() -> None:
    """Any asyncio program can be simulated, with its own arguments or none."""
    assert simulate(nothing).value == "done"
    assert simulate(told, "this").value == "this"
    assert [outcome.value for outcome in explore(nothing, runs=2)] == ["done"] * 2


def test_the_first_order_is_asyncio_s_own() -> None:
    """And then no order comes twice as long as there are others."""
    found = explore(pair, runs=30)
    assert found[0].value == asyncio.run(pair(None))  # type: ignore[arg-type]
    assert found[0].choices == ""
    assert len({outcome.choices for outcome in found[: found.orders]}) == found.orders
    assert str(found) == f"30 runs, {found.orders} orders"


@pytest.mark.parametrize(
    "strategy", ["asyncio", "speeds", "kinds", "uniform", "pct2", "pct3", "pct4"]
)
def test_a_strategy_alone_can_be_chosen(strategy: str) -> None:
    """The token of each run repeats it, whatever was tried before."""
    for outcome in explore(pair, runs=5, scenario=Scenario(strategy=strategy)):  # type: ignore[arg-type]
        assert replay(outcome.token).value == outcome.value


def test_recorded_choices_are_the_order() -> None:
    """They need no seed."""
    outcome = explore(pair, runs=9)[-1]
    again = simulate(pair, scenario=Scenario(None, choices=outcome.choices))
    assert (again.value, again.choices) == (outcome.value, outcome.choices)
    with pytest.raises(ValueError, match="choices='x': give numbers"):
        Scenario(choices="x")
    with pytest.raises(ValueError, match="strategy='best': give one of"):
        Scenario(strategy="best")  # type: ignore[arg-type]


def test_all_orders_with_few_deviations_are_tried() -> None:
    """The text claims no more than was tried."""
    few = explore(pair, deviations=1)
    assert few.proven == f"all {len(few)} orders with at most 1 deviations"
    assert {outcome.switches for outcome in few} == {0, 1}
    every = explore(pair, deviations=50)
    assert str(every).endswith(f": all {len(every)} orders hold")
    assert len({outcome.choices for outcome in every}) == len(every) > len(few)
    cut = explore(pair, deviations=50, runs=len(every) - 1)
    assert cut.proven == ""
    assert {tuple(o.value) for o in every} >= {tuple(o.value) for o in explore(pair, runs=99)}


def test_a_failure_is_reduced_to_few_deviations() -> None:
    """The same failure at the same place, and the token repeats it."""
    error, token = failed(made_twice)
    assert isinstance(error, AssertionError)
    assert token.scenario.choices is not None
    assert len(token.scenario.choices.split()) <= 4
    with pytest.raises(AssertionError, match="made twice"):
        replay(str(token))
    deadlock, token = failed(lock_order)
    assert isinstance(deadlock, DeadlockError)
    assert len((token.scenario.choices or "").split()) <= 6


@pytest.mark.parametrize("program", BUGGY, ids=lambda program: program.__name__)
def test_each_planted_bug_is_found_and_not_in_asyncio_s_own_order(program: Program) -> None:
    """So the search finds it, and not the program's start alone."""
    simulate(program, scenario=Scenario(order="asyncio"))
    failed(program, runs=2_000)


@pytest.mark.parametrize("program", CORRECT, ids=lambda program: program.__name__)
def test_a_correct_program_holds_in_every_order(program: Program) -> None:
    """The promises of asyncio hold under each strategy."""
    explore(program, runs=60)
