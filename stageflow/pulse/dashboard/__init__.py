"""Show the state of the project and of a running system on one page, Central Pulse."""

from __future__ import annotations

from stageflow.pulse.dashboard.page import (
    ENTRY,
    GRID,
    PAGE,
    LiveTelemetry,
    live_site,
    publish_with_dashboard,
    write_central,
)
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
