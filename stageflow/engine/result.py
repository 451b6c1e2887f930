"""The result of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import CoroutineType
from typing import Any

from stageflow.engine.bag import ContextBag
from stageflow.engine.context import RunStatus
from stageflow.errors import MissingKeyError, StageDefectError, StageflowError, shown
from stageflow.events.log import TERMINAL, Event, EventLog, StageStatus


@dataclass(frozen=True, slots=True)
class StageResult:
    """How one stage of a run ended.

    Attributes:
        status: COMPLETED, FAILED, SKIPPED or CANCELLED.
        duration_ms: How long it ran, in milliseconds of the loop's clock; 0 if it never started.
        detail: The data of its last event, such as ``error_code`` or ``reason``.
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
        bag: The outputs of the stages, also when the run failed.
        log: The events of the run.
        failure: Why the run failed; None if it did not.
        dead_letter_error: Why the dead letter was not stored, or which values of it were not, so
            that it cannot be replayed; None if it was stored whole, or if none was due.
    """

    pipeline: str
    pipeline_run_id: str
    status: RunStatus
    duration_ms: float
    bag: ContextBag
    log: EventLog
    failure: StageflowError | None = None
    dead_letter_error: StageflowError | None = None

    def __getitem__(self, key: str) -> Any:
        """Return an output; raise as `outputs` does, or `MissingKeyError` if it is absent."""
        return self.outputs[key]

    __iter__ = None  # else Python would ask for the outputs 0, 1, …

    @property
    def outputs(self) -> dict[str, Any]:
        """A copy of the outputs, by key, also of a failed run.

        Raises:
            StageDefectError: An output is a coroutine.
        """
        return _Outputs(self)

    @property
    def events(self) -> tuple[Event, ...]:
        """The events of the run, in order."""
        return self.log.snapshot()

    @property
    def error(self) -> str | None:
        """Why the run failed, in a text for an engineer, with the error's notes; None if not."""
        if self.failure is None:
            return None
        where = f"stage {self.failure.stage!r}: " if self.failure.stage else ""
        notes = (*_notes(self.failure), *_notes(self.failure.__cause__))
        return "; ".join((where + shown(self.failure, str), *notes))

    @property
    def refusal(self) -> str | None:
        """The answer for the user with which a stage ended the run (`StageOutput.refuse`)."""
        data = self.log.raw_at(-1)[3] if len(self.log) else None
        return data.get("refusal") if isinstance(data, Mapping) else None

    @property
    def user_message(self) -> str | None:
        """Why the run failed or was refused, in a text for the person in the conversation."""
        return self.failure.user_message if self.failure is not None else self.refusal

    @property
    def stages(self) -> dict[str, StageResult]:
        """How each stage ended, by name, in the order in which they ended."""
        return {
            event.stage: StageResult(
                StageStatus(event.what), event.data.get("duration_ms", 0.0), event.data
            )
            for event in self.events
            if event.stage is not None and event.what in TERMINAL
        }

    def unwrap(self) -> dict[str, Any]:
        """Return the outputs of a completed run; raise the `failure` of a failed one."""
        if self.failure is not None:
            raise self.failure
        return self.outputs


def _notes(error: BaseException | None) -> tuple[str, ...]:
    try:
        return tuple(getattr(error, "__notes__", ()))
    except Exception:  # raised by the error's own code
        return ()


class _Outputs(dict[str, Any]):
    """The outputs of a run; the error for a missing key says why the run failed."""

    def __init__(self, result: RunResult) -> None:
        super().__init__(result.bag)
        self._result = result
        for key, value in self.items():
            if type(value) is CoroutineType:
                value.close()  # else Python warns about it at some later time
                fix = f"write {key}=await {value.__qualname__}(…)"
                problem = f"the output {key!r} is a coroutine that nobody awaited; {fix}"
                raise StageDefectError(problem, code="unawaited_output", keys=(key,))

    def __missing__(self, key: str) -> Any:
        result = self._result
        refused = result.refusal and f"was refused: {result.refusal}"
        why = f"failed: {result.error}" if result.error else refused
        raise MissingKeyError(key, self, why)
