"""The events of a run: numbered events, their log, and the dispatcher to the sinks."""

# ruff: noqa: F403, F405 - the list below says which names are public

from stageflow.events.dispatcher import *
from stageflow.events.log import *

__all__ = [
    "CANCELLED",
    "COMPLETED",
    "FAILED",
    "FIRST_AUDIO",
    "RUN_CANCELLED",
    "RUN_COMPLETED",
    "RUN_FAILED",
    "RUN_STARTED",
    "SKIPPED",
    "STARTED",
    "STREAMING",
    "STREAM_CLOSED",
    "STREAM_FIRST_ITEM",
    "STREAM_OPENED",
    "TERMINAL",
    "Event",
    "EventBatch",
    "EventDispatcher",
    "EventLog",
    "EventSink",
    "RawEvent",
    "SinkStats",
    "StageStatus",
    "stage_event_type",
]
