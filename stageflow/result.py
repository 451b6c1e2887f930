"""What a run leaves behind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import CoroutineType
from typing import Any

from stageflow.bag import ContextBag
from stageflow.context import RunStatus
from stageflow.errors import MissingKeyError, StageflowError, UnawaitedOutputError
from stageflow.events import TERMINAL, Event, EventLog, StageStatus


@dataclass(frozen=True, slots=True)
class StageResult:
    """How one stage of a run ended.

    Attributes:
        status: How.
        duration_ms: How long it ran, in milliseconds of the loop's clock; 0 if it never started.
        detail: What its last event says, such as ``error_code`` or ``reason``.
    """

    status: StageStatus
    duration_ms: float
    detail: Mapping[str, Any]


@dataclass(slots=True)
class RunResult:
    """How a run ended.

    Attributes:
        pipeline: Name of the pipeline.
        pipeline_run_id: Id of the run.
        status: COMPLETED, FAILED or CANCELLED.
        duration_ms: How long it took, in milliseconds of the loop's clock.
        bag: What the stages have written, also when the run failed.
        log: What happened.
        failure: Why the run failed; None if it did not.
        dead_letter_error: Why the failed run could not be kept as a dead letter; None if it was,
            or did not have to be.
    """

    pipeline: str
    pipeline_run_id: str
    status: RunStatus
    duration_ms: float
    bag: ContextBag
    log: EventLog
    failure: StageflowError | None = None
    dead_letter_error: StageflowError | None = None

    @property
    def outputs(self) -> dict[str, Any]:
        """What the stages have written, by key; a copy.

        Of a run that failed it holds what was written until then.

        Raises:
            UnawaitedOutputError: One of them is a coroutine.
        """
        return _Outputs(self)

    @property
    def events(self) -> tuple[Event, ...]:
        """What happened, in order."""
        return self.log.snapshot()

    @property
    def error(self) -> str | None:
        """Why the run failed, in words for an engineer; None if it did not."""
        if self.failure is None:
            return None
        where = f"stage {self.failure.stage!r}: " if self.failure.stage else ""
        return f"{where}{self.failure}"

    @property
    def user_message(self) -> str | None:
        """Why the run failed, in words for the person in the conversation."""
        return self.failure.user_message if self.failure is not None else None

    @property
    def stages(self) -> dict[str, StageResult]:
        """How each stage ended, by name, in the order in which they did."""
        return {
            event.stage: StageResult(
                StageStatus(event.what), event.data.get("duration_ms", 0.0), event.data
            )
            for event in self.events
            if event.stage is not None and event.what in TERMINAL
        }

    def unwrap(self) -> dict[str, Any]:
        """The outputs of a completed run.

        Raises:
            StageflowError: The run failed; this is its `failure`.
        """
        if self.failure is not None:
            raise self.failure
        return self.outputs


class _Outputs(dict[str, Any]):
    """The outputs of a run; what is not among them is told with the reason."""

    def __init__(self, result: RunResult) -> None:
        super().__init__(result.bag)
        self._result = result
        for key, value in self.items():
            if type(value) is CoroutineType:
                value.close()  # or Python would warn of it, somewhere and some time
                raise UnawaitedOutputError(key, value)

    def __missing__(self, key: str) -> Any:
        raise MissingKeyError(key, self, self._result.error)
