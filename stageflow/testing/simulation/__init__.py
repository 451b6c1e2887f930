"""Pipelines in virtual time, in an order that is drawn from a seed.

Timeouts take no real time, and each seed gives another order of what is ready at the same moment. A
run that fails says how to repeat it::

    explore(turn, runs=500)
"""

# ruff: noqa: F403, F405 - a type checker takes the list below

from stageflow.testing.simulation.errors import *
from stageflow.testing.simulation.hosts import *
from stageflow.testing.simulation.loop import *
from stageflow.testing.simulation.orders import *
from stageflow.testing.simulation.patches import *
from stageflow.testing.simulation.scenario import *
from stageflow.testing.simulation.simulate import *

__all__ = [
    "EPOCH_S",
    "DeadlockError",
    "Exploration",
    "Host",
    "LeftBehindError",
    "LivelockError",
    "Network",
    "NetworkPlan",
    "Outcome",
    "PropertyError",
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
