"""Fault injection itself: what each fault does to a call, to which calls, and for how long."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import pytest

from stageflow import Audio, Message, ProviderRegistry
from stageflow.classification import classify
from stageflow.errors import InvalidConfigError
from stageflow.providers.fake import FakeDatabase, FakeLLM, FakeSTT, FakeTTS
from stageflow.providers.latency import LatencyProfile
from stageflow.providers.registry import adapted
from stageflow.testing.faults import (
    DbFaultInjector,
    FaultInjector,
    FaultType,
    LlmFaultInjector,
    SpeakerFaultInjector,
    SttFaultInjector,
    TtsFaultInjector,
    inject_fault,
)
from tests.utils.virtual_time import run_virtual

QUESTION = [Message("user", "one two three")]
PIECES = ["You ", "said: ", "one ", "two ", "three"]
TOOK_MS = 100.0


class Search:
    """A provider that fits no port."""

    ranking = "by date"

    def __init__(self) -> None:
        self.closed = 0

    async def find(self, words: str) -> list[str]:
        await asyncio.sleep(0)
        return [words]

    def later(self, words: str) -> Awaitable[list[str]]:
        return self.find(words)

    def names(self) -> list[str]:
        return ["find"]

    async def pages(self) -> AsyncIterator[str]:
        try:
            yield "first"
            yield "second"
        finally:
            self.closed += 1


def providers() -> ProviderRegistry:
    """Every port, and a provider that fits none; each answer takes 100 ms."""
    latency = LatencyProfile.fixed(TOOK_MS)
    return ProviderRegistry(
        llm=FakeLLM(latency=latency),
        stt=FakeSTT("hello", latency=latency),
        tts=FakeTTS(latency=latency),
        db=FakeDatabase({"c": {"k": {"v": 1}}}, read=latency, write=latency),
        search=Search(),
    )


async def gathered(stream: AsyncIterator[Any], into: list[Any]) -> list[Any]:
    async for piece in stream:
        into.append(piece)  # noqa: PERF401 - what came before a break counts
    return into


#: One call of every method of every port.
CALLS: dict[str, tuple[str, Callable[[ProviderRegistry], Awaitable[Any]]]] = {
    "complete": ("llm", lambda p: p.llm.complete(QUESTION)),
    "stream": ("llm", lambda p: gathered(p.llm.stream(QUESTION), [])),
    "transcribe": ("stt", lambda p: p.stt.transcribe(Audio(b""))),
    "synthesize": ("tts", lambda p: p.tts.synthesize("a")),
    "get": ("db", lambda p: p.db.get("c", "k")),
    "put": ("db", lambda p: p.db.put("c", "k", {})),
    "find": ("search", lambda p: p["search"].find("x")),
}
each_method = pytest.mark.parametrize("method", CALLS)


def played(method: str, fault_type: FaultType, **options: Any) -> tuple[Any, float, FaultInjector]:
    """What a call under a fault returned or raised, after how many ms, and the injector."""

    async def main() -> tuple[Any, float, FaultInjector]:
        provider, call = CALLS[method]
        loop = asyncio.get_running_loop()
        with inject_fault(provider, fault_type, **options) as injector:
            try:
                outcome: Any = await call(providers())
            except Exception as error:
                outcome = error
        return outcome, loop.time() * 1000.0, injector

    return run_virtual(main)


# ── what each fault does to a call ──────────────────────────────────────────────────────────


@each_method
@pytest.mark.parametrize(
    ("fault_type", "options", "code", "after_ms"),
    [
        (FaultType.TIMEOUT, {"duration_ms": 5000}, "operation_timeout", 5000),
        (FaultType.ERROR, {"message": "Service unavailable"}, "service_unavailable", 0),
        (FaultType.DISCONNECT, {}, "connection_failed", 0),
        (FaultType.DISCONNECT, {"after_call": True}, "connection_failed", TOOK_MS),
    ],
)
def test_a_call_fails_as_with_a_real_provider(
    method: str, fault_type: FaultType, options: dict[str, Any], code: str, after_ms: float
) -> None:
    """Faults raise what means itself: the classification alone makes sense of it, in its time."""
    error, took_ms, injector = played(method, fault_type, **options)
    assert classify(error).code == code
    assert str(options.get("message", "")) in str(error)
    assert took_ms == pytest.approx(0 if method == "find" and after_ms == TOOK_MS else after_ms)
    assert (injector.calls, injector.injected) == (1, 1)


@pytest.mark.parametrize("method", ["complete", "stream", "transcribe", "synthesize"])
@pytest.mark.parametrize("retry_after_s", [0.5, 7, None])
def test_rate_limit_names_the_time_to_wait(method: str, retry_after_s: float | None) -> None:
    """A 429 carries its Retry-After, or none if it is told to."""
    error, took_ms, _ = played(method, FaultType.RATE_LIMITED, retry_after_s=retry_after_s)
    failure = classify(error)
    assert (failure.code, failure.retry_after_s) == ("rate_limited", retry_after_s)
    assert took_ms == 0


@each_method
def test_slow_is_right_but_late(method: str) -> None:
    """A slow call gives what the provider gives, by so much later."""
    healthy, took_ms, _ = played(method, FaultType.SLOW, duration_ms=0)
    slow, slow_ms, injector = played(method, FaultType.SLOW, duration_ms=2500)
    assert slow == healthy
    assert slow_ms - took_ms == pytest.approx(2500)
    assert injector.injected == 1


@each_method
def test_stall_never_answers(method: str) -> None:
    """A stalled call is still waiting when the patience of any reader is at its end."""

    async def main() -> int:
        provider, call = CALLS[method]
        with inject_fault(provider, FaultType.STALL) as injector, pytest.raises(TimeoutError):
            async with asyncio.timeout(1_000_000):
                await call(providers())
        return injector.injected

    assert run_virtual(main) == 1


def timed_pieces(
    fault_type: FaultType, limit_s: float = 60.0, **options: Any
) -> tuple[list[Any], str]:
    """What a reader has of a stream when it breaks, ends, or the reader's patience does."""

    async def main() -> tuple[list[Any], str]:
        got: list[Any] = []
        with inject_fault("llm", fault_type, **options):
            try:
                async with asyncio.timeout(limit_s):
                    await gathered(providers().llm.stream(QUESTION), got)
            except (TimeoutError, ConnectionResetError) as error:
                return got, type(error).__name__
        return got, "end"

    return run_virtual(main)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_streams_stall_and_break_midway(count: int) -> None:
    """A stalled stream stays silent after its first pieces, and one that is cut breaks there."""
    stalled = timed_pieces(FaultType.STALL, after_pieces=count)
    assert stalled == (PIECES[:count], "TimeoutError")
    assert timed_pieces(FaultType.CUT, after_pieces=count) == (
        PIECES[:count],
        "ConnectionResetError",
    )


def test_a_stream_breaks_where_it_should_end() -> None:
    """A connection that is lost after the call takes the end of a stream, not its pieces."""
    assert timed_pieces(FaultType.DISCONNECT, after_call=True) == (PIECES, "ConnectionResetError")


def test_heartbeats_are_nothing_useful() -> None:
    """A stalled stream with keep-alives gives empty pieces at their distance, and no word."""
    got, ended = timed_pieces(FaultType.STALL, 1.05, after_pieces=1, keepalive_ms=250)
    # The first piece comes after 20 ms; 1,030 ms are left.
    assert (got, ended) == (["You ", "", "", "", ""], "TimeoutError")


def test_cut_loses_an_answer_in_one_piece_after_the_work() -> None:
    """Where there is no stream to cut, the work is done and the answer lost."""
    error, took_ms, _ = played("complete", FaultType.CUT)
    assert isinstance(error, ConnectionResetError)
    assert took_ms == TOOK_MS


@pytest.mark.parametrize(
    ("method", "empty"),
    [
        ("complete", ""),
        ("stream", []),
        ("transcribe", ""),
        ("synthesize", Audio(b"")),
        ("get", None),
    ],
)
def test_empty_replies(method: str, empty: Any) -> None:
    """Each port has its own way to answer with nothing."""
    assert played(method, FaultType.EMPTY)[0] == empty


@pytest.mark.parametrize(
    ("method", "right"),
    [("complete", str), ("transcribe", str), ("synthesize", Audio), ("get", dict)],
)
def test_invalid_replies_are_of_a_wrong_sort(method: str, right: type) -> None:
    """A malformed reply is of another type, or sound torn in the middle of a sample."""
    reply = played(method, FaultType.INVALID)[0]
    if isinstance(reply, Audio):
        assert len(reply.pcm) % 2 == 1
    else:
        assert not isinstance(reply, right)
    assert played("stream", FaultType.INVALID)[0] == [None]


def test_what_a_reply_cannot_replace_is_left_alone() -> None:
    """A write has no answer to be empty: it is made, and not counted as injected."""

    async def main() -> None:
        registry = providers()
        with inject_fault("db", FaultType.EMPTY) as db:
            await registry.db.put("c", "k", {"v": 2})
            assert await registry.db.get("c", "k") is None
        assert (db.calls, db.injected) == (2, 1)
        assert await registry.db.get("c", "k") == {"v": 2}

    run_virtual(main)


@pytest.mark.parametrize("exception", [KeyError("mine"), lambda: KeyError("mine")])
def test_exception_of_ones_own(exception: Any) -> None:
    """ERROR raises whatever exception it is given, or makes."""
    error = played("find", FaultType.ERROR, exception=exception)[0]
    assert isinstance(error, KeyError)
    assert error.args == ("mine",)


def test_errors_carry_the_code_that_they_are_given() -> None:
    """The status or the SQLSTATE of an error decides what it means."""
    rejected = played("complete", FaultType.ERROR, status_code=401)[0]
    assert classify(rejected).code == "credentials_rejected"
    locked = played("put", FaultType.ERROR, sqlstate="55P03")[0]
    assert classify(locked).code == "database_busy"


# ── now and then ────────────────────────────────────────────────────────────────────────────


def failures(count: int, **options: Any) -> str:
    """Of so many calls, which failed, as a string of F and dots."""

    async def main() -> str:
        registry, marks = providers(), ""
        with inject_fault("llm", FaultType.INTERMITTENT, **options) as llm:
            for _ in range(count):
                try:
                    await registry.llm.complete(QUESTION)
                    marks += "."
                except Exception as error:
                    marks += {"service_unavailable": "F"}[classify(error).code]
        assert (llm.calls, llm.injected) == (count, marks.count("F"))
        return marks

    return run_virtual(main)


@pytest.mark.parametrize("script", ["fail, fail, ok", ["fail", "fail", "ok"]])
def test_a_script_is_followed_and_then_all_is_well(script: Any) -> None:
    """A script says of each call whether it fails; beyond its end none does."""
    assert failures(5, script=script) == "FF..."
    assert failures(4, script="ok,fail") == ".F.."


def test_a_seed_repeats_and_probabilities_hold() -> None:
    """The same seed fails the same calls, another seed others, and about the share asked for."""
    drawn = failures(400, probability=0.3, seed=1)
    assert drawn == failures(400, probability=0.3, seed=1)
    assert drawn != failures(400, probability=0.3, seed=2)
    # Five standard deviations of a binomial distribution with n = 400, p = 0.3.
    assert abs(drawn.count("F") - 120) < 5 * (400 * 0.3 * 0.7) ** 0.5
    assert failures(20, probability=0) == "." * 20
    assert failures(20, probability=1) == "F" * 20


def test_any_fault_may_come_and_go() -> None:
    """INTERMITTENT injects the fault that it is told, with that fault's own options."""

    async def main() -> float:
        registry = providers()
        options = {"fault": FaultType.SLOW, "duration_ms": 900, "script": "fail, ok, fail"}
        with inject_fault("llm", FaultType.INTERMITTENT, **options):
            for _ in range(3):
                await registry.llm.complete(QUESTION)
        return asyncio.get_running_loop().time() * 1000.0

    assert run_virtual(main) == pytest.approx(2 * 900 + 3 * TOOK_MS)


# ── to which calls, and for how long ────────────────────────────────────────────────────────


async def answer(registry: ProviderRegistry) -> str:
    """What the model says, or the code of its failure."""
    try:
        return await registry.llm.complete(QUESTION)
    except Exception as error:
        return classify(error).code


HEALTHY = "".join(["You ", "said: ", "one two three"])


def in_virtual_time(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Run an async test on a loop of virtual time."""

    def run() -> None:
        run_virtual(test)

    run.__doc__ = test.__doc__
    return run


@in_virtual_time
async def test_the_inner_fault_wins_and_the_outer_returns() -> None:
    """The inner fault holds alone until its block is left; then the outer one is back."""
    registry = providers()
    with inject_fault("llm", FaultType.ERROR) as outer:
        assert await answer(registry) == "service_unavailable"
        async with inject_fault("llm", FaultType.DISCONNECT) as inner:
            assert await answer(registry) == "connection_failed"
            with inject_fault("llm", FaultType.SLOW, duration_ms=1):
                assert await answer(registry) == HEALTHY
            assert await answer(registry) == "connection_failed"
        assert await answer(registry) == "service_unavailable"
        with inject_fault("stt", FaultType.ERROR):
            assert await answer(registry) == "service_unavailable"
    assert await answer(registry) == HEALTHY
    assert (outer.injected, inner.injected) == (3, 2)


@in_virtual_time
async def test_a_block_restores_however_it_is_left() -> None:
    """A body that raises, or is cancelled, leaves the provider as it was."""
    registry = providers()
    with pytest.raises(ZeroDivisionError), inject_fault("llm", FaultType.ERROR):
        raise ZeroDivisionError
    assert await answer(registry) == HEALTHY

    async def stalled() -> str:
        try:
            async with inject_fault("llm", FaultType.STALL):
                return await answer(registry)
        finally:
            assert await answer(registry) == HEALTHY

    task = asyncio.create_task(stalled())
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await answer(registry) == HEALTHY


@in_virtual_time
async def test_tasks_side_by_side_do_not_disturb_each_other() -> None:
    """Two tasks at once each meet their own fault, and a third none."""
    registry = providers()

    async def under(fault_type: FaultType) -> str:
        with inject_fault("llm", fault_type):
            await asyncio.sleep(0.01)
            return await answer(registry)

    heard = await asyncio.gather(
        under(FaultType.ERROR), under(FaultType.DISCONNECT), answer(registry)
    )
    assert list(heard) == ["service_unavailable", "connection_failed", HEALTHY]


@in_virtual_time
async def test_a_task_that_outlives_the_block_is_restored_too() -> None:
    """A task that a block has started meets the fault, but no longer once the block is left."""
    registry = providers()
    heard: list[str] = []

    async def ask_twice() -> None:
        held = registry.llm
        heard.append(await answer(registry))
        await asyncio.sleep(1)
        heard.append(await answer(registry))
        heard.append(await held.complete(QUESTION))

    with inject_fault("llm", FaultType.ERROR) as llm:
        task = asyncio.create_task(ask_twice())
        await asyncio.sleep(0.5)
    await task
    assert heard == ["service_unavailable", HEALTHY, HEALTHY]
    assert llm.calls == 1


@in_virtual_time
async def test_a_task_that_outlives_the_inner_block_meets_the_outer_fault() -> None:
    """To a task from an inner block that is left, the outer block's fault is back as to others."""
    registry = providers()

    async def ask_later() -> str:
        await asyncio.sleep(1)
        return await answer(registry)

    with inject_fault("llm", FaultType.ERROR):
        with inject_fault("llm", FaultType.DISCONNECT):
            task = asyncio.create_task(ask_later())
        assert await task == "service_unavailable"


@in_virtual_time
async def test_a_block_leaves_nothing_behind() -> None:
    """Once its block is left nothing holds on to an injector."""
    injector = inject_fault("llm", FaultType.ERROR)
    with injector:
        await answer(providers())
    kept = weakref.ref(injector)
    del injector
    gc.collect()
    assert kept() is None


@in_virtual_time
async def test_a_call_that_never_begins_is_no_call() -> None:
    """A call that is cancelled before it begins is not counted, and reaches nobody."""
    search = Search()
    with inject_fault("search", FaultType.SLOW) as injector:
        task = asyncio.create_task(ProviderRegistry(search=search)["search"].find("x"))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    gc.collect()  # what was made and never awaited would warn here, and warnings are errors
    assert injector.calls == 0


@in_virtual_time
async def test_any_async_method_of_any_provider_is_met() -> None:
    """Of a provider that fits no port, everything asynchronous is met, and nothing else."""
    search = Search()
    registry = ProviderRegistry(search=search, ask=search.find)
    with inject_fault("search", FaultType.ERROR, status_code=500) as injector:
        faulty = registry["search"]
        for call in (faulty.find("x"), faulty.later("x"), gathered(faulty.pages(), [])):
            with pytest.raises(Exception, match="'search' is out of order"):
                await call
        assert faulty.names() == ["find"]
        assert faulty.ranking == "by date"
        assert not hasattr(faulty, "nothing")
        assert (injector.calls, injector.injected) == (3, 3)
    with inject_fault("ask", FaultType.INVALID, reply=5):
        assert await registry["ask"]("x") == 5
    with inject_fault("search", FaultType.INVALID, reply=["a", "b"]):
        assert await gathered(registry["search"].pages(), []) == ["a", "b"]
    with inject_fault("search", FaultType.SLOW, duration_ms=0):
        assert await registry["search"].later("x") == ["x"]
    assert await registry["search"].find("x") == ["x"]


@in_virtual_time
async def test_closing_a_stream_early_closes_the_real_one() -> None:
    """A reader that stops early closes the provider's own stream, through any fault."""
    search = Search()
    registry = ProviderRegistry(search=search)
    faults: list[tuple[FaultType, dict[str, Any]]] = [
        (FaultType.SLOW, {}),
        (FaultType.CUT, {"after_pieces": 2}),
        (FaultType.STALL, {"after_pieces": 2}),
        (FaultType.DISCONNECT, {"after_call": True}),
    ]
    for fault_type, options in faults:
        before = search.closed
        with inject_fault("search", fault_type, **options):
            pages = registry["search"].pages()
            assert await anext(pages) == "first"
            await pages.aclose()
        assert search.closed == before + 1, fault_type


@in_virtual_time
async def test_a_provider_of_two_may_fail() -> None:
    """An injector can be put around a provider by hand; it strikes while its block is entered."""
    injector = inject_fault("llm", FaultType.ERROR)
    registry = ProviderRegistry(llm=injector.around(FakeLLM("first")), other=FakeLLM("second"))
    assert await answer(registry) == "first"
    with injector:
        assert await answer(registry) == "service_unavailable"
        assert await registry["other"].complete(QUESTION) == "second"
    assert await answer(registry) == "first"
    assert (injector.calls, injector.injected) == (1, 1)


@in_virtual_time
async def test_other_adapters_keep_their_place() -> None:
    """An adapter of another kind that stands between two faults is kept."""
    seen: list[str] = []

    class Listening:
        def __init__(self, llm: Any) -> None:
            self.llm = llm

        async def complete(self, messages: Any) -> str:
            seen.append("asked")
            said: str = await self.llm.complete(messages)
            return said

    registry = providers()
    with (
        inject_fault("llm", FaultType.ERROR),
        adapted("llm", Listening),
        inject_fault("llm", FaultType.SLOW),
    ):
        assert await answer(registry) == "service_unavailable"
    assert seen == ["asked"]


def test_a_block_cannot_be_entered_twice() -> None:
    """An injector counts for one block at a time; a second entrance says what to do."""
    injector = inject_fault("llm", FaultType.ERROR)
    with injector, pytest.raises(InvalidConfigError, match="an injector for each block"):
        injector.__enter__()
    with injector:
        pass


# ── what fits ───────────────────────────────────────────────────────────────────────────────

ALL = set(FaultType)


@pytest.mark.parametrize(
    ("injector", "name", "unfit"),
    [
        (LlmFaultInjector, "llm", set()),
        (SttFaultInjector, "stt", {FaultType.CUT}),
        (TtsFaultInjector, "tts", {FaultType.CUT}),
        (DbFaultInjector, "db", {FaultType.CUT, FaultType.RATE_LIMITED}),
        (
            SpeakerFaultInjector,
            "speaker",
            {FaultType.CUT, FaultType.RATE_LIMITED, FaultType.EMPTY, FaultType.INVALID},
        ),
    ],
)
def test_each_port_takes_the_faults_that_fit(
    injector: Callable[..., FaultInjector], name: str, unfit: set[FaultType]
) -> None:
    """A fault fits, by value as well as by name, or is refused at once with those that do."""
    for fault_type in ALL - unfit:
        elsewhere = injector(fault_type, provider="other")
        assert elsewhere.provider == "other"
        made = inject_fault(name, str(fault_type))
        assert type(made) is injector
        assert (made.provider, made.fault_type) == (name, fault_type)
    for fault_type in unfit:
        with pytest.raises(InvalidConfigError, match="choose among timeout, error"):
            inject_fault(name, fault_type)
        with pytest.raises(InvalidConfigError, match="choose among timeout, error"):
            inject_fault(name, FaultType.INTERMITTENT, fault=fault_type)


@pytest.mark.parametrize(
    ("name", "fault_type", "options", "mend"),
    [
        ("llm", "timeuot", {}, "did you mean 'timeout'"),
        ("llm", "zzz", {}, "give one of timeout, error"),
        ("llm", None, {}, "give one of"),
        ("", "error", {}, "the name that it is registered as"),
        ("llm", "timeout", {"duration": 5}, "did you mean 'duration_ms'"),
        ("llm", "error", {"zzz": 5}, "options that fit are message, status_code, exception"),
        ("llm", "timeout", {"duration_ms": -1}, "a number of milliseconds, 0 or more"),
        ("llm", "timeout", {"duration_ms": True}, "a number of milliseconds, 0 or more"),
        ("llm", "slow", {"duration_ms": float("inf")}, "a number of milliseconds"),
        ("llm", "slow", {"duration_ms": "5"}, "a number of milliseconds"),
        ("llm", "stall", {"after_pieces": -1}, "an integer, 0 or more"),
        ("llm", "stall", {"keepalive_ms": 0}, "a positive number"),
        ("llm", "cut", {"after_pieces": 1.5}, "an integer, 0 or more"),
        ("llm", "rate_limited", {"retry_after_s": -1}, "a number of seconds"),
        ("llm", "disconnect", {"after_call": 1}, "True or False"),
        ("llm", "error", {"message": 5}, "a string"),
        ("llm", "error", {"status_code": 200}, "from 400 to 599"),
        ("llm", "error", {"exception": 5}, "an exception, or its class"),
        ("llm", "error", {"exception": KeyError(), "message": "m"}, "leave it out"),
        ("llm", "error", {"sqlstate": "57P01"}, "the options that fit are"),
        ("db", "error", {"status_code": 500}, "a database has none"),
        ("db", "error", {"sqlstate": "x"}, "five characters"),
        ("db", "error", {"exception": KeyError(), "sqlstate": "57P01"}, "leave it out"),
        ("search", "empty", {}, "reply=…"),
        ("llm", "intermittent", {"probability": 2}, "a share from 0 to 1"),
        ("llm", "intermittent", {"probability": True}, "a share from 0 to 1"),
        ("llm", "intermittent", {"seed": 1.5}, "an integer or a string"),
        ("llm", "intermittent", {"script": "fail, perhaps"}, "'fail' and 'ok'"),
        ("llm", "intermittent", {"script": []}, "no word"),
        ("llm", "intermittent", {"script": "ok", "probability": 1}, "the script decides"),
        ("llm", "intermittent", {"fault": "intermittent"}, "that comes and goes"),
        ("llm", "intermittent", {"probabilty": 1}, "did you mean 'probability'"),
        ("llm", "intermittent", {"fault": "slow", "message": "m"}, "options that fit are duration"),
    ],
)
def test_what_does_not_fit_is_refused_at_once(
    name: str, fault_type: Any, options: dict[str, Any], mend: str
) -> None:
    """An option that does not fit raises where it is given, and says what would."""
    with pytest.raises(InvalidConfigError) as caught:
        inject_fault(name, fault_type, **options)
    assert mend in str(caught.value)


def test_an_injector_shows_what_it_does() -> None:
    """Provider and fault stand in an injector's own name, and in a faulty provider's."""
    injector = inject_fault("llm", FaultType.STALL)
    assert repr(injector) == "LlmFaultInjector('llm', 'stall')"
    with injector:
        assert repr(injector) in repr(ProviderRegistry(llm=FakeLLM()).llm)
