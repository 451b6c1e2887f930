"""Providers around providers: one with another to fall back on, one that does not wait forever."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import pytest

from stageflow import Audio, PipelineContext, ProviderRegistry
from stageflow.errors import CircuitOpenError, InvalidConfigError, NoProgressError
from stageflow.kernels import chat, default_providers
from stageflow.providers import (
    PORTS,
    FakeDatabase,
    FakeLLM,
    FakeSpeaker,
    FakeSTT,
    FakeTTS,
    Fallback,
    IdleTimeout,
    Retry,
)
from stageflow.resilience import BreakerPolicy, BreakerState, RetryPolicy
from tests.utils.assertions import assert_run_sound
from tests.utils.driving import this_task
from tests.utils.errors import raises_code
from tests.utils.factories import make_pipeline
from tests.utils.scripted import ASKED, ScriptedLLM, Step, asking, context, fails

CLOSED, OPEN = BreakerState.CLOSED, BreakerState.OPEN


async def read(stream: AsyncIterator[str], into: list[str] | None = None) -> list[str]:
    """The pieces of a stream, to its end; `into` holds what came even if it breaks."""
    pieces = [] if into is None else into
    async for piece in stream:
        pieces.append(piece)
    return pieces


class Port:
    """A provider of every port, which fails, stalls or answers; and one method besides.

    Attributes:
        calls: The names of the methods called.
    """

    def __init__(self, what: str) -> None:
        self.calls: list[str] = []
        self._what = what

    async def _act(self, method: str) -> Any:
        self.calls.append(method)
        if self._what == "fail":
            raise ConnectionError("connection refused")
        if self._what == "stall":
            await asyncio.sleep(1e6)
        return self._what

    async def complete(self, messages: Sequence[Any]) -> Any:
        return await self._act("complete")

    async def stream(self, messages: Sequence[Any]) -> AsyncIterator[Any]:
        yield await self._act("stream")

    async def transcribe(self, audio: Audio) -> Any:
        return await self._act("transcribe")

    async def synthesize(self, text: str) -> Any:
        return await self._act("synthesize")

    async def get(self, collection: str, key: str) -> Any:
        return await self._act("get")

    async def put(self, collection: str, key: str, record: Mapping[str, Any]) -> Any:
        return await self._act("put")

    def price(self) -> str:
        return f"the price of {self._what}"


CALLS: dict[str, Callable[[Any], Any]] = {
    "complete": lambda port: port.complete(ASKED),
    "stream": lambda port: read(port.stream(ASKED)),
    "transcribe": lambda port: port.transcribe(Audio(b"")),
    "synthesize": lambda port: port.synthesize("hello"),
    "get": lambda port: port.get("users", "u1"),
    "put": lambda port: port.put("users", "u1", record={}),
}


@pytest.mark.parametrize("wrap", [lambda p: Fallback(p, p), lambda p: IdleTimeout(p, 1.0), Retry])
@pytest.mark.parametrize(
    ("name", "provider"),
    [
        ("llm", FakeLLM()),
        ("stt", FakeSTT()),
        ("tts", FakeTTS()),
        ("db", FakeDatabase()),
        ("speaker", FakeSpeaker()),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrapped_provider_serves_its_own_port_and_no_other(
    wrap: Callable[[Any], Any], name: str, provider: Any
) -> None:
    """The registry takes it for what it wraps, and refuses it for anything else."""
    ProviderRegistry().register(name, wrap(provider))
    for other in PORTS.keys() - {name}:
        with raises_code("invalid_provider"):
            ProviderRegistry().register(other, wrap(provider))


@pytest.mark.parametrize("wrap", [lambda p: Fallback(p, p), lambda p: IdleTimeout(p, 1.0), Retry])
def test_what_is_not_of_a_port_is_handed_out_as_it_is(wrap: Callable[[Any], Any]) -> None:
    """The wrapper has no attribute that the provider does not have."""
    wrapped = wrap(Port("fine"))
    assert wrapped.price() == "the price of fine"
    with pytest.raises(AttributeError, match="absent"):
        _ = wrapped.absent
    with pytest.raises(AttributeError, match="_hidden"):
        _ = wrapped._hidden


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.simulate(order="asyncio")
async def test_every_method_of_every_port_falls_back(call: Callable[[Any], Any]) -> None:
    """At once, with the same arguments."""
    wrapped = Fallback(Port("fail"), Port("second"))

    assert await call(wrapped) in ("second", ["second"])
    assert asyncio.get_running_loop().time() == 0.0


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.simulate(order="asyncio")
async def test_every_method_of_every_port_is_watched(call: Callable[[Any], Any]) -> None:
    """A stall fails it when the time is up; an answer goes through."""
    assert await call(IdleTimeout(Port("fine"), 2.0)) in ("fine", ["fine"])
    with pytest.raises(NoProgressError, match=r"timeout: Port made no progress for 2 s"):
        await call(IdleTimeout(Port("stall"), 2.0))
    assert asyncio.get_running_loop().time() == 2.0


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.simulate(order="asyncio")
async def test_a_stall_is_not_dead_air(call: Callable[[Any], Any]) -> None:
    """Together: what stalls for two seconds is answered by the other after two seconds."""
    wrapped = Fallback(IdleTimeout(Port("stall"), 2.0), Port("second"))

    assert await call(wrapped) in ("second", ["second"])
    assert asyncio.get_running_loop().time() == 2.0


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("wrap", [lambda p: Fallback(p, p), lambda p: IdleTimeout(p, 9.0)])
@pytest.mark.simulate(order="asyncio")
async def test_a_cancellation_goes_through(
    wrap: Callable[[Any], Any], call: Callable[[Any], Any]
) -> None:
    """At once, without another call, and it tells nothing about the provider."""
    port = Port("stall")
    wrapped = wrap(port)

    task = asyncio.ensure_future(call(wrapped))
    await asyncio.sleep(1.0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert asyncio.get_running_loop().time() == 1.0
    assert len(port.calls) == 1


@pytest.mark.simulate(order="asyncio")
async def test_after_repeated_failures_calls_go_to_the_fallback_directly() -> None:
    """And return to the first when a probe after the cool-down shows that it is healthy."""
    primary, second = ScriptedLLM(*fails(3)), ScriptedLLM(*["second"] * 99)
    wrapped = Fallback(primary, second, policy=BreakerPolicy(failures=3, cooldown_s=30.0))

    answers = [await wrapped.complete(ASKED) for _ in range(10)]
    assert answers == ["second"] * 10
    assert (primary.calls, second.calls) == (3, 10)
    assert wrapped.breaker.state is OPEN
    await asyncio.sleep(30.0)
    answers = [await wrapped.complete(ASKED) for _ in range(10)]
    assert answers == ["ok"] * 10
    assert (primary.calls, second.calls) == (13, 10)
    assert wrapped.breaker.state is CLOSED


@pytest.mark.simulate(order="asyncio")
async def test_a_probe_that_fails_is_answered_by_the_fallback_too() -> None:
    """Nobody pays for the probe with a failed turn; while it runs, others are not kept waiting."""
    primary = ScriptedLLM(*fails(1), [5.0, ConnectionError()])
    wrapped = Fallback(
        primary,
        ScriptedLLM(*["second"] * 99),
        policy=BreakerPolicy(failures=1, cooldown_s=30.0),
    )

    await wrapped.complete(ASKED)
    await asyncio.sleep(30.0)
    probe = asyncio.ensure_future(wrapped.complete(ASKED))
    await asyncio.sleep(1.0)
    assert await wrapped.complete(ASKED) == "second"
    assert asyncio.get_running_loop().time() == 31.0
    assert await probe == "second"
    assert (primary.calls, wrapped.breaker.state) == (2, OPEN)


@pytest.mark.parametrize("method", ["complete", "stream"])
@pytest.mark.simulate(order="asyncio")
async def test_a_refusal_or_a_bug_is_not_a_reason_to_ask_another(method: str) -> None:
    """It is raised as it is, and the breaker does not count it."""
    primary, second = ScriptedLLM(*[ValueError("a bug") for _ in range(9)]), ScriptedLLM()
    wrapped = Fallback(primary, second, policy=BreakerPolicy(failures=1))

    for _ in range(9):
        with pytest.raises(ValueError, match="a bug"):
            await CALLS[method](wrapped)
    assert (primary.calls, second.calls, wrapped.breaker.state) == (9, 0, CLOSED)


@pytest.mark.parametrize("method", ["complete", "stream"])
@pytest.mark.simulate(order="asyncio")
async def test_when_both_fail_the_failure_of_the_fallback_is_raised(method: str) -> None:
    """There is nothing left to try."""
    wrapped = Fallback(ScriptedLLM(*fails(1)), ScriptedLLM(TimeoutError("the second")))

    with pytest.raises(TimeoutError, match="the second"):
        await CALLS[method](wrapped)


@pytest.mark.simulate(order="asyncio")
async def test_a_fallback_can_have_a_fallback() -> None:
    """An inner one whose both providers fail counts as failed."""
    inner = Fallback(ScriptedLLM(*fails(1)), ScriptedLLM(*fails(1)))
    wrapped = Fallback(inner, ScriptedLLM("third"))
    assert await wrapped.complete(ASKED) == "third"


@pytest.mark.simulate(order="asyncio")
async def test_a_stream_that_fails_before_its_first_piece_is_switched() -> None:
    """The reader sees the second's pieces alone, and both streams are closed."""
    primary, second = ScriptedLLM([1.0, ConnectionError()]), ScriptedLLM(["a", "b"])
    wrapped = Fallback(primary, second)
    assert await read(wrapped.stream(ASKED)) == ["a", "b"]
    assert (primary.closed, second.closed) == (1, 1)


@pytest.mark.simulate(order="asyncio")
async def test_a_stream_that_has_yielded_cannot_be_switched() -> None:
    """Its failure is raised, after what was read, and counts against the first."""
    primary, second = ScriptedLLM(["a", ConnectionError("cut")]), ScriptedLLM()
    wrapped = Fallback(primary, second, policy=BreakerPolicy(failures=1))
    pieces: list[str] = []

    with pytest.raises(ConnectionError, match="cut"):
        await read(wrapped.stream(ASKED), pieces)
    assert (pieces, second.calls, wrapped.breaker.state) == (["a"], 0, OPEN)
    assert primary.closed == 1


@pytest.mark.simulate(order="asyncio")
async def test_a_stream_goes_to_the_fallback_directly_while_the_breaker_is_open() -> None:
    """Without a call to the first."""
    primary = ScriptedLLM()
    wrapped = Fallback(primary, ScriptedLLM(["a", "b"]))

    wrapped.breaker.force_open(asyncio.get_running_loop().time)
    assert await read(wrapped.stream(ASKED)) == ["a", "b"]
    assert primary.calls == 0


@pytest.mark.parametrize("broken", [False, True])
@pytest.mark.simulate(order="asyncio")
async def test_a_reader_that_leaves_closes_the_stream(broken: bool) -> None:
    """That of the first or of the fallback; and a probe left early has no say, nor a place."""
    primary = ScriptedLLM(*fails(1), ConnectionError() if broken else ["a", 9.0, "b"])
    second = ScriptedLLM("x", ["a", 9.0, "b"])
    wrapped = Fallback(primary, second, policy=BreakerPolicy(failures=1, cooldown_s=1.0))

    await wrapped.complete(ASKED)
    await asyncio.sleep(1.0)
    async with aclosing(wrapped.stream(ASKED)) as pieces:
        assert await anext(pieces) == "a"
    assert (primary.closed, second.closed) == (1, broken)
    await asyncio.sleep(1.0)
    assert await wrapped.complete(ASKED) == "ok"
    assert wrapped.breaker.state is CLOSED


@pytest.mark.parametrize("method", ["complete", "stream"])
@pytest.mark.simulate(order="asyncio")
async def test_a_provider_that_makes_an_error_of_its_cancellation_is_not_followed(
    method: str,
) -> None:
    """Nobody waits for an answer any more, so the second is not asked."""

    class Converting(ScriptedLLM):
        async def complete(self, messages: Any) -> str:
            try:
                return await super().complete(messages)
            except asyncio.CancelledError:
                raise ConnectionError("connection closed") from None

        async def stream(self, messages: Any) -> AsyncIterator[str]:
            yield await self.complete(messages)

    second = ScriptedLLM()
    wrapped = Fallback(Converting(9.0), second)

    task = asyncio.ensure_future(CALLS[method](wrapped))
    await asyncio.sleep(1.0)
    task.cancel()
    with pytest.raises(ConnectionError, match="connection closed"):
        await task
    assert second.calls == 0


def test_a_fallback_needs_the_methods_of_the_first() -> None:
    """Or it is refused where it is made, by name."""
    with pytest.raises(InvalidConfigError, match=r"fallback is .*complete\(\)"):
        Fallback(FakeLLM(), FakeSTT())


def test_the_breaker_goes_by_the_providers_name() -> None:
    """The given one, or that of its class, also through another wrapper."""
    assert Fallback(FakeLLM(), FakeLLM()).breaker.provider == "FakeLLM"
    assert Fallback(FakeLLM(), FakeLLM(), name="main").breaker.provider == "main"
    assert Fallback(IdleTimeout(FakeLLM(), 1.0), FakeLLM()).name == "FakeLLM"


@pytest.mark.simulate(order="asyncio")
async def test_a_run_survives_its_language_model() -> None:
    """A chat turn whose first model is gone is answered by the second, as though nothing were."""
    pipeline, providers = chat(), default_providers()
    primary = ScriptedLLM(*fails(9))
    providers.register("llm", Fallback(primary, ScriptedLLM("from the second")))
    ctx = PipelineContext({"text": "hello", "user_id": "u1"}, providers=providers)
    result = await pipeline.run(ctx)
    assert_run_sound(pipeline, result)
    assert result.outputs["answer"] == "from the second"
    assert primary.calls == 1


@pytest.mark.simulate(order="asyncio")
async def test_a_stream_is_watched_between_its_pieces() -> None:
    """It may last as long as it likes while it goes on, and fails where it stops."""
    llm = ScriptedLLM([0.9, "a", 0.9, "b", 0.9, "c", 1.1, "d"])
    pieces: list[str] = []

    with pytest.raises(NoProgressError) as stalled:
        await read(IdleTimeout(llm, 1.0, name="main").stream(ASKED), pieces)
    assert asyncio.get_running_loop().time() == pytest.approx(3.7)
    assert stalled.value.timeout_s == 1.0
    assert "main" in str(stalled.value)
    assert (pieces, llm.closed) == (["a", "b", "c"], 1)


@pytest.mark.simulate(order="asyncio")
async def test_empty_pieces_are_not_progress() -> None:
    """They show that the connection is alive, which helps nobody; they are not handed on."""
    alive: list[Step] = [0.5, ""]

    with pytest.raises(NoProgressError):
        await read(IdleTimeout(ScriptedLLM(["a", *alive * 9, "b"]), 2.0).stream(ASKED))
    assert asyncio.get_running_loop().time() == 2.0
    patient = IdleTimeout(ScriptedLLM(["a", *alive * 3, "b", ""]), 2.0)
    assert await read(patient.stream(ASKED)) == ["a", "b"]


@pytest.mark.simulate(order="asyncio")
async def test_the_readers_own_time_does_not_count() -> None:
    """A reader that thinks for an hour about each piece loses none."""
    stream = IdleTimeout(ScriptedLLM(["a", 0.5, "b", 0.5, "c"]), 1.0).stream(ASKED)

    pieces = []
    async for piece in stream:
        await asyncio.sleep(3600.0)
        pieces.append(piece)
    assert pieces == ["a", "b", "c"]


@pytest.mark.simulate(order="asyncio")
async def test_an_answer_that_grows_may_take_its_time() -> None:
    """A language model's whole answer is watched through its stream, unless that is unwanted."""
    growing: Step = [part for piece in "abcdef" for part in (0.9, piece)]

    assert await IdleTimeout(ScriptedLLM(growing), 1.0).complete(ASKED) == "abcdef"
    with pytest.raises(NoProgressError):
        await IdleTimeout(ScriptedLLM(growing), 1.0, complete_by_stream=False).complete(ASKED)
    assert asyncio.get_running_loop().time() == pytest.approx(6.4)


@pytest.mark.parametrize("ending", ["raises", "answers"])
@pytest.mark.simulate(order="asyncio")
async def test_what_a_provider_makes_of_its_cancellation(ending: str) -> None:
    """An error of its own is not progress either; an answer after all is an answer."""

    class Stubborn:
        async def transcribe(self, audio: Audio) -> str:
            try:
                await asyncio.sleep(9.0)
            except asyncio.CancelledError:
                if ending == "raises":
                    raise ConnectionError("connection closed") from None
            return "after all"

    call = IdleTimeout(Stubborn(), 1.0).transcribe(Audio(b""))
    if ending == "raises":
        with pytest.raises(NoProgressError) as stalled:
            await call
        assert isinstance(stalled.value.__cause__, ConnectionError)
    else:
        assert await call == "after all"
    assert this_task().cancelling() == 0


@pytest.mark.simulate(order="asyncio")
async def test_errors_of_the_provider_go_through() -> None:
    """Also a timeout of its own: it is not ours to rename."""
    for error in (TimeoutError("its own"), ValueError("a bug"), CircuitOpenError("llm", 1.0)):
        watched = IdleTimeout(ScriptedLLM(error, error), 1.0)
        with pytest.raises(type(error)) as raised:
            await watched.complete(ASKED)
        assert raised.value is error
        with pytest.raises(type(error)):
            await read(watched.stream(ASKED))


@pytest.mark.simulate(order="asyncio")
async def test_a_stream_that_cannot_be_closed_is_read_all_the_same() -> None:
    """Not every iterator has an ``aclose``."""

    class Plain:
        def stream(self, messages: Any) -> AsyncIterator[str]:
            return Countdown()

    class Countdown:
        left = 3

        def __aiter__(self) -> AsyncIterator[str]:
            return self

        async def __anext__(self) -> str:
            self.left -= 1
            if not self.left:
                raise StopAsyncIteration
            return str(self.left)

    for wrapped in (IdleTimeout(Plain(), 1.0), Fallback(Plain(), Plain())):
        assert await read(wrapped.stream(ASKED)) == ["2", "1"]


@pytest.mark.parametrize("value", [0, -1.0, float("inf"), float("nan"), "1", None])
def test_a_time_that_makes_no_sense_is_refused(value: Any) -> None:
    """Where the watch is made."""
    with pytest.raises(InvalidConfigError, match="IdleTimeout: progress_timeout_s is"):
        IdleTimeout(FakeLLM(), value)


@pytest.mark.simulate(order="asyncio")
async def test_a_stall_fails_a_stage_as_a_timeout_that_may_pass() -> None:
    """The run's error says so, and the message for the user says that it took too long."""
    pipeline = make_pipeline(asking())
    result = await pipeline.run(context(IdleTimeout(ScriptedLLM(99.0), 3.0)))
    assert result.duration_ms == 3000.0
    assert result.failure is not None
    assert (result.failure.code, result.failure.retryable) == ("no_progress", True)
    assert result.failure.user_message == "That took too long. Please try again."


def test_repr_shows_the_nesting() -> None:
    """So that a set-up can be read."""
    wrapped = Fallback(IdleTimeout("first", 2.0), "second")
    assert repr(wrapped) == "Fallback(IdleTimeout('first', 2.0), 'second')"


class Hiccups(Port):
    """A provider whose first calls fail."""

    def __init__(self, *failures: Exception) -> None:
        super().__init__("answer")
        self._failures = list(failures)

    async def _act(self, method: str) -> Any:
        await super()._act(method)
        if self._failures:
            raise self._failures.pop(0)
        return self._what


HICCUP = ConnectionError("reset")


@pytest.mark.parametrize("method", CALLS)
async def test_a_call_that_failed_is_made_again(method: str) -> None:
    """With a pause between, until it is answered."""
    hiccups = Hiccups(HICCUP, HICCUP)
    answer = await CALLS[method](Retry(hiccups, RetryPolicy(base_delay_s=0.001)))
    assert answer in ("answer", ["answer"])
    assert hiccups.calls == [method] * 3


@pytest.mark.parametrize(
    ("failures", "calls"), [([HICCUP] * 3, 2), ([ValueError("a bug")], 1), ([PermissionError()], 1)]
)
@pytest.mark.parametrize("method", ["synthesize", "stream"])
async def test_a_call_is_not_made_again_for_ever(
    method: str, failures: list[Exception], calls: int
) -> None:
    """Not more often than the policy says, and not after what no retry can fix."""
    hiccups = Hiccups(*failures)
    with pytest.raises(type(failures[0])):
        await CALLS[method](Retry(hiccups, RetryPolicy(attempts=2, base_delay_s=0.0)))
    assert len(hiccups.calls) == calls


async def test_a_stream_that_has_yielded_is_not_made_again() -> None:
    """The reader has what came before."""
    pieces: list[str] = []
    with pytest.raises(ConnectionError):
        await read(Retry(ScriptedLLM(["a", HICCUP], "b")).stream(ASKED), pieces)
    assert pieces == ["a"]


async def test_a_database_appends_if_both_do() -> None:
    """A second one without ``append`` hides that of the first: the kernels then get and put."""

    class Plain:
        async def get(self, collection: str, key: str) -> None:
            """Hold nothing."""

        async def put(self, collection: str, key: str, record: Any) -> None:
            """Store nothing."""

    class Broken(FakeDatabase):
        async def append(self, *args: Any, **named: Any) -> None:
            raise ConnectionError

    second = FakeDatabase()
    await Fallback(Broken(), second).append("talks", "ada", "turns", "hi")
    assert await second.get("talks", "ada") == {"turns": ["hi"]}
    assert not hasattr(Fallback(Broken(), Plain()), "append")
