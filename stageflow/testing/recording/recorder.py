"""Keeps a turn: what came in, what each provider was asked and answered, what came of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import ExitStack, aclosing
from functools import partial
from pathlib import Path
from typing import Any, Self

from stageflow.closing import Closing
from stageflow.context import PipelineContext
from stageflow.dlq.codec import DEFAULT_CODEC, LetterCodec
from stageflow.providers.registry import ProviderRegistry, adapted
from stageflow.result import RunResult
from stageflow.stream import Stream
from stageflow.testing.faults.kinds import first_pieces
from stageflow.testing.recording.errors import RecordingFileError, UnrecordableValueError
from stageflow.testing.recording.failures import plain_error
from stageflow.testing.recording.turn_file import RecordedCall, Turn, turn_text, unstorable_in
from stageflow.testing.wrapped import Asked, WrappedProvider
from stageflow.whole_file import whole_file

#: Milliseconds are kept to the microsecond.
_DIGITS = 3
_LEAST_MS = 0.001


class Recorder(Closing):
    """Listens to the calls of all providers of a registry, for the length of a ``with`` block.

    Only calls from the block are heard. Enter it inside of those of faults, so that it hears what
    stages do. Example::

        with Recorder(ctx.providers) as recorder:
            result = await pipeline.run(ctx)
        recorder.save("turn.json", ctx, result)
    """

    def __init__(
        self,
        providers: ProviderRegistry,
        *,
        codec: LetterCodec = DEFAULT_CODEC,
        secrets: Iterable[str] = (),
    ) -> None:
        """Choose whom to listen to.

        Args:
            providers: Their registry.
            codec: Knows the types that the turn holds.
            secrets: Strings that no file may hold, such as keys.
        """
        self._providers = tuple(providers)
        self._codec = codec
        self._secrets = tuple(secrets)
        #: Each call, and when it began, in seconds of the loop's clock.
        self._calls: list[tuple[RecordedCall, float]] = []
        self._block = ExitStack()

    def __enter__(self) -> Self:
        for name in self._providers:
            self._block.enter_context(adapted(name, partial(_RecordedProvider, name, self)))
        return self

    def close(self) -> None:
        """Listen no more."""
        self._block.close()

    def heard(self, provider: str, asked: Asked, *, streamed: bool) -> _Listening:
        """A call that begins now; for the providers."""
        # As it is asked: whoever calls may change a list afterwards.
        call = RecordedCall(
            provider,
            asked.method,
            0.0,
            [self._codec.to_plain(argument) for argument in asked.arguments],
            {name: self._codec.to_plain(value) for name, value in asked.options.items()},
            streamed,
        )
        self._calls.append((call, asyncio.get_running_loop().time()))
        return _Listening(call, self._codec)

    def turn(self, context: PipelineContext, result: RunResult) -> Turn:
        """What was recorded of a run.

        Raises:
            UnrecordableValueError: An input, or a call, holds a value that the codec does not know.
        """
        outputs = dict(self._plain(_whole(result.bag)))
        unkept = [key for key, value in outputs.items() if unstorable_in(value) is not None]
        turn = Turn(
            pipeline=result.pipeline,
            providers=list(self._providers),
            inputs=self._plain(context.inputs),
            seed=context.seed,
            deadline_s=context.deadline_s,
            status=str(result.status),
            error=failure_of(result),
            outputs={key: value for key, value in outputs.items() if key not in unkept},
            unkept=unkept,
            calls=[_placed(call, at, result.log.started_at) for call, at in self._calls],
            events=[
                {**event.to_dict(), "data": self._plain(event.data)} for event in result.events
            ],
        )
        _check(turn)
        return turn

    def save(self, path: str | Path, context: PipelineContext, result: RunResult) -> None:
        """Write what was recorded of a run; whoever looks finds all of it, or the earlier file.

        Raises:
            UnrecordableValueError: As `turn`.
            RecordingFileError: The file cannot be written.
        """
        text = turn_text(self.turn(context, result), self._secrets)
        try:
            with whole_file(Path(path)) as file:
                file.write(f"{text}\n")
        except OSError as error:
            raise RecordingFileError(str(path), error) from error

    def _plain(self, values: Mapping[str, Any]) -> dict[str, Any]:
        return {key: self._codec.to_plain(value) for key, value in values.items()}


def _whole(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values, without streams of which items are gone."""
    return {k: v for k, v in values.items() if not isinstance(v, Stream) or v.whole}


def failure_of(result: RunResult) -> dict[str, Any] | None:
    """Why a run failed, as JSON can hold it; None if it did not."""
    if result.failure is None:
        return None
    failure = result.failure
    return {"code": failure.code, "stage": failure.stage, "message": failure.message}


def _placed(call: RecordedCall, at: float, started_at: float) -> RecordedCall:
    call.began_ms = round((at - started_at) * 1000.0, _DIGITS)
    return call


def _check(turn: Turn) -> None:
    parts: list[tuple[str, Any]] = [(f"the input {key!r}", v) for key, v in turn.inputs.items()]
    for number, call in enumerate(turn.calls, 1):
        where = f"call {number}, {call.provider}.{call.method},"
        parts += [(f"what {where} was asked", [call.arguments, call.options])]
        parts += [(f"what {where} answered", call.pieces)]
    for what, value in parts:
        type_name = unstorable_in(value)
        if type_name is not None:
            raise UnrecordableValueError(what, type_name)


class _Listening:
    """Writes down how a call goes on."""

    def __init__(self, call: RecordedCall, codec: LetterCodec) -> None:
        self._call = call
        self._codec = codec
        self._loop = asyncio.get_running_loop()
        self.waits()

    def waits(self) -> None:
        """From now on the next piece, or the end, is waited for."""
        self._since = self._loop.time()
        self._suspended = False
        self._watch = self._loop.call_soon(self._suspends)

    def _suspends(self) -> None:
        """The loop has had control: whoever answers did suspend, and so let others go on."""
        self._suspended = True

    def gets(self, piece: Any) -> None:
        """A piece is there."""
        self._call.pieces.append([self._waited_ms(), self._codec.to_plain(piece)])

    def ends(self, ending: str, error: Exception | None = None) -> None:
        """It is over."""
        self._call.ending = ending
        self._call.ending_ms = self._waited_ms()
        self._call.error = None if error is None else plain_error(error, self._codec)

    def _waited_ms(self) -> float:
        """For how long; 0 if nothing else could happen meanwhile, or if it was told already."""
        if not self._suspended:
            self._watch.cancel()
            return 0.0
        self._suspended = False
        # What suspended has let others go on, however short it was.
        return round((self._loop.time() - self._since) * 1000.0, _DIGITS) or _LEAST_MS


class _RecordedProvider(WrappedProvider):
    """A provider whose calls are written down."""

    def __init__(self, name: str, recorder: Recorder, provider: Any) -> None:
        super().__init__(provider)
        self._name = name
        self._recorder = recorder

    def __repr__(self) -> str:
        return f"<{self.__wrapped__!r}, recorded>"

    async def _answer(self, asked: Asked) -> Any:
        listening = self._recorder.heard(self._name, asked, streamed=False)
        try:
            answer = await asked.forward()
        except asyncio.CancelledError:
            listening.ends("cancelled")
            raise
        except Exception as error:
            listening.ends("failed", error)
            raise
        listening.gets(answer)
        listening.ends("answered")
        return answer

    async def _stream(self, asked: Asked) -> AsyncIterator[Any]:
        listening = self._recorder.heard(self._name, asked, streamed=True)
        try:
            async with aclosing(first_pieces(asked.forward())) as pieces:
                async for piece in pieces:
                    listening.gets(piece)
                    yield piece
                    listening.waits()
        except asyncio.CancelledError:
            listening.ends("cancelled")
            raise
        except GeneratorExit:
            listening.ends("left")
            raise
        except Exception as error:
            listening.ends("failed", error)
            raise
        listening.ends("answered")
