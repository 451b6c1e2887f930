"""The turn in virtual time, in many orders."""

from __future__ import annotations

import pytest
from stageflow import RunResult
from stageflow.testing import Simulation, simulate

from newproject.turn import turn

from tests.cases import DB_MS, LLM_MS, inputs, providers


@pytest.mark.simulate(runs=50)
async def test_the_lookup_costs_no_time(sim: Simulation) -> None:
    """The look-up overlaps with the model's draft: a turn takes the longer of both."""
    result = await turn.run(sim.context(inputs(), providers=providers()))
    assert result.outputs["answer"] == "Ada: At nine."
    assert result.duration_ms == pytest.approx(max(LLM_MS, DB_MS))


async def _one_turn(sim: Simulation) -> RunResult:
    return await turn.run(sim.context(inputs(), providers=providers()))


def test_the_same_seed_gives_the_same_events() -> None:
    """The turn depends neither on the clock nor on chance."""
    assert simulate(_one_turn, seed=7).log == simulate(_one_turn, seed=7).log
