"""Replay a recorded turn: the same inputs, providers that answer as then, and the same result."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from stageflow._utils.closing import closing_stream
from stageflow.codec import DEFAULT_CODEC, Codec, canonical
from stageflow.engine import Interceptor, Pipeline, PipelineContext, RunResult, Stream
from stageflow.errors import CorruptDeadLetterError
from stageflow.events.log import CANCELLED, SKIPPED
from stageflow.providers.registry import PORTS, ProviderRegistry
from stageflow.testing.recording import recorder
from stageflow.testing.simulation import SimulationLoop, run_in

#: How many seconds longer than at the recording a call waits for its caller to cancel it.
_PATIENCE_S = 60.0
#: How much of a value an error shows, in characters.
_SHOWN_CHARS = 60


class _Player:
    """Replaces one provider, or a part of it."""

    def __init__(self, turn: RecordedTurn, name: str, path: str = "") -> None:
        self._turn, self._name, self._path = turn, name, path

    def __getattr__(self, name: str) -> Any:
        method = f"{self._path}{name}"
        streamed = self._turn._streamed.get(self._name, {})
        if any(other.startswith(f"{method}.") for other in streamed):
            return _Player(self._turn, self._name, f"{method}.")
        if method not in streamed and method not in PORTS.get(self._name, ("", ()))[1]:
            raise AttributeError(
                f"when the turn was recorded, nothing called {self._name}.{method}; of a provider"
                " only async methods and streams are recorded",
                name=name,
                obj=self,
            )

        async def stream(*arguments: Any, **options: Any) -> AsyncIterator[Any]:
            call = self._turn._take(self._name, method, arguments, options)
            for wait_ms, piece in call.pieces:
                await _sleep_ms(wait_ms)
                yield self._turn._value(piece)
            await self._turn._end(call)

        async def answer(*arguments: Any, **options: Any) -> Any:
            async with closing_stream(stream(*arguments, **options)) as pieces:
                return await anext(pieces)

        return stream if streamed.get(method, method == "stream") else answer

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self.__getattr__("__call__")(*arguments, **options)

    def __repr__(self) -> str:
        return f"<{self._name}, as recorded>"


async def _sleep_ms(wait_ms: float) -> None:
    if wait_ms > 0:
        await asyncio.sleep(wait_ms / 1000.0)


def difference(where: str, expected: Any, got: Any) -> tuple[str, str, str]:
    """Return the path of the first difference of two values, and both values there."""
    parts: Iterable[tuple[str, Any, Any]] = ()
    if type(expected) is type(got):
        if isinstance(expected, list | tuple):
            numbered = enumerate(zip(expected, got, strict=False))
            parts = ((f"[{n}]", a, b) for n, (a, b) in numbered)
        elif isinstance(expected, Mapping):
            parts = ((f"[{key!r}]", expected[key], got[key]) for key in expected if key in got)
        elif is_dataclass(expected):
            names = (part.name for part in fields(expected))
            parts = ((f".{name}", getattr(expected, name), getattr(got, name)) for name in names)
    for step, ours, theirs in parts:
        if ours != theirs:
            return difference(f"{where}{step}", ours, theirs)
    before = ""
    if isinstance(expected, str) and isinstance(got, str):
        pairs = enumerate(zip(expected, got, strict=False))
        same = next((n for n, (a, b) in pairs if a != b), min(len(expected), len(got)))
        start = max(0, same - _SHOWN_CHARS // 2)
        before, expected, got = "…" if start else "", expected[start:], got[start:]
    return where, before + _short(expected), before + _short(got)


def _short(value: Any) -> str:
    text = repr(value)
    if len(text) > _SHOWN_CHARS:
        size = f" ({len(value)} bytes)" if isinstance(value, bytes) else ""
        return f"{text[:_SHOWN_CHARS]}…{size}"
    return text


#: How a stage ends, or does not begin, when another fails the run.
_STOPPED = frozenset({CANCELLED, SKIPPED, "nothing"})


class RecordedTurn:
    """A turn that can be replayed once: its providers give each answer once.

    Attributes:
        pipeline: Name of the pipeline.
        inputs: The inputs of the run.
        providers: Providers that answer as recorded, each piece after the same time.
        seed: The seed of the run's context, or None.
        deadline_s: The run's limit in seconds, or None.
        outputs: What its stages wrote, except what the file cannot hold.
        completed: The names of the stages that completed.
    """

    def __init__(self, where: str, turn: recorder.Turn, codec: Codec = DEFAULT_CODEC) -> None:
        self._where, self._turn = where, turn
        self._codec, self._value = codec, codec.from_plain
        #: The calls that were not made yet, and the errors of those that were not recorded.
        self._waiting = list(turn.calls)
        self._mismatches: list[recorder.RecordingMismatchError] = []
        self._streamed: dict[str, dict[str, bool]] = {name: {} for name in turn.providers}
        for call in turn.calls:
            self._streamed.setdefault(call.provider, {})[call.method] = call.streamed
        self.pipeline = turn.pipeline
        self.inputs: dict[str, Any] = codec.from_plain(turn.inputs)
        self.outputs: dict[str, Any] = codec.from_plain(turn.outputs)
        self.providers = ProviderRegistry(**{n: _Player(self, n) for n in self._streamed})
        self.seed, self.deadline_s = turn.seed, turn.deadline_s
        ends = (event for event in turn.events if event["type"].endswith(".completed"))
        self.completed: frozenset[str] = frozenset(event["stage"] for event in ends)
        for call in turn.calls:
            codec.from_plain([call.arguments, call.options, call.pieces])

    def _mismatch(self, problem: str) -> recorder.RecordingMismatchError:
        """Return the error of a difference; it is kept, as a stage may handle it."""
        text = f"{self._where}: {problem}; if that is meant, record the turn again"
        self._mismatches.append(recorder.RecordingMismatchError(text))
        return self._mismatches[-1]

    def _named(self, call: recorder.RecordedCall) -> str:
        number = next(n for n, other in enumerate(self._turn.calls, 1) if other is call)
        return f"call {number}, {call.provider}.{call.method}"

    def _take(
        self, provider: str, method: str, arguments: Sequence[Any], options: Mapping[str, Any]
    ) -> recorder.RecordedCall:
        """Remove and return the first call with these arguments; stages may call in any order."""
        asked = [self._codec.to_plain(argument) for argument in arguments]
        named = self._codec.plain_items(options)
        alike = [c for c in self._waiting if (c.provider, c.method) == (provider, method)]
        for call in alike:
            if canonical([call.arguments, call.options]) == canonical([asked, named]):
                self._waiting.remove(call)
                return call
        if not alike:
            raise self._mismatch(
                f"{provider}.{method} is called once more than it was when the turn was recorded,"
                f" with {_short(self._value([*asked, *named.values()]))}"
            )
        call = alike[0]
        positions = enumerate(zip(call.arguments, asked, strict=False), 1)
        pairs = [(f"argument {n}", a, b) for n, (a, b) in positions]
        pairs += [(k, call.options.get(k), named.get(k)) for k in call.options | named]
        for where, before, now in pairs:
            if canonical(before) != canonical(now):
                path, expected, got = difference(where, self._value(before), self._value(now))
                raise self._mismatch(
                    f"{self._named(call)}, asks something else than when the turn was recorded:"
                    f" {path} was {expected}, and is {got}"
                )
        other = "takes another number of arguments than when recorded"
        raise self._mismatch(f"{self._named(call)}, {other}")

    async def _end(self, call: recorder.RecordedCall) -> None:
        await _sleep_ms(call.ending_ms)
        if call.error is not None:
            raise recorder.error_again(call.error, self._codec)
        if call.ending in ("cancelled", "left"):
            await asyncio.sleep(_PATIENCE_S)
            raise self._mismatch(
                f"{self._named(call)}, was {call.ending} when the turn was recorded, and now its"
                " caller goes on to wait for more than there is"
            )

    def check(self, result: RunResult) -> None:
        """Compare a run with the recorded one.

        Both have to make the same calls, end the same way and write the same outputs, and each
        stage has to have the same events in the same order, unless a run that failed stopped it.
        Times may differ.

        Raises:
            RecordingMismatchError: They differ; the text says where first.
        """
        for error in self._mismatches:
            raise error
        for problem in self._problems(result):
            raise self._mismatch(problem)

    def _problems(self, result: RunResult) -> Iterator[str]:
        turn = self._turn
        if str(result.status) != turn.status:
            yield f"the run was {turn.status}, and is {result.status} ({result.error})"
        failure = recorder.failure_of(result)
        # Its text may hold times, which differ.
        if failure and turn.error and _place(failure) != _place(turn.error):
            yield f"it failed with {_place(turn.error)}, and fails with {_place(failure)}"
        for call in self._waiting:
            yield f"{self._named(call)}, is not made any more"
        yield from self._other_outputs(result)
        before, now = _by_stage(turn.events), _by_stage([e.to_dict() for e in result.events])
        for stage in {**before, **now}:
            ways = [found.get(stage, ["nothing"]) for found in (before, now)]
            # How far a stage came that a failed run stopped depends on microseconds.
            stopped = failure is not None and any(way[-1] in _STOPPED for way in ways)
            if ways[0] != ways[1] and not stopped:
                went, goes = map(" → ".join, ways)
                yield f"{stage} went {went}, and goes {goes}"

    def _other_outputs(self, result: RunResult) -> Iterator[str]:
        now = {key: self._codec.to_plain(value) for key, value in result.bag.items()}
        for key, expected in self._turn.outputs.items():
            if key not in now:
                yield f"the output {key!r} is not written any more"
            elif isinstance(stream := result.bag[key], Stream) and not stream.kept:
                continue  # its items were dropped once the stages had read them
            elif canonical(now[key]) != canonical(expected):
                values = self._value(expected), self._value(now[key])
                path, was, is_now = difference(f"the output {key!r}", *values)
                yield f"{path} was {was}, and is {is_now}"

    def replay(self, pipeline: Pipeline, *, interceptors: Sequence[Interceptor] = ()) -> RunResult:
        """Run a pipeline as recorded, in virtual time, and `check` the run.

        Args:
            pipeline: The pipeline.
            interceptors: Its interceptors when it was recorded.

        Returns:
            The result: a failure if the recorded run failed in the same way.

        Raises:
            RecordingMismatchError: The runs differ, or the pipeline has another name.
        """
        if pipeline.name != self.pipeline:
            raise recorder.RecordingMismatchError(
                f"{self._where} is a turn of the pipeline {self.pipeline!r}, not of"
                f" {pipeline.name!r}; replay it with that"
            )
        context = PipelineContext(
            self.inputs, providers=self.providers, deadline_s=self.deadline_s, seed=self.seed
        )
        result = run_in(SimulationLoop(), pipeline.run(context, interceptors=interceptors))
        self.check(result)
        return result


def _place(failure: Mapping[str, Any]) -> str:
    return f"{failure['code']} of stage {failure['stage']!r}"


def _by_stage(events: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for event in events:
        who = "the run" if event["stage"] is None else f"stage {event['stage']!r}"
        found.setdefault(who, []).append(str(event["type"]).rpartition(".")[2])
    return found


def recorded(path: str | Path, *, codec: Codec = DEFAULT_CODEC) -> RecordedTurn:
    """Read a recorded turn.

    Args:
        path: The file, from ``stageflow run … --record FILE`` or `Recorder.save`.
        codec: Knows the types that it holds.

    Raises:
        RecordingError: The file cannot be read, is not a recorded turn, is damaged, or has a
            version that this package does not know.
    """
    turn = recorder.read_turn(Path(path))
    try:
        return RecordedTurn(str(path), turn, codec)
    except CorruptDeadLetterError as error:
        problem = f"it is damaged, or holds types that the codec does not know ({error})"
        raise recorder.invalid_recording(str(path), problem) from error
