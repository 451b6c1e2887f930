"""Log starts and ends of stages with the standard library, with structured fields."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from stageflow.events.log import CANCELLED, COMPLETED, FAILED, SKIPPED, STARTED, TERMINAL, Event
from stageflow.telemetry.runs import UNKNOWN, OpenRuns

_LEVELS = {
    STARTED: logging.DEBUG,
    COMPLETED: logging.DEBUG,
    SKIPPED: logging.DEBUG,
    CANCELLED: logging.INFO,
    FAILED: logging.ERROR,
}


class LoggingSink:
    """An `EventSink` that writes a log record when a stage starts and when it ends.

    Failed stages are logged at ERROR, cancelled ones at INFO, all else at DEBUG, without traceback.
    A record has the attributes ``stage``, ``pipeline``, ``pipeline_run_id``, ``correlation_id``,
    ``duration_ms`` (0 for a start and for a stage that never started), and ``error_code`` and
    ``error_message`` (None unless it failed). Its time is the event's; its thread is the sink's.
    """

    def __init__(self, logger: logging.Logger | None = None) -> None:
        """Choose the logger; ``stageflow.stage`` by default."""
        self._logger = logger if logger is not None else logging.getLogger("stageflow.stage")
        #: Pipeline and correlation id of each run under way.
        self._runs: OpenRuns[tuple[str, str | None]] = OpenRuns()

    def write(self, events: Sequence[Event]) -> None:
        """Log a batch."""
        for event in events:
            level = _LEVELS.get(event.what)
            if event.stage is not None:
                if level is not None and self._logger.isEnabledFor(level):
                    self._log(level, event)
            elif event.what == STARTED:
                run = event.data.get("pipeline", UNKNOWN), event.data.get("correlation_id")
                self._runs.begin(event.pipeline_run_id, run)
            elif event.what in TERMINAL:
                self._runs.pop(event.pipeline_run_id, None)

    def close(self) -> None:
        """Do nothing: handlers belong to the application."""

    def _log(self, level: int, event: Event) -> None:
        data = event.data if event.what in TERMINAL else {}
        pipeline, correlation_id = self._runs.get(event.pipeline_run_id, (UNKNOWN, None))
        fields = {
            "stage": event.stage,
            "pipeline": pipeline,
            "pipeline_run_id": event.pipeline_run_id,
            "correlation_id": correlation_id,
            "duration_ms": data.get("duration_ms", 0.0),
            "error_code": data.get("error_code"),
            "error_message": data.get("error_message"),
        }
        message, values = "stage %s %s", [event.stage, event.what]
        if event.what == FAILED:
            message += ": %s (%s)"
            values += [fields["error_message"], fields["error_code"]]
        record = self._logger.makeRecord(
            self._logger.name, level, __file__, 0, message, tuple(values), None, "write", fields
        )
        # The dispatcher delivers events later than they happen.
        moment = event.timestamp
        record.created = moment.timestamp()
        record.msecs = moment.microsecond // 1000 + 0.0
        self._logger.handle(record)
