"""Turns over real sockets: an HTTP service behind a proxy that breaks connections.

Here alone time is real, as no fake shows what a half-open connection does. Limits are short, and
a test asserts bounds that a slow machine keeps too.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx
import pytest

from stageflow import (
    Interceptor,
    Pipeline,
    PipelineContext,
    PipelineOrchestrator,
    RunResult,
    RunStatus,
    StageContext,
    StageOutput,
    StageSpec,
    TimeoutInterceptor,
)
from stageflow.interceptors import BreakerInterceptor, RetryInterceptor, RetryPolicy
from stageflow.providers import LLM, FakeLLM, Fallback, IdleTimeout, Message, ProviderRegistry
from stageflow.resilience import BreakerPolicy, BreakerRegistry
from tests.utils.descriptors import open_descriptors
from tests.utils.http_llm import HttpLLM
from tests.utils.llm_server import LlmServer, Reply
from tests.utils.toxic_proxy import Ending, ToxicProxy, Toxics

TEXT = "one two three four five"

#: How long anything here may take that is to end in time, on however slow a machine, in seconds.
BOUND_S = 30.0
TIMEOUT_S = 0.2

TWICE = RetryInterceptor(RetryPolicy(attempts=2, base_delay_s=0.001))

#: In the middle of the answer: its head has about 70 bytes, all of it about 190.
MIDWAY_BYTES = 120

CUT = Toxics(ending=Ending.CUT, after_bytes=MIDWAY_BYTES)
RESET = Toxics(ending=Ending.RESET, after_bytes=MIDWAY_BYTES)
STUCK = Toxics(ending=Ending.BLACK_HOLE, after_bytes=MIDWAY_BYTES)
HALF_OPEN = Toxics(ending=Ending.HALF_OPEN, after_bytes=MIDWAY_BYTES)
CLOSED_AT_ONCE = Toxics(ending=Ending.CUT)
BLACK_HOLE = Toxics(ending=Ending.BLACK_HOLE)
TOO_LATE = Toxics(latency_s=30.0)
TRICKLE = Toxics(bandwidth_bytes_per_s=20.0)

#: What becomes of a turn without any help but a time limit.
PLAIN = {
    CUT: "connection_failed",
    RESET: "connection_failed",
    CLOSED_AT_ONCE: "connection_failed",
    STUCK: "stage_timeout",
    HALF_OPEN: "stage_timeout",
    BLACK_HOLE: "stage_timeout",
    TOO_LATE: "stage_timeout",
    TRICKLE: "stage_timeout",
}
NAMES = ("cut", "reset", "closed at once", "stuck", "half open", "black hole", "late", "trickle")
each_toxic = pytest.mark.parametrize("toxics", PLAIN, ids=NAMES)
each_way = pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])


@dataclass
class World:
    """A service, the proxy before it, and a provider that calls it through the proxy."""

    server: LlmServer
    proxy: ToxicProxy
    llm: HttpLLM

    async def turn(
        self,
        *interceptors: Interceptor,
        llm: LLM | None = None,
        timeout_s: float | None = BOUND_S,
        streamed: bool = False,
    ) -> RunResult:
        """One turn; with `llm`, that provider is called in place of the world's own."""
        spec = StageSpec(
            "llm",
            _stream if streamed else _complete,
            outputs=("answer",),
            timeout_s=timeout_s,
            provider="llm",
        )
        graph = Pipeline("turn", [spec]).build()
        ctx = PipelineContext(providers=ProviderRegistry(llm=llm or self.llm))
        return await PipelineOrchestrator(graph, interceptors=interceptors).run(ctx)


async def _complete(ctx: StageContext) -> StageOutput:
    return StageOutput.ok(answer=await ctx.llm.complete([Message("user", TEXT)]))


async def _stream(ctx: StageContext) -> StageOutput:
    pieces = [piece async for piece in ctx.llm.stream([Message("user", TEXT)])]
    return StageOutput.ok(answer="".join(pieces))


@asynccontextmanager
async def opened() -> AsyncIterator[World]:
    """A world that, once closed, has left no task and no descriptor behind."""
    descriptors = open_descriptors()
    async with (
        LlmServer() as server,
        ToxicProxy(server.connect) as proxy,
        HttpLLM(proxy.port) as llm,
    ):
        yield World(server, proxy, llm)
    # A transport closes its socket one turn of the loop after the call.
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert open_descriptors() == descriptors


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """A healthy world, and the check that nothing of it is left behind."""
    async with opened() as world:
        yield world


def code_of(result: RunResult) -> str | None:
    """Why a run failed."""
    return None if result.failure is None else result.failure.code


def happened(result: RunResult, what: str) -> int:
    """How many events of that kind a run has."""
    return sum(event.what == what for event in result.events)


@asynccontextmanager
async def in_time() -> AsyncIterator[None]:
    """Require that the block ends soon."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began < BOUND_S


@each_way
async def test_a_healthy_connection_carries_many_turns(world: World, streamed: bool) -> None:
    """Without toxics each turn is answered, and all of them share one connection."""
    turns = [await world.turn(streamed=streamed) for _ in range(5)]
    assert [turn.outputs["answer"] for turn in turns] == [TEXT] * 5
    assert world.proxy.accepted == 1


@each_way
async def test_latency_that_can_be_borne_is_only_slow(world: World, streamed: bool) -> None:
    """A late answer is complete if it is in time."""
    world.proxy.toxics = Toxics(latency_s=0.02)
    turn = await world.turn(streamed=streamed)
    assert turn.outputs["answer"] == TEXT
    assert turn.duration_ms >= 20


@each_way
@each_toxic
async def test_every_toxic_ends_a_turn_in_time(
    world: World, toxics: Toxics, streamed: bool
) -> None:
    """With a time limit alone a turn fails, as what it is, when the limit is up at the latest."""
    world.proxy.toxics = toxics
    # What fails by itself has all the time that it wants.
    timeout_s = TIMEOUT_S if PLAIN[toxics] == "stage_timeout" else BOUND_S
    async with in_time():
        turn = await world.turn(streamed=streamed, timeout_s=timeout_s)
    assert code_of(turn) == PLAIN[toxics]
    assert turn.status is RunStatus.FAILED
    assert turn.failure is not None
    assert turn.failure.retryable


@each_way
@each_toxic
async def test_a_retry_gets_over_every_toxic(world: World, toxics: Toxics, streamed: bool) -> None:
    """With a limit for each attempt, the second one is made on a connection of its own."""
    world.proxy.script.append(toxics)
    async with in_time():
        turn = await world.turn(TWICE, TimeoutInterceptor(TIMEOUT_S), streamed=streamed)
    assert turn.unwrap() == {"answer": TEXT}
    assert happened(turn, "retrying") == 1
    assert world.proxy.accepted == 2


@each_toxic
async def test_a_fallback_answers_through_every_toxic(world: World, toxics: Toxics) -> None:
    """IdleTimeout and with a fallback, a turn over a bad connection is answered by the other."""
    world.proxy.toxics = toxics
    llm = Fallback(
        IdleTimeout(world.llm, TIMEOUT_S, complete_by_stream=False), FakeLLM("from here")
    )
    async with in_time():
        turn = await world.turn(llm=llm)
    assert turn.unwrap() == {"answer": "from here"}


@each_toxic
async def test_a_cancelled_turn_lets_go_of_its_connection(world: World, toxics: Toxics) -> None:
    """Cancelled while it is on the wire, a turn ends, and the next one is not hurt."""
    world.proxy.script.append(toxics)
    turn = asyncio.ensure_future(world.turn(timeout_s=None))
    await world.proxy.reached.wait()
    turn.cancel()
    with pytest.raises(asyncio.CancelledError):
        await turn
    world.proxy.script.clear()
    assert (await world.turn(timeout_s=BOUND_S)).unwrap() == {"answer": TEXT}


async def test_a_connection_whose_server_vanished_fails_when_it_is_next_used(world: World) -> None:
    """A half-open connection looks alive; a turn on it fails as lost, and a retry opens another."""
    assert (await world.turn()).status is RunStatus.COMPLETED
    world.proxy.abandon_open()
    assert code_of(await world.turn()) == "connection_failed"
    assert (await world.turn()).status is RunStatus.COMPLETED
    world.proxy.abandon_open()
    turn = await world.turn(TWICE)
    assert turn.unwrap() == {"answer": TEXT}
    assert happened(turn, "retrying") == 1


async def test_a_stream_that_was_cut_after_pieces_is_not_begun_anew_elsewhere(
    world: World,
) -> None:
    """The fallback gets no call once pieces of the answer have come."""
    world.proxy.toxics = Toxics(ending=Ending.CUT, after_bytes=300)
    llm = Fallback(IdleTimeout(world.llm, TIMEOUT_S), FakeLLM("from here"))
    said: list[str] = []

    async def listen() -> None:
        async for piece in llm.stream([Message("user", TEXT)]):
            said.append(piece)  # noqa: PERF401

    with pytest.raises(httpx.RemoteProtocolError, match="closed connection"):
        await listen()
    assert 0 < len("".join(said)) < len(TEXT)
    assert TEXT.startswith("".join(said))


async def test_a_service_that_names_a_time_to_wait_is_given_it(world: World) -> None:
    """A 429 with Retry-After is retried, and not before."""
    world.server.script.append(Reply(429, {"Retry-After": "0.06"}))
    turn = await world.turn(TWICE)
    assert turn.unwrap() == {"answer": TEXT}
    assert turn.duration_ms >= 60
    assert [e.data["error_code"] for e in turn.events if e.what == "retrying"] == ["rate_limited"]


@each_way
@pytest.mark.parametrize(
    ("reply", "code", "requests"),
    [
        (Reply(429), "rate_limited", 2),
        (Reply(500), "service_unavailable", 2),
        (Reply(404), "request_rejected", 1),
        (Reply(body='{"choices": ['), "invalid_reply", 2),
        (Reply(body='{"choices": []}'), "invalid_reply", 2),
        (Reply(body="<html>Bad Gateway</html>"), "invalid_reply", 2),
    ],
    ids=["429", "500", "404", "torn JSON", "no choice", "HTML"],
)
async def test_a_bad_answer_is_retried_if_that_may_help(
    world: World, reply: Reply, code: str, requests: int, streamed: bool
) -> None:
    """Each bad answer has its code, and only faults that may pass are retried."""
    world.server.script.extend([reply, reply])
    turn = await world.turn(TWICE, streamed=streamed)
    assert code_of(turn) == code
    assert len(world.server.requests) == requests


async def test_a_stream_that_stalls_has_made_no_progress(world: World) -> None:
    """A service that opens a stream and falls silent fails as that, not as dead air."""
    world.server.script.append(Reply(stall_after_pieces=2))
    async with in_time():
        turn = await world.turn(
            llm=IdleTimeout(world.llm, TIMEOUT_S), timeout_s=30.0, streamed=True
        )
    assert code_of(turn) == "no_progress"


async def test_a_slow_stream_that_goes_on_is_not_given_up(world: World) -> None:
    """A stream may take longer than its timers waits, as long as pieces come."""
    world.server.script.append(Reply(piece_pause_s=0.06))
    turn = await world.turn(llm=IdleTimeout(world.llm, 0.25), timeout_s=30.0, streamed=True)
    assert turn.unwrap() == {"answer": TEXT}
    assert turn.duration_ms > 250


async def test_an_open_breaker_spares_the_service_and_lets_a_probe_find_it_healthy(
    world: World,
) -> None:
    """After two failures no connection is made, until the cool-down; then a turn is answered."""
    world.proxy.toxics = CLOSED_AT_ONCE
    policy = BreakerPolicy(failures=2, cooldown_s=0.1)
    breaker = BreakerInterceptor(BreakerRegistry(policy))
    codes = [code_of(await world.turn(breaker)) for _ in range(4)]
    assert codes == ["connection_failed"] * 2 + ["circuit_open"] * 2
    assert world.proxy.accepted == 2
    world.proxy.toxics = Toxics()
    await asyncio.sleep(policy.cooldown_s)
    assert (await world.turn(breaker)).unwrap() == {"answer": TEXT}
    assert world.proxy.accepted == 3


async def test_a_service_that_is_down_is_refused_and_comes_back() -> None:
    """A turn whose service does not listen fails as lost."""
    async with LlmServer() as server:
        port = server.port
    spec = World(server, ToxicProxy(server.connect), HttpLLM(port))
    async with spec.llm:
        turn = await spec.turn()
    assert code_of(turn) == "connection_failed"


async def test_many_turns_over_bad_connections_leave_nothing_behind(world: World) -> None:
    """Forty turns at once over every toxic: each ends, and with retries each is answered."""
    world.proxy.script.extend(list(PLAIN) * 5)
    # Forty at once are slower than one, and slower still on a loaded machine.
    interceptors = (TWICE, TimeoutInterceptor(10 * TIMEOUT_S))
    async with in_time():
        turns = await asyncio.gather(*(world.turn(*interceptors) for _ in range(40)))
    assert {turn.status for turn in turns} == {RunStatus.COMPLETED}
    assert sum(happened(turn, "retrying") for turn in turns) == 40
