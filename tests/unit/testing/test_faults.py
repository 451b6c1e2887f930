"""The effect of each fault on a call, how often it comes, and which provider it fits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from stageflow import Audio, ProviderRegistry
from stageflow.errors import InvalidConfigError
from stageflow.providers import FakeLLM
from stageflow.resilience import classify
from stageflow.testing import (
    DbFaultInjector,
    FaultInjector,
    FaultType,
    LlmFaultInjector,
    SpeakerFaultInjector,
    SttFaultInjector,
    TtsFaultInjector,
    inject_fault,
)
from tests.utils.faulty import QUESTION, TOOK_MS, gathered, providers
from tests.utils.virtual_time import run_virtual

PIECES = ["You ", "said: ", "one ", "two ", "three"]

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
    """Return the result or exception of a call under a fault, after how many ms; the injector."""

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
    """A 429 carries its Retry-After, or none if so configured."""
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
@pytest.mark.simulate(order="asyncio")
async def test_stall_never_answers(method: str) -> None:
    """A stalled call is still waiting when the patience of any reader is at its end."""
    provider, call = CALLS[method]
    with inject_fault(provider, FaultType.STALL) as injector, pytest.raises(TimeoutError):
        async with asyncio.timeout(1_000_000):
            await call(providers())
    assert injector.injected == 1


def timed_pieces(
    fault_type: FaultType, limit_s: float = 60.0, **options: Any
) -> tuple[list[Any], str]:
    """Return the pieces that a reader gets before the stream breaks or ends, or patience does."""

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


@pytest.mark.simulate(order="asyncio")
async def test_what_a_reply_cannot_replace_is_left_alone() -> None:
    """A write has no answer to be empty: it is made, and not counted as injected."""
    registry = providers()
    with inject_fault("db", FaultType.EMPTY) as db:
        await registry.db.put("c", "k", {"v": 2})
        assert await registry.db.get("c", "k") is None
    assert (db.calls, db.injected) == (2, 1)
    assert await registry.db.get("c", "k") == {"v": 2}


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


@pytest.mark.simulate(order="asyncio")
async def test_any_fault_may_come_and_go() -> None:
    """INTERMITTENT injects the given fault, with that fault's own options."""
    registry = providers()
    options = {"fault": FaultType.SLOW, "duration_ms": 900, "script": "fail, ok, fail"}
    with inject_fault("llm", FaultType.INTERMITTENT, **options):
        for _ in range(3):
            await registry.llm.complete(QUESTION)
    assert asyncio.get_running_loop().time() * 1000.0 == pytest.approx(2 * 900 + 3 * TOOK_MS)


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
        said = rf"is '{fault_type}'; '{name}' cannot fail like that; choose among timeout, error"
        with pytest.raises(InvalidConfigError, match=f"fault_type {said}"):
            inject_fault(name, fault_type)
        with pytest.raises(InvalidConfigError, match=f"fault {said}"):
            inject_fault(name, FaultType.INTERMITTENT, fault=fault_type)


@pytest.mark.parametrize(
    ("name", "fault_type", "options", "fix"),
    [
        ("llm", "timeuot", {}, "did you mean 'timeout'"),
        ("llm", "zzz", {}, "give one of timeout, error"),
        ("llm", None, {}, "give one of"),
        ("", "error", {}, "provider is ''; give the name that it is registered as"),
        ("llm", "timeout", {"duration": 5}, "did you mean 'duration_ms'"),
        ("llm", "error", {"zzz": 5}, "options that fit are message, status_code, exception"),
        ("llm", "timeout", {"duration_ms": -1}, "a finite number of milliseconds, 0 or more"),
        ("llm", "timeout", {"duration_ms": True}, "a finite number of milliseconds, 0 or more"),
        ("llm", "slow", {"duration_ms": float("inf")}, "a finite number of milliseconds"),
        ("llm", "slow", {"duration_ms": "5"}, "a finite number of milliseconds"),
        ("llm", "stall", {"after_pieces": -1}, "an integer, 0 or more"),
        ("llm", "stall", {"keepalive_ms": 0}, "a positive number"),
        ("llm", "cut", {"after_pieces": 1.5}, "an integer, 0 or more"),
        ("llm", "rate_limited", {"retry_after_s": -1}, "a finite number of seconds"),
        ("llm", "disconnect", {"after_call": 1}, "give True or False"),
        ("llm", "disconnect", {"after_call": None}, "give True or False"),
        ("llm", "error", {"message": 5}, "a string"),
        ("llm", "error", {"status_code": 200}, "give an HTTP status from 400 to 599"),
        ("llm", "error", {"exception": 5}, "an exception, or its class"),
        ("llm", "error", {"exception": KeyError(), "message": "m"}, "leave it out"),
        ("llm", "error", {"sqlstate": "57P01"}, "the options that fit are"),
        ("db", "error", {"status_code": 500}, "a database has none"),
        ("db", "error", {"sqlstate": "x"}, "five characters"),
        ("db", "error", {"exception": KeyError(), "sqlstate": "57P01"}, "leave it out"),
        (
            "search",
            "empty",
            {},
            "fault EMPTY: reply is None; give the answer of 'search' as reply=…",
        ),
        ("search", "invalid", {}, "fault INVALID: reply is None; give the answer of 'search'"),
        ("search", "empty", {}, "LlmFaultInjector('empty', provider='search')"),
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
    name: str, fault_type: Any, options: dict[str, Any], fix: str
) -> None:
    """An option that does not fit raises where it is given, and says what would."""
    with pytest.raises(InvalidConfigError) as caught:
        inject_fault(name, fault_type, **options)
    assert fix in str(caught.value)
    owners = {f"fault {kind.name}" for kind in FaultType} | {"FaultInjector", "LlmFaultInjector"}
    error, fields = caught.value, {*options, "provider", "fault_type", "reply"}
    assert (error.owner in owners, error.field in fields) == (True, True)
    assert error.found == {"provider": name, "fault_type": fault_type, **options}.get(error.field)


def test_an_injector_shows_what_it_does() -> None:
    """Provider and fault stand in an injector's own name, and in a faulty provider's."""
    injector = inject_fault("llm", FaultType.STALL, allow_unused=True)
    assert repr(injector) == "LlmFaultInjector('llm', 'stall')"
    with injector:
        assert repr(injector) in repr(ProviderRegistry(llm=FakeLLM()).llm)
