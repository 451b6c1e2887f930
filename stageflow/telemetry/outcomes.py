"""What all sinks make of events alike."""

from __future__ import annotations

from stageflow.events import COMPLETED, FAILED

#: Name of the pipeline of a run whose beginning was dropped on the way to the sink.
UNKNOWN = "unknown"

#: How a stage or run ended whose duration counts as its latency: it took its own time.
MEASURED = frozenset({COMPLETED, FAILED})

#: What stands in the place of an outcome for the time to a stream's first item, from the start of
#: the stage, and for the time to a run's first audio, from the start of the run.
FIRST_ITEM, FIRST_AUDIO = "first_item", "first_audio"

#: The events by which circuit breakers tell their new state, and the number that stands for it.
BREAKER_STATES = {"breaker_closed": 0, "breaker_half_open": 1, "breaker_open": 2}
