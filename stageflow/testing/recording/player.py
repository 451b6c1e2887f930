"""Providers that answer as a turn recorded it, after the same time, and refuse anything else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Generator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, NoReturn

from stageflow.dlq.codec import LetterCodec
from stageflow.providers.registry import PORTS, ProviderRegistry
from stageflow.testing.recording.errors import RecordingMismatchError
from stageflow.testing.recording.failures import error_again
from stageflow.testing.recording.turn_file import RecordedCall

#: So much longer than when it was recorded a call waits for its caller to cancel it, in seconds.
_PATIENCE_S = 60.0

#: How much of a value an error shows, in characters.
_SHOWN_CHARS = 60


class Player:
    """The recorded calls that have not been made yet.

    A call is answered by the first of them that asked the same of the same provider, so that stages
    may call in another order.

    Attributes:
        mismatches: What was asked that was not recorded, in order.
    """

    def __init__(self, where: str, calls: Sequence[RecordedCall], codec: LetterCodec) -> None:
        self._where = where
        self._codec = codec
        self._numbers = {id(call): number for number, call in enumerate(calls, 1)}
        self._waiting = list(calls)
        self.mismatches: list[RecordingMismatchError] = []

    @property
    def unasked(self) -> list[str]:
        """The calls that were not made this time, in words."""
        return [self.named(call) for call in self._waiting]

    def registry(self, names: Sequence[str]) -> ProviderRegistry:
        """Providers of these names, all of which answer from the recorded calls."""
        kinds: dict[str, dict[str, bool]] = {name: {} for name in names}
        for call in self._waiting:
            kinds.setdefault(call.provider, {})[call.method] = call.streamed
        return ProviderRegistry(
            **{name: _Player(name, self, methods) for name, methods in kinds.items()}
        )

    def named(self, call: RecordedCall) -> str:
        """A call in words."""
        return f"call {self._numbers[id(call)]}, {call.provider}.{call.method}"

    def take(
        self, provider: str, method: str, arguments: Sequence[Any], options: Mapping[str, Any]
    ) -> RecordedCall:
        """The recorded call that asked the same; it is not given again.

        Raises:
            RecordingMismatchError: There is none.
        """
        asked = [self._codec.to_plain(argument) for argument in arguments]
        named = {name: self._codec.to_plain(value) for name, value in options.items()}
        alike = [c for c in self._waiting if (c.provider, c.method) == (provider, method)]
        for call in alike:
            if (call.arguments, call.options) == (asked, named):
                self._waiting.remove(call)
                return call
        if alike:
            raise self.mismatch(self._other(alike[0], asked, named))
        given = _short(self._codec.from_plain([*asked, *named.values()]))
        raise self.mismatch(
            f"{provider}.{method} is called once more than it was when the turn was recorded, with"
            f" {given}"
        )

    def _other(self, call: RecordedCall, asked: list[Any], named: dict[str, Any]) -> str:
        """How what is asked differs from what a call had asked, in words."""
        value = self._codec.from_plain
        pairs = [
            *(
                (f"argument {n}", a, b)
                for n, (a, b) in enumerate(zip(call.arguments, asked, strict=False), 1)
            ),
            *((name, call.options.get(name), named.get(name)) for name in call.options | named),
        ]
        for where, before, now in pairs:
            if before != now:
                path, expected, got = difference(where, value(before), value(now))
                return (
                    f"{self.named(call)}, asks something else than when the turn was recorded:"
                    f" {path} was {expected}, and is {got}"
                )
        return f"{self.named(call)}, takes another number of arguments than when recorded"

    def mismatch(self, problem: str) -> RecordingMismatchError:
        """The error that tells what is not as it was; it is kept, as a stage may go on without."""
        error = RecordingMismatchError(
            f"{self._where}: {problem}; if that is meant, record the turn anew"
        )
        self.mismatches.append(error)
        return error

    async def end(self, call: RecordedCall) -> None:
        """End an answer as it ended."""
        await _sleep_ms(call.ending_ms)
        if call.error is not None:
            raise error_again(call.error, self._codec)
        if call.ending in ("cancelled", "left"):
            await asyncio.sleep(_PATIENCE_S)
            raise self.mismatch(
                f"{self.named(call)}, was {call.ending} when the turn was recorded, and now its"
                " caller goes on to wait for more than there is"
            )

    def value(self, plain: Any) -> Any:
        """An answer, made anew."""
        return self._codec.from_plain(plain)


class _Player:
    """Stands in for one provider."""

    def __init__(self, name: str, player: Player, methods: Mapping[str, bool]) -> None:
        self._name = name
        self._player = player
        self._methods = methods

    def __getattr__(self, method: str) -> Any:
        if method in self._methods:
            return self._streaming(method) if self._methods[method] else self._answering(method)
        if method in PORTS.get(self._name, ("", ()))[1]:
            return self._refusing(method)
        raise AttributeError(
            f"when the turn was recorded, nothing called {self._name}.{method}; of a provider only"
            " async methods and streams are recorded",
            name=method,
            obj=self,
        )

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Answer for a provider that is itself a function."""
        return self.__getattr__("__call__")(*arguments, **options)

    def _answering(self, method: str) -> Callable[..., Any]:
        async def answer(*arguments: Any, **options: Any) -> Any:
            call = self._player.take(self._name, method, arguments, options)
            if not call.pieces:
                return await self._player.end(call)
            ((wait_ms, piece),) = call.pieces
            await _sleep_ms(wait_ms)
            return self._player.value(piece)

        return answer

    def _streaming(self, method: str) -> Callable[..., Any]:
        async def stream(*arguments: Any, **options: Any) -> AsyncIterator[Any]:
            call = self._player.take(self._name, method, arguments, options)
            for wait_ms, piece in call.pieces:
                await _sleep_ms(wait_ms)
                yield self._player.value(piece)
            await self._player.end(call)

        return stream

    def _refusing(self, method: str) -> Callable[..., Any]:
        return lambda *arguments, **options: _Refused(
            lambda: self._player.take(self._name, method, arguments, options)
        )

    def __repr__(self) -> str:
        return f"<{self._name}, as recorded>"


class _Refused:
    """A call of a method that was never called: whether it is awaited or iterated, it raises."""

    def __init__(self, refuse: Callable[[], object]) -> None:
        self._refuse = refuse

    def __await__(self) -> Generator[None, None, None]:
        self._refuse()
        yield

    def __aiter__(self) -> _Refused:
        return self

    async def __anext__(self) -> NoReturn:
        self._refuse()
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """There is nothing to close."""


async def _sleep_ms(wait_ms: float) -> None:
    if wait_ms > 0:
        await asyncio.sleep(wait_ms / 1000.0)


# ── what differs ────────────────────────────────────────────────────────────────────────────


def difference(where: str, expected: Any, got: Any) -> tuple[str, str, str]:
    """Where two values that differ do so first, and how each looks there.

    Args:
        where: What they are called.
        expected: The first value.
        got: The other.
    """
    for step, ours, theirs in _parts(expected, got):
        if ours != theirs:
            return difference(f"{where}{step}", ours, theirs)
    if isinstance(expected, str) and isinstance(got, str):
        same = next(
            (n for n, (a, b) in enumerate(zip(expected, got, strict=False)) if a != b),
            min(len(expected), len(got)),
        )
        start = max(0, same - _SHOWN_CHARS // 2)
        before = "…" if start else ""
        return where, before + _short(expected[start:]), before + _short(got[start:])
    return where, _short(expected), _short(got)


def _parts(expected: Any, got: Any) -> list[tuple[str, Any, Any]]:
    """The parts that both have, each with the step that leads there."""
    if type(expected) is not type(got):
        return []
    if isinstance(expected, list | tuple):
        return [(f"[{n}]", a, b) for n, (a, b) in enumerate(zip(expected, got, strict=False))]
    if isinstance(expected, Mapping):
        return [(f"[{key!r}]", expected[key], got[key]) for key in expected if key in got]
    if is_dataclass(expected):
        return [
            (f".{part.name}", getattr(expected, part.name), getattr(got, part.name))
            for part in fields(expected)
        ]
    return []


def _short(value: Any) -> str:
    text = repr(value)
    if len(text) > _SHOWN_CHARS:
        size = f" ({len(value)} bytes)" if isinstance(value, bytes) else ""
        return f"{text[:_SHOWN_CHARS]}…{size}"
    return text
