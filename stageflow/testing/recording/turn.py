"""A recorded turn as a test: the same inputs, providers that answer as then, and the same end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from stageflow.context import PipelineContext
from stageflow.dlq.codec import DEFAULT_CODEC, LetterCodec
from stageflow.errors import CorruptDeadLetterError
from stageflow.events import CANCELLED, SKIPPED
from stageflow.interceptors.base import Interceptor
from stageflow.orchestrator import PipelineOrchestrator
from stageflow.pipeline import Pipeline
from stageflow.providers.registry import ProviderRegistry
from stageflow.result import RunResult
from stageflow.testing.recording.errors import InvalidRecordingError, RecordingMismatchError
from stageflow.testing.recording.player import Player, difference
from stageflow.testing.recording.recorder import failure_of
from stageflow.testing.recording.turn_file import Turn, read_turn
from stageflow.testing.simulation import Schedule, SimulationLoop, run_in

#: How a stage ends, or does not begin, when another fails the run.
_STOPPED = frozenset({CANCELLED, SKIPPED, "nothing"})


class RecordedTurn:
    """A turn that can be taken again, once: its providers give each answer once.

    Attributes:
        pipeline: Name of the pipeline that was run.
        inputs: The inputs of the run.
        providers: Providers that answer as they did then, each piece after the same time.
        seed: The seed of the run's context, or None.
        deadline_s: The run's limit in seconds, or None.
        outputs: What its stages wrote, but for what the file could not hold.
    """

    def __init__(self, where: str, turn: Turn, codec: LetterCodec = DEFAULT_CODEC) -> None:
        self._where = where
        self._turn = turn
        self._codec = codec
        self._player = Player(where, turn.calls, codec)
        self.pipeline = turn.pipeline
        self.inputs: dict[str, Any] = codec.from_plain(turn.inputs)
        self.outputs: dict[str, Any] = codec.from_plain(turn.outputs)
        self.providers: ProviderRegistry = self._player.registry(turn.providers)
        self.seed = turn.seed
        self.deadline_s = turn.deadline_s
        for call in turn.calls:
            codec.from_plain([call.arguments, call.options, call.pieces])

    def check(self, result: RunResult) -> None:
        """Hold a run of today against the recorded one.

        Both have to make the same calls, end the same way, write the same outputs, and each stage
        has to go through the same events in the same order, unless a run that failed stopped it.
        Times may differ.

        Raises:
            RecordingMismatchError: They differ; the first difference is told.
        """
        for error in self._player.mismatches:
            raise error
        for problem in self._problems(result):
            raise RecordingMismatchError(
                f"{self._where}: {problem}; if that is meant, record the turn anew"
            )

    def _problems(self, result: RunResult) -> Iterator[str]:
        turn = self._turn
        if str(result.status) != turn.status:
            yield f"the run was {turn.status}, and is {result.status} ({result.error})"
        failure = failure_of(result)
        # Its text may tell times, which differ.
        if failure and turn.error and _place(failure) != _place(turn.error):
            yield f"it failed with {_place(turn.error)}, and fails with {_place(failure)}"
        for call in self._player.unasked:
            yield f"{call}, is not made any more"
        yield from self._other_outputs(result)
        before, now = _by_stage(turn.events), _by_stage([e.to_dict() for e in result.events])
        for stage in {**before, **now}:
            ways = [found.get(stage, ["nothing"]) for found in (before, now)]
            # How far a stage came that a failed run stopped is a matter of microseconds.
            stopped = failure is not None and any(way[-1] in _STOPPED for way in ways)
            if ways[0] != ways[1] and not stopped:
                went, goes = map(" → ".join, ways)
                yield f"{stage} went {went}, and goes {goes}"

    def _other_outputs(self, result: RunResult) -> Iterator[str]:
        now = {key: self._codec.to_plain(value) for key, value in result.bag.items()}
        for key, expected in self._turn.outputs.items():
            if key not in now:
                yield f"the output {key!r} is not written any more"
            elif now[key] != expected:
                value = self._codec.from_plain
                where = f"the output {key!r}"
                path, was, is_now = difference(where, value(expected), value(now[key]))
                yield f"{path} was {was}, and is {is_now}"

    def replay(self, pipeline: Pipeline, *, interceptors: Sequence[Interceptor] = ()) -> RunResult:
        """Take the turn again, in virtual time, and hold it against the recorded one.

        Args:
            pipeline: Today's pipeline.
            interceptors: What it was run with.

        Returns:
            Today's result. It is a failure if the recorded run was the same one.

        Raises:
            RecordingMismatchError: It is another turn; or the pipeline is another one.
        """
        if pipeline.name != self.pipeline:
            raise RecordingMismatchError(
                f"{self._where} is a turn of the pipeline {self.pipeline!r}, not of"
                f" {pipeline.name!r}; replay it with that"
            )
        orchestrator = PipelineOrchestrator(pipeline.build(), interceptors=interceptors)
        context = PipelineContext(
            self.inputs, providers=self.providers, deadline_s=self.deadline_s, seed=self.seed
        )
        result = run_in(SimulationLoop(Schedule()), orchestrator.run(context))
        self.check(result)
        return result


def _place(failure: Mapping[str, Any]) -> str:
    return f"{failure['code']} of stage {failure['stage']!r}"


def _by_stage(events: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """For each stage, and for the run, what it went through."""
    found: dict[str, list[str]] = {}
    for event in events:
        who = "the run" if event["stage"] is None else f"stage {event['stage']!r}"
        found.setdefault(who, []).append(str(event["type"]).rpartition(".")[2])
    return found


def recorded(path: str | Path, *, codec: LetterCodec = DEFAULT_CODEC) -> RecordedTurn:
    """A turn that was recorded to a file.

    Args:
        path: The file; from ``stageflow run … --record FILE`` or `Recorder.save`.
        codec: Knows the types that it holds.

    Raises:
        InvalidRecordingError: It cannot be read, is no recorded turn, is damaged, or of a version
            that this package does not know.
    """
    turn = read_turn(Path(path))
    try:
        return RecordedTurn(str(path), turn, codec)
    except CorruptDeadLetterError as error:
        problem = f"it is damaged, or holds types that the codec does not know ({error})"
        raise InvalidRecordingError(str(path), problem) from error
