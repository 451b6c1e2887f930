"""Show the state of the project and of a running system on one page, Central Pulse."""

# ruff: noqa: F403, F405 - the list below says which names are public

from stageflow.pulse.dashboard.page import *
from stageflow.pulse.dashboard.records import FIGURES_VERSION, Figure, figure_runs, load_settings
from stageflow.pulse.dashboard.telemetry import LiveBudgets

__all__ = [
    "ENTRY",
    "FIGURES_VERSION",
    "GRID",
    "PAGE",
    "Figure",
    "LiveBudgets",
    "LiveTelemetry",
    "figure_runs",
    "live_site",
    "load_settings",
    "publish_with_dashboard",
    "write_central",
]
