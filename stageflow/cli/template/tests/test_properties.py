"""Properties of every question, reply and fault that Hypothesis draws."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from stageflow import RunResult
from stageflow.testing import Scenario, Simulation, check_run, simulate
from stageflow.testing.strategies import scenarios

from newproject.turn import turn

from tests.cases import providers


async def one_turn(sim: Simulation, text: str, reply: str, user_id: str) -> RunResult:
    """Run a turn whose providers may have the faults of the scenario."""
    ctx = sim.context({"text": text, "user_id": user_id}, providers=providers(reply))
    return await turn.run(ctx)


@given(
    text=st.text(),
    reply=st.text(min_size=1),
    user_id=st.sampled_from(["u1", "u2"]),
    scenario=scenarios(providers=["llm", "db"]),
)
def test_nobody_is_left_without_words(
    text: str, reply: str, user_id: str, scenario: Scenario
) -> None:
    """If anything fails, the customer gets an answer or an apology."""
    result = simulate(one_turn, text, reply, user_id, scenario=scenario).value
    check_run(turn, result)
    if result.status != "completed":
        assert result.user_message is not None
        assert result.user_message.endswith(".")
    elif not scenario.faults:
        expected = f"Ada: {reply}" if user_id == "u1" else reply
        assert result.outputs["answer"] == expected
    else:
        assert result.outputs["answer"].endswith(result.outputs["draft"])
