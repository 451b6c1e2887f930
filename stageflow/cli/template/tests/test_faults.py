"""The customer's answer when a provider fails."""

from __future__ import annotations

import pytest
from stageflow.testing import FaultType, Simulation, inject_fault

from newproject.turn import APOLOGY, turn

from tests.cases import inputs, providers


@pytest.mark.simulate(runs=5)
async def test_without_the_model_there_is_an_apology(sim: Simulation) -> None:
    """A model that cannot be reached costs the answer, not the turn."""
    with inject_fault("llm", FaultType.DISCONNECT) as fault:
        result = await turn.run(sim.context(inputs(), providers=providers()))
    assert fault.injected == 1
    assert result.outputs["answer"] == f"Ada: {APOLOGY}"


@pytest.mark.simulate(runs=5)
async def test_without_the_database_the_answer_has_no_name(sim: Simulation) -> None:
    """A database that fails costs the name, not the answer."""
    with inject_fault("db", FaultType.ERROR) as fault:
        result = await turn.run(sim.context(inputs(), providers=providers()))
    assert fault.injected == 1
    assert result.status == "completed"
    assert result.outputs["answer"] == "At nine."


@pytest.mark.simulate(runs=5)
async def test_a_model_that_hangs_ends_the_turn_in_time(sim: Simulation) -> None:
    """After the stage's ten seconds the turn fails, and the run ends."""
    with inject_fault("llm", FaultType.STALL) as fault:
        result = await turn.run(sim.context(inputs(), providers=providers()))
    assert fault.injected == 1
    assert result.failure is not None
    assert result.failure.code == "stage_timeout"
    assert result.duration_ms == pytest.approx(10_000.0)
