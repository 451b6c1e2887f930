"""Hypothesis strategies for everything that a pipeline is made of.

Whatever is drawn comes from Hypothesis alone, ids and times included, so a failure replays; and
everything shrinks, so that what is left of a failure is what matters.
"""

from stageflow.testing.strategies.conditions import (
    RecordedRun,
    event_sequences,
    events,
    fault_plans,
    scenarios,
)
from stageflow.testing.strategies.definitions import (
    context_bags,
    context_keys,
    context_values,
    dependencies,
    pipelines,
    stage_names,
    stage_specs,
)

__all__ = [
    "RecordedRun",
    "context_bags",
    "context_keys",
    "context_values",
    "dependencies",
    "event_sequences",
    "events",
    "fault_plans",
    "pipelines",
    "scenarios",
    "stage_names",
    "stage_specs",
]
