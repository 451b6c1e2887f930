"""Record a turn: its inputs, each call of a provider with its answer, and its result."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Self

from stageflow._utils.closing import Closing, closing_stream
from stageflow._utils.files import atomic_write
from stageflow.codec import DEFAULT_CODEC, Codec
from stageflow.engine import PipelineContext, RunResult, Stream
from stageflow.providers.registry import ProviderRegistry, adapted
from stageflow.testing.faults.kinds import Fault
from stageflow.testing.recording.turn_file import (
    RecordedCall,
    RecordingError,
    Turn,
    plain_error,
    turn_text,
)
from stageflow.testing.wrapped import Call, WrappedProvider

#: Milliseconds are kept to the microsecond.
_DIGITS = 3
_LEAST_MS = 0.001


class Recorder(Closing):
    """Records the calls of all providers of a registry, for the length of a ``with`` block.

    Only calls from the block are recorded. Enter it inside of the blocks of faults, so that it
    records what stages do. Example::

        with Recorder(ctx.providers) as recorder:
            result = await pipeline.run(ctx)
        recorder.save("turn.json", ctx, result)

    Args:
        providers: Their registry.
        codec: Knows the types that the turn holds.
        secrets: Strings that no file may hold, such as keys.
    """

    def __init__(
        self,
        providers: ProviderRegistry,
        *,
        codec: Codec = DEFAULT_CODEC,
        secrets: Iterable[str] = (),
    ) -> None:
        self._providers = tuple(providers)
        self.codec = codec
        self._secrets = tuple(secrets)
        #: Each call, and when it began, in seconds of the loop's clock.
        self._calls: list[tuple[RecordedCall, float]] = []
        self._block = ExitStack()

    def __enter__(self) -> Self:
        for name in {*self._providers, "tools"}:
            self._block.enter_context(adapted(name, partial(WrappedProvider, name, watcher=self)))
        return self

    def begin(self, method: str) -> Fault:
        """Return what records a call; for the providers."""
        return _Recording(self)

    def missed(self) -> None:
        """Do nothing: a plain call is not recorded."""

    def close(self) -> None:
        """Stop recording."""
        self._block.close()

    def began(self, call: Call, *, streamed: bool) -> RecordedCall:
        """Return the record of a call that begins now."""
        # Encoded now: the caller may change a list afterwards.
        arguments = [self.codec.to_plain(argument) for argument in call.arguments]
        options = self.codec.plain_items(call.options)
        recorded = RecordedCall(call.provider, call.method, 0.0, arguments, options, streamed)
        self._calls.append((recorded, asyncio.get_running_loop().time()))
        return recorded

    def _turn(self, context: PipelineContext, result: RunResult) -> Turn:
        # A stream of which items are gone cannot be kept.
        left = {k: v for k, v in result.bag.items() if not isinstance(v, Stream) or v.whole}
        outputs = self.codec.plain_items(left)
        unkept = [key for key in outputs if self.codec.lost("", {key: outputs[key]})]
        for call, at in self._calls:
            call.began_ms = round((at - result.log.started_at) * 1000.0, _DIGITS)
        turn = Turn(
            pipeline=result.pipeline,
            providers=list(self._providers),
            inputs=self.codec.plain_items(context.inputs),
            seed=context.seed,
            deadline_s=context.deadline_s,
            status=str(result.status),
            error=failure_of(result),
            outputs={key: value for key, value in outputs.items() if key not in unkept},
            unkept=unkept,
            calls=[call for call, _ in self._calls],
            events=[{**e.to_dict(), "data": self.codec.plain_items(e.data)} for e in result.events],
        )
        lost = self.codec.lost("inputs", turn.inputs)
        for number, call in enumerate(turn.calls, 1):
            where = f"call {number}, {call.provider}.{call.method}: "
            asked = {"arguments": call.arguments, "options": list(call.options.values())}
            lost |= self.codec.lost(f"{where}asked", asked)
            lost |= self.codec.lost(f"{where}answered", {"pieces": call.pieces})
        for path, value in lost.items():
            raise RecordingError(
                f"the turn cannot be recorded: {path} is of type {value.shown}; use plain values,"
                " or give the recorder a codec that knows the type: Codec([StoredType(…)])",
                code="unrecordable_value",
            )
        return turn

    def save(self, path: str | Path, context: PipelineContext, result: RunResult) -> None:
        """Write what was recorded of a run, in one step, to a file.

        Raises:
            RecordingError: An input or a call holds a value that the codec does not know, or the
                file cannot be written.
        """
        text = turn_text(self._turn(context, result), self._secrets)
        try:
            with atomic_write(Path(path)) as file:
                file.write(f"{text}\n")
        except OSError as error:
            text = f"{path}: it cannot be written ({error.strerror})"
            raise RecordingError(text, code="recording_file") from error


def failure_of(result: RunResult) -> dict[str, Any] | None:
    """Return why a run failed, as JSON can hold it; None if it did not."""
    if (failure := result.failure) is None:
        return None
    return {"code": failure.code, "stage": failure.stage, "message": failure.message}


class _Recording(Fault):
    """Records a call; a call that is not asynchronous is not recorded."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    async def answer(self, call: Call) -> Any:
        """Return the provider's answer."""
        with self._recorded(call, streamed=False):
            answer = await super().answer(call)
            self._gets(answer)
        return answer

    async def stream(self, call: Call) -> AsyncGenerator[Any, None]:
        """Yield the provider's pieces."""
        with self._recorded(call, streamed=True):
            async with closing_stream(super().stream(call)) as pieces:
                async for piece in pieces:
                    self._gets(piece)
                    yield piece
                    self._wait()

    @contextmanager
    def _recorded(self, call: Call, *, streamed: bool) -> Iterator[None]:
        """Record the call of a block, and how it ends."""
        self._call = self._recorder.began(call, streamed=streamed)
        self._loop = asyncio.get_running_loop()
        self._wait()
        ending = "left"
        try:
            yield
            ending = "answered"
        except asyncio.CancelledError:
            ending = "cancelled"
            raise
        except Exception as error:
            ending = "failed"
            self._call.error = plain_error(error, self._recorder.codec)
            raise
        finally:
            self._call.ending, self._call.ending_ms = ending, self._waited_ms()

    def _wait(self) -> None:
        # Once the loop has had control, the provider has suspended: other tasks could run.
        self._since, self._suspended = self._loop.time(), asyncio.Event()
        self._watch = self._loop.call_soon(self._suspended.set)

    def _gets(self, piece: Any) -> None:
        self._call.pieces.append([self._waited_ms(), self._recorder.codec.to_plain(piece)])

    def _waited_ms(self) -> float:
        """Return the wait in milliseconds; 0 if the provider has not suspended."""
        if not self._suspended.is_set():
            self._watch.cancel()
            return 0.0
        self._suspended.clear()
        return round((self._loop.time() - self._since) * 1000.0, _DIGITS) or _LEAST_MS
