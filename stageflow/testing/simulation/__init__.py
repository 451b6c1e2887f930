"""Pipelines in virtual time, in an order that is drawn from a seed.

Write what is to happen, and let it happen in many orders::

    async def turn(sim: Simulation) -> RunResult:
        return await pipeline.run(sim.context({"text": "hello"}, providers=fakes))

    explore(turn, runs=500)

Thirty seconds of timeout take no time. Each seed gives another order of whatever is ready at the
same moment, the same seed always the same run. What fails says how to run exactly that again.
"""

from stageflow.testing.simulation.errors import (
    DeadlockError,
    LeftBehindError,
    LivelockError,
    RealIOError,
    SimulationError,
    TokenError,
)
from stageflow.testing.simulation.loop import Schedule, SimulationLoop, run_in
from stageflow.testing.simulation.simulate import (
    EPOCH_S,
    Outcome,
    Simulation,
    explore,
    replay,
    simulate,
    simulate_pipeline,
)
from stageflow.testing.simulation.token import Scenario, Token

__all__ = [
    "EPOCH_S",
    "DeadlockError",
    "LeftBehindError",
    "LivelockError",
    "Outcome",
    "RealIOError",
    "Scenario",
    "Schedule",
    "Simulation",
    "SimulationError",
    "SimulationLoop",
    "Token",
    "TokenError",
    "explore",
    "replay",
    "run_in",
    "simulate",
    "simulate_pipeline",
]
