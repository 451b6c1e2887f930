"""Pipelines in virtual time, in an order that is drawn from a seed.

Timeouts take no real time, and each seed gives another order of what is ready at the same moment. A
run that fails says how to repeat it::

    explore(turn, runs=500)
"""

from stageflow.testing.simulation.errors import (
    DeadlockError,
    LeftBehindError,
    LivelockError,
    RealIOError,
    SimulationError,
    TokenError,
)
from stageflow.testing.simulation.loop import SimulationLoop, run_in
from stageflow.testing.simulation.orders import Exploration
from stageflow.testing.simulation.patches import EPOCH_S
from stageflow.testing.simulation.scenario import Scenario, Schedule, Token
from stageflow.testing.simulation.simulate import (
    Outcome,
    Simulation,
    explore,
    replay,
    simulate,
    simulate_pipeline,
)

__all__ = [
    "EPOCH_S",
    "DeadlockError",
    "Exploration",
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
