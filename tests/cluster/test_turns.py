"""Turns between a dispatcher and workers, over a real broker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from redis.asyncio import Redis

from stageflow import (
    Audio,
    Message,
    Pipeline,
    ProviderRegistry,
    RunStatus,
    StageContext,
    StageOutput,
    StageSpec,
    stage,
)
from stageflow.cluster import Dispatcher, RedisBroker, Turn, TurnResult, Worker, remote_pipeline
from stageflow.cluster.broker import Address, Parcel
from stageflow.cluster.errors import (
    BrokerUnavailableError,
    ClusterError,
    IncompatiblePayloadError,
    KeyConflictError,
    MissingInputsError,
    NoWorkerError,
    PayloadTooLargeError,
    ProtocolMismatchError,
    QueueFullError,
    UnservedPipelineError,
)
from stageflow.cluster.turn import Card, Wire, encode_card
from stageflow.dlq.codec import DEFAULT_CODEC
from stageflow.dlq.store import InMemoryDeadLetterStore
from stageflow.errors import ChildRunError, InvalidConfigError
from stageflow.letter import DeadLetter, Unstorable
from tests.utils.redis_server import RedisServer


@dataclass
class Gate:
    """Where a stage waits until a test lets it go on, and what became of it."""

    entered: asyncio.Event
    go_on: asyncio.Event
    cleaned_up: asyncio.Event
    runs: list[tuple[str, str | None]]

    def registry(self) -> ProviderRegistry:
        """The gate as a provider."""
        return ProviderRegistry(gate=self)


@pytest.fixture
async def gate() -> Gate:
    """A gate that is shut."""
    return Gate(asyncio.Event(), asyncio.Event(), asyncio.Event(), [])


@stage(inputs=["value"], outputs=["echo"])
async def echo(ctx: StageContext) -> StageOutput:
    return StageOutput.ok(echo=ctx["value"])


@stage(outputs=["done"])
async def wait(ctx: StageContext) -> StageOutput:
    gate: Gate = ctx.provider("gate")
    gate.runs.append((ctx.pipeline_run_id, ctx.correlation_id))
    gate.entered.set()
    try:
        await gate.go_on.wait()
    finally:
        gate.cleaned_up.set()
    return StageOutput.ok(done=True)


@stage
async def refuse(ctx: StageContext) -> StageOutput:
    return StageOutput.fail("the shop is closed", retryable=True)


@stage(outputs=["thing"])
async def make_a_thing(ctx: StageContext) -> StageOutput:
    return StageOutput.ok(thing=object())


ECHO = Pipeline("echo", [echo], inputs=["value"])
WAIT = Pipeline("wait", [wait])
REFUSE = Pipeline("refuse", [refuse])
THING = Pipeline("thing", [make_a_thing])


class Cluster:
    """A broker, with whatever workers and dispatchers a test starts; all end with it."""

    def __init__(self, url: str, stack: AsyncExitStack) -> None:
        self.url = url
        self._stack = stack

    def broker(self, **options: Any) -> RedisBroker:
        """A client of the broker."""
        broker = RedisBroker(self.url, **options)
        self._stack.push_async_callback(broker.close)
        return broker

    async def dispatcher(self, **options: Any) -> Dispatcher:
        """A dispatcher with a connection of its own."""
        return await self._stack.enter_async_context(Dispatcher(self.broker(), **options))

    async def worker(self, *pipelines: Pipeline, **options: Any) -> Callable[[], Awaitable[None]]:
        """A worker that serves; what is returned stops it."""
        orchestrators = [pipeline.orchestrator for pipeline in pipelines]
        worker = Worker(orchestrators, self.broker(), **{"lease_s": 1.0, "drain_s": 5.0} | options)
        stop = asyncio.Event()
        serving = asyncio.create_task(worker.serve(stop))

        async def end() -> None:
            stop.set()
            await serving

        self._stack.push_async_callback(end)
        return end


@pytest.fixture
async def cluster(redis: RedisServer) -> AsyncIterator[Cluster]:
    """A broker that runs, without workers."""
    async with AsyncExitStack() as stack:
        yield Cluster(redis.url, stack)


VALUES = ["ü", 2**70, b"\0\xff", (1, [2.5, None]), {"$": 1}, {1, 2}, Message("user", "hi")]


async def test_inputs_and_outputs_cross_the_wire(cluster: Cluster) -> None:
    """Whatever a dead letter can hold arrives equal, in both directions, with its type."""
    await cluster.worker(ECHO)
    dispatcher = await cluster.dispatcher()
    value = [*VALUES, Audio(b"\1\0", 16_000)]
    result = await dispatcher.run("echo", {"value": value})
    assert result.unwrap() == {"echo": value}
    assert list(map(type, result.outputs["echo"])) == list(map(type, value))
    assert (result.status, result.deliveries, result.pipeline) == ("completed", 1, "echo")


async def test_only_outputs_that_are_wanted_come_back(cluster: Cluster) -> None:
    """None, if none is asked for."""
    await cluster.worker(ECHO)
    dispatcher = await cluster.dispatcher()
    assert (await dispatcher.run("echo", {"value": 1}, outputs=[])).outputs == {}


async def test_a_failure_keeps_what_a_caller_acts_on(cluster: Cluster) -> None:
    """Code, category, texts, stage and retryability; and the letter that it left is named."""
    letters = InMemoryDeadLetterStore()
    await cluster.worker(REFUSE, dead_letters=letters)
    result = await (await cluster.dispatcher()).run("refuse", key="k")
    failure = result.failure
    assert failure is not None
    assert (failure.code, failure.category, failure.stage) == (
        "stage_failed",
        "transient",
        "refuse",
    )
    assert failure.retryable
    assert str(failure) == "the shop is closed"
    (letter,) = await letters.letters()
    assert (letter.id, letter.correlation_id) == (result.dead_letter, "k")
    with pytest.raises(ClusterError, match="the shop is closed"):
        result.unwrap()


async def test_an_output_that_cannot_be_sent_is_described(cluster: Cluster) -> None:
    """The turn completes all the same."""
    await cluster.worker(THING)
    result = await (await cluster.dispatcher()).run("thing")
    assert isinstance(result.unwrap()["thing"], Unstorable)


async def test_a_key_that_is_sent_again_runs_once(cluster: Cluster, gate: Gate) -> None:
    """By two dispatchers, while it runs and afterwards: all are told the one end."""
    await cluster.worker(WAIT, providers=gate.registry())
    first, second = await cluster.dispatcher(), await cluster.dispatcher()
    early = [asyncio.create_task(by.run("wait", key="k")) for by in (first, first, second)]
    await gate.entered.wait()
    gate.go_on.set()
    ends = [*await asyncio.gather(*early), await second.run("wait", key="k")]
    assert len(gate.runs) == 1
    assert {(end.pipeline_run_id, end.key) for end in ends} == set(gate.runs)


async def test_the_run_of_a_key_has_the_same_id_each_time(cluster: Cluster, gate: Gate) -> None:
    """What a stage writes under it is written once, also by a worker that takes the turn over."""
    gate.go_on.set()
    end = await cluster.worker(WAIT, providers=gate.registry())
    await (await cluster.dispatcher()).run("wait", key="k")
    await end()
    client = Redis.from_url(cluster.url)
    await client.flushall()  # as if the turn had been forgotten: it is run a second time
    await client.aclose()
    await cluster.worker(WAIT, providers=gate.registry())
    await (await cluster.dispatcher()).run("wait", key="k")
    first, again = gate.runs
    assert first == again
    assert first[1] == "k"


async def test_a_cancelled_caller_cancels_the_run(cluster: Cluster, gate: Gate) -> None:
    """Its stage cleans up on the worker, and whoever asks for the key is told."""
    await cluster.worker(WAIT, providers=gate.registry())
    dispatcher = await cluster.dispatcher()
    running = asyncio.create_task(dispatcher.run("wait", key="k"))
    await gate.entered.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await gate.cleaned_up.wait()
    result = await dispatcher.run("wait", key="k")
    assert result.status == "cancelled"
    assert result.failure is not None
    assert result.failure.code == "turn_cancelled"


async def test_a_turn_that_waits_can_be_cancelled(cluster: Cluster, gate: Gate) -> None:
    """By its key, from anywhere; it is never begun."""
    await cluster.worker(WAIT, providers=gate.registry(), concurrency=1)
    dispatcher = await cluster.dispatcher()
    running = asyncio.create_task(dispatcher.run("wait", key="first"))
    await gate.entered.wait()
    waiting = asyncio.create_task(dispatcher.run("wait", key="second"))
    broker = cluster.broker()
    await until(lambda: broker.queued("default", "wait"), 2)
    await (await cluster.dispatcher()).cancel("second")
    gate.go_on.set()
    assert (await running).status == "completed"
    assert (await waiting).status == "cancelled"
    assert [key for _, key in gate.runs] == ["first"]


async def until(look: Callable[[], Awaitable[int]], value: int) -> None:
    """Return once what is looked at is `value`."""
    async with asyncio.timeout(20):
        while await look() != value:  # noqa: ASYNC110 - the broker tells nobody
            await asyncio.sleep(0)


async def test_a_deadline_ends_a_run_on_the_worker(cluster: Cluster, gate: Gate) -> None:
    """As in one process: its stages are cancelled, and the failure has the same code."""
    await cluster.worker(WAIT, providers=gate.registry())
    await until(lambda: _number_of(cluster.broker().cards()), 1)
    result = await (await cluster.dispatcher()).run("wait", deadline_s=0.5)
    assert result.failure is not None
    assert (result.status, result.failure.code) == ("failed", "deadline_exceeded")
    assert result.worker is not None
    assert gate.cleaned_up.is_set()


async def test_a_deadline_counts_while_a_turn_waits(cluster: Cluster, gate: Gate) -> None:
    """It is not begun once it is too late, and its sender is told in time if nobody takes it."""
    await cluster.worker(WAIT, providers=gate.registry(), concurrency=1)
    dispatcher = await cluster.dispatcher(grace_s=0.05)
    running = asyncio.create_task(dispatcher.run("wait", key="first"))
    await gate.entered.wait()
    result = await dispatcher.run("wait", key="second", deadline_s=0.05)
    assert result.failure is not None
    assert (result.failure.code, result.worker) == ("deadline_exceeded", None)
    gate.go_on.set()
    await running
    assert (await dispatcher.run("wait", key="second")).status == "failed"
    assert [key for _, key in gate.runs] == ["first"]


async def test_a_deadline_counts_while_a_worker_is_looked_for(cluster: Cluster) -> None:
    """Its sender is told when it has passed, however patient the dispatcher is; nothing is sent."""
    dispatcher = await cluster.dispatcher(worker_patience_s=10.0)
    result = await dispatcher.run("echo", {"value": 1}, deadline_s=0.05)
    assert result.failure is not None
    assert result.failure.code == "deadline_exceeded"
    assert await cluster.broker().queued("default", "echo") == 0


async def test_a_full_queue_takes_no_more(cluster: Cluster, gate: Gate) -> None:
    """The sender is told how many there are, and that it may try again."""
    await cluster.worker(WAIT, providers=gate.registry(), concurrency=1)
    dispatcher = await cluster.dispatcher(max_queued=2)
    running = [asyncio.create_task(dispatcher.run("wait")) for _ in range(2)]
    broker = cluster.broker()
    await until(lambda: broker.queued("default", "wait"), 2)
    with pytest.raises(QueueFullError, match="2 turns") as caught:
        await dispatcher.run("wait")
    assert caught.value.retryable
    gate.go_on.set()
    await asyncio.gather(*running)


async def test_a_dispatcher_lets_only_so_many_be_under_way(cluster: Cluster, gate: Gate) -> None:
    """Further ones wait in it, and are sent when one has ended."""
    await cluster.worker(WAIT, providers=gate.registry())
    dispatcher = await cluster.dispatcher(max_outstanding=2)
    running = [asyncio.create_task(dispatcher.run("wait")) for _ in range(5)]
    broker = cluster.broker()
    await until(lambda: broker.queued("default", "wait"), 2)
    assert len(gate.runs) <= 2
    late = await dispatcher.run("wait", key="late", deadline_s=0.05)
    assert late.failure is not None
    assert late.failure.code == "deadline_exceeded"
    gate.go_on.set()
    ends = await asyncio.gather(*running)
    assert [end.status for end in ends] == ["completed"] * 5


async def test_a_worker_takes_no_more_than_it_can_run(cluster: Cluster, gate: Gate) -> None:
    """What it does not take is there for another one."""
    await cluster.worker(WAIT, providers=gate.registry(), concurrency=2)
    dispatcher = await cluster.dispatcher()
    running = [asyncio.create_task(dispatcher.run("wait")) for _ in range(6)]
    broker = cluster.broker()
    await until(lambda: broker.queued("default", "wait"), 6)
    free = Gate(asyncio.Event(), asyncio.Event(), asyncio.Event(), [])
    free.go_on.set()
    await cluster.worker(WAIT, providers=free.registry())
    await until(lambda: broker.queued("default", "wait"), 2)
    assert (len(gate.runs), len(free.runs)) == (2, 4)
    gate.go_on.set()
    await asyncio.gather(*running)


async def test_a_worker_of_many_pipelines_takes_what_it_has_room_for(cluster: Cluster) -> None:
    """All of it from the one that is busy, at once; and not one more."""
    broker, addresses = cluster.broker(), [Address("default", f"p{n}") for n in range(6)]
    await broker.join("w", encode_card(Card(("default",), {})), addresses, ttl_s=60.0)
    for number in range(10):
        parcel = Parcel(f"k{number}", addresses[3], b"{}", "digest", None)
        await broker.submit(parcel, "sender", limit=100)
    for expected in (4, 4, 2):
        taken = await broker.take("w", addresses, count=4, wait_s=20.0)
        assert len(taken) == expected
        assert {one.address for one in taken} == {addresses[3]}
    assert await broker.take("w", addresses, count=4, wait_s=0.01) == []


async def test_turns_that_came_before_any_worker_are_taken(cluster: Cluster) -> None:
    """As after a loss of the broker's memory: whoever takes first finds no group of workers."""
    broker, addresses = cluster.broker(), [Address("default", "echo")]
    await broker.submit(Parcel("k", addresses[0], b"{}", "digest", None), "sender", limit=100)
    assert await broker.take("w", addresses, count=1, wait_s=0.01) == []
    (taken,) = await broker.take("w", addresses, count=1, wait_s=0.01)
    assert (taken.key, taken.body) == ("k", b"{}")


async def test_turns_go_to_workers_of_their_queue(cluster: Cluster) -> None:
    """One that needs a GPU is run by the worker that has it, whoever else is idle."""
    await cluster.worker(ECHO, name="plain")
    await cluster.worker(ECHO, name="gpu", queues=["gpu"])
    await cluster.worker(ECHO, name="both", queues=["other", "gpu2"])
    dispatcher = await cluster.dispatcher()
    queues = ["default", "gpu", "gpu2", "other"] * 5
    ends = await asyncio.gather(*(dispatcher.run("echo", {"value": q}, queue=q) for q in queues))
    ran = {(end.outputs["echo"], end.worker) for end in ends}
    assert ran == {("default", "plain"), ("gpu", "gpu"), ("gpu2", "both"), ("other", "both")}


async def test_a_stage_can_be_pinned_to_other_workers(cluster: Cluster) -> None:
    """The rest of its pipeline runs where it was sent; a failure there is the stage's."""
    hard = Pipeline("hard", [echo], inputs=["value"])
    await cluster.worker(hard, REFUSE, name="gpu", queues=["gpu"])
    there = remote_pipeline("there", "hard", queue="gpu", inputs=["value"], outputs=["echo"])
    whole = Pipeline("whole", [there], inputs=["value"])
    broken = Pipeline("broken", [remote_pipeline("there", "refuse", queue="gpu")])
    registry = ProviderRegistry(cluster=await cluster.dispatcher())
    await cluster.worker(whole, broken, providers=registry, name="cpu")
    dispatcher = await cluster.dispatcher()
    result = await dispatcher.run("whole", {"value": 7}, key="k")
    assert (result.worker, result.unwrap()) == ("cpu", {"echo": 7})
    counts = await cluster.broker().counts()
    assert counts == {"completed": 2}
    failed = await dispatcher.run("broken")
    assert failed.failure is not None
    assert failed.failure.code == ChildRunError.code
    assert "the shop is closed" in str(failed.failure)


# ── refusals ────────────────────────────────────────────────────────────────────────────────


REFUSALS: Iterable[tuple[dict[str, Any], type[ClusterError], str]] = [
    ({"pipeline": "ehco"}, UnservedPipelineError, "did you mean 'echo'"),
    ({"queue": "gpu"}, NoWorkerError, "stageflow worker echo --queue gpu"),
    ({"inputs": {}}, MissingInputsError, r"\['value'\]"),
    ({"inputs": {"value": [object()]}}, IncompatiblePayloadError, r"value\[0\] is of type"),
    ({"inputs": {"value": "x" * 2_000}}, PayloadTooLargeError, "1000 are allowed"),
]


@pytest.mark.parametrize(("wrong", "error", "says"), REFUSALS)
async def test_what_cannot_be_run_is_refused_before_it_is_sent(
    cluster: Cluster, wrong: dict[str, Any], error: type[ClusterError], says: str
) -> None:
    """With an error of its own kind, which names the mend; nothing is left in the broker."""
    await cluster.worker(ECHO)
    dispatcher = await cluster.dispatcher(worker_patience_s=0.5, max_payload_bytes=1_000)
    await dispatcher.run("echo", {"value": 1})
    with pytest.raises(error, match=says):
        await dispatcher.run(**{"pipeline": "echo", "inputs": {"value": 1}} | wrong)
    assert await cluster.broker().counts() == {"completed": 1}
    assert await cluster.broker().queued("default", "echo") == 0


async def test_a_key_of_another_turn_is_refused(cluster: Cluster) -> None:
    """The first turn's end stands."""
    await cluster.worker(ECHO)
    dispatcher = await cluster.dispatcher()
    await dispatcher.run("echo", {"value": 1}, key="k")
    with pytest.raises(KeyConflictError, match="'k'"):
        await dispatcher.run("echo", {"value": 2}, key="k")
    assert (await dispatcher.run("echo", {"value": 1}, key="k")).unwrap() == {"echo": 1}


async def test_a_worker_of_another_protocol_is_told_apart(cluster: Cluster) -> None:
    """A dispatcher sends it nothing, and says both versions."""
    card = encode_card(Card(("default",), {"echo": ("value",)}, protocol=99, version="9.9"))
    await cluster.broker().join("new", card, [Address("default", "echo")], ttl_s=60.0)
    dispatcher = await cluster.dispatcher(worker_patience_s=0.1)
    with pytest.raises(ProtocolMismatchError, match=r"stageflow 9\.9.*version 99.*version 1"):
        await dispatcher.run("echo", {"value": 1})


async def test_a_worker_that_says_nonsense_does_not_hinder_others(cluster: Cluster) -> None:
    """Turns go to those that can be understood."""
    await cluster.broker().join("odd", b"{", [Address("default", "echo")], ttl_s=60.0)
    await cluster.worker(ECHO)
    assert (await (await cluster.dispatcher()).run("echo", {"value": 1})).status == "completed"


BODIES = [
    (b'{"protocol": 99}', "protocol_mismatch"),
    (b"not JSON", "incompatible_payload"),
    (b'{"protocol": 1, "pipeline": "echo"}', "incompatible_payload"),
    (
        b'{"protocol": 1, "pipeline": "echo", "outputs": null, "deadline_s": null,'
        b' "inputs": {"value": {"$": "Mine", "v": 1}}}',
        "incompatible_payload",
    ),
    (b'{"protocol": 1, "x": "' + b"x" * 3_000 + b'"}', "payload_too_large"),
]


@pytest.mark.parametrize(("body", "code"), BODIES)
async def test_a_worker_refuses_what_it_cannot_read(
    cluster: Cluster, body: bytes, code: str
) -> None:
    """The turn ends with the reason, and the worker goes on with the next."""
    await cluster.worker(ECHO, max_payload_bytes=2_000)
    broker = cluster.broker()
    parcel = Parcel("bad", Address("default", "echo"), body, "digest", None)
    assert await broker.submit(parcel, "sender", limit=10) is None
    async for said in broker.answers("sender"):
        assert said is not None
        assert said[0] == "bad"
        assert f'"code": "{code}"'.encode() in said[1]
        break
    assert (await (await cluster.dispatcher()).run("echo", {"value": 1})).status == "completed"


async def test_an_answer_that_is_too_large_fails_the_turn(cluster: Cluster) -> None:
    """It says how large it is; its sender does not wait for ever."""
    await cluster.worker(
        Pipeline("echo", [echo, StageSpec("more", _more, outputs=("more",))], inputs=["value"]),
        max_payload_bytes=2_000,
    )
    result = await (await cluster.dispatcher()).run("echo", {"value": 1})
    assert result.failure is not None
    assert (result.status, result.failure.code) == ("failed", "payload_too_large")


async def _more(ctx: StageContext) -> StageOutput:
    return StageOutput.ok(more="x" * 3_000)


@pytest.mark.parametrize(
    "make",
    [
        lambda: RedisBroker("http://localhost"),
        lambda: RedisBroker("redis://localhost", namespace="a b"),
        lambda: RedisBroker("redis://localhost", patience_s=0),
        lambda: Worker([], RedisBroker("redis://localhost")),
        lambda: Worker([ECHO.orchestrator] * 2, RedisBroker("redis://localhost")),
        lambda: Worker([ECHO.orchestrator], RedisBroker("redis://localhost"), concurrency=0),
        lambda: Worker([ECHO.orchestrator], RedisBroker("redis://localhost"), lease_s=-1.0),
        lambda: Worker([ECHO.orchestrator], RedisBroker("redis://localhost"), queues=["a:b"]),
        lambda: Dispatcher(RedisBroker("redis://localhost"), max_outstanding=0),
        lambda: Dispatcher(RedisBroker("redis://localhost"), grace_s=0),
        lambda: Turn("echo", {}, "white space"),
        lambda: Turn("echo", {}, "k", deadline_s=0),
        lambda: Turn("e c", {}, "k"),
    ],
)
def test_bad_settings_are_refused(make: Callable[[], object]) -> None:
    """Where they are given, and not when the first turn is sent."""
    with pytest.raises(InvalidConfigError):
        make()


async def test_a_broker_that_is_away_is_waited_for_and_then_named(cluster: Cluster) -> None:
    """The error says where it was looked for."""
    away = RedisBroker("unix:///nowhere/socket", patience_s=0.1)
    async with Dispatcher(away) as dispatcher:
        with pytest.raises(BrokerUnavailableError, match="/nowhere/socket") as caught:
            await dispatcher.run("echo", {"value": 1})
    assert caught.value.retryable
    await away.close()


# ── ends of workers and brokers ─────────────────────────────────────────────────────────────


async def test_a_worker_that_stops_ends_what_runs(cluster: Cluster, gate: Gate) -> None:
    """And takes nothing more: a turn that waits is there for the next worker."""
    end = await cluster.worker(WAIT, providers=gate.registry(), concurrency=1, name="first")
    dispatcher = await cluster.dispatcher()
    running = asyncio.create_task(dispatcher.run("wait", key="a"))
    await gate.entered.wait()
    waiting = asyncio.create_task(dispatcher.run("wait", key="b"))
    broker = cluster.broker()
    await until(lambda: broker.queued("default", "wait"), 2)
    ending = asyncio.ensure_future(end())
    await until(lambda: _number_of(broker.cards()), 0)
    gate.go_on.set()
    await ending
    assert (await running).worker == "first"
    await cluster.worker(WAIT, providers=gate.registry(), name="second")
    assert (await waiting).worker == "second"


async def _number_of(cards: Awaitable[Any]) -> int:
    return len(await cards)


async def test_what_a_worker_cannot_end_is_given_back(cluster: Cluster, gate: Gate) -> None:
    """At once, and it does not count as a delivery that somebody died of."""
    end = await cluster.worker(WAIT, providers=gate.registry(), drain_s=0.05, lease_s=600.0)
    dispatcher = await cluster.dispatcher()
    running = asyncio.create_task(dispatcher.run("wait", key="a"))
    await gate.entered.wait()
    await end()
    assert gate.cleaned_up.is_set()
    gate.go_on.set()
    await cluster.worker(WAIT, providers=gate.registry(), name="second", lease_s=600.0)
    result = await running
    assert (result.status, result.worker, result.deliveries) == ("completed", "second", 1)
    assert gate.runs[0] == gate.runs[1]


@asynccontextmanager
async def dead_worker(cluster: Cluster, pipeline: str, times: int) -> AsyncIterator[None]:
    """A turn's workers take it and die, one after another."""
    broker, addresses = cluster.broker(), [Address("default", pipeline)]
    card = encode_card(Card(("default",), {pipeline: ()}))
    await broker.join("dead", card, addresses, ttl_s=60.0)
    yield
    taken = await broker.take("dead", addresses, count=1, wait_s=20.0)
    for _ in range(times - 1):
        assert [one.key for one in taken] == ["k"]
        await broker.leave("dead")
        taken = await broker.take_over("dead", addresses, count=1, lease_s=0.0)
    assert [one.deliveries for one in taken] == [times]


async def test_a_turn_whose_worker_died_is_taken_over(cluster: Cluster, gate: Gate) -> None:
    """When its lease has run out; the result says how often it was taken."""
    gate.go_on.set()
    dispatcher = await cluster.dispatcher()
    async with dead_worker(cluster, "wait", 1):
        running = asyncio.create_task(dispatcher.run("wait", key="k"))
    await cluster.worker(WAIT, providers=gate.registry(), name="heir", lease_s=0.2)
    result = await running
    assert (result.worker, result.deliveries, len(gate.runs)) == ("heir", 2, 1)


async def test_a_turn_may_take_longer_than_a_lease(cluster: Cluster, gate: Gate) -> None:
    """As long as its worker lives, nobody takes it over."""
    await cluster.worker(WAIT, providers=gate.registry(), lease_s=0.4)
    dispatcher = await cluster.dispatcher()
    running = asyncio.create_task(dispatcher.run("wait"))
    await gate.entered.wait()
    broker, loop = cluster.broker(), asyncio.get_running_loop()
    begun_at = loop.time()
    while loop.time() < begun_at + 1.0:  # two leases and a half
        addresses = [Address("default", "wait")]
        assert await broker.take_over("thief", addresses, count=1, lease_s=0.4) == []
    gate.go_on.set()
    assert (await running).deliveries == 1


async def test_a_turn_that_kills_its_workers_is_given_up(cluster: Cluster, gate: Gate) -> None:
    """It is not begun once more, and leaves one dead letter with its inputs."""
    letters = InMemoryDeadLetterStore()
    dispatcher = await cluster.dispatcher()
    async with dead_worker(cluster, "wait", 3):
        running = asyncio.create_task(dispatcher.run("wait", {"extra": 1}, key="k"))
    await cluster.worker(
        WAIT, providers=gate.registry(), lease_s=0.2, max_deliveries=3, dead_letters=letters
    )
    result = await running
    assert result.failure is not None
    assert result.failure.code == "turn_abandoned"
    (letter,) = await letters.letters()
    assert (letter.id, letter.inputs, gate.runs) == (result.dead_letter, {"extra": 1}, [])


async def test_a_turn_that_has_left_a_letter_is_not_run_again(cluster: Cluster, gate: Gate) -> None:
    """Its worker died after the letter and before the end: the letter tells how it ended."""
    letters = InMemoryDeadLetterStore()
    end = await cluster.worker(REFUSE, dead_letters=letters)
    dispatcher = await cluster.dispatcher()
    first = await dispatcher.run("refuse", key="k")
    await end()
    client = Redis.from_url(cluster.url)
    await client.flushall()  # as if the end had not been put on record
    await client.aclose()
    fine = Pipeline("refuse", [wait])
    async with dead_worker(cluster, "refuse", 1):
        running = asyncio.create_task(dispatcher.run("refuse", key="k"))
    await cluster.worker(fine, providers=gate.registry(), lease_s=0.2, dead_letters=letters)
    again = await asyncio.wait_for(running, 20)
    assert again.failure is not None
    assert first.failure is not None
    assert (again.status, again.deliveries, gate.runs) == ("failed", 2, [])
    assert (again.dead_letter, again.pipeline_run_id) == (first.dead_letter, first.pipeline_run_id)
    assert (again.failure.code, again.failure.stage) == ("stage_failed", "refuse")


async def test_a_worker_that_lost_its_turn_does_not_end_it(cluster: Cluster, gate: Gate) -> None:
    """Whoever ends a turn first has ended it; the run of the other is cancelled."""
    await cluster.worker(WAIT, providers=gate.registry(), name="slow", lease_s=0.4)
    dispatcher = await cluster.dispatcher()
    running = asyncio.create_task(dispatcher.run("wait", key="k"))
    await gate.entered.wait()
    broker, addresses = cluster.broker(), [Address("default", "wait")]
    (taken,) = await broker.take_over("other", addresses, count=1, lease_s=0.0)
    assert taken.key == "k"
    await gate.cleaned_up.wait()
    end = TurnResult("k", "wait", RunStatus.COMPLETED, worker="other")
    answer = Wire(DEFAULT_CODEC).encode_result(end)
    assert await broker.settle("k", answer, "completed")
    assert not await broker.settle("k", answer, "completed")
    assert (await running).worker == "other"
    assert await broker.counts() == {"completed": 1}


async def test_a_broker_without_memory_ends_what_it_has(cluster: Cluster, gate: Gate) -> None:
    """It takes no more until there is room; turns that run end, and others can be cancelled."""
    await cluster.worker(WAIT, providers=gate.registry())
    dispatcher = await cluster.dispatcher()
    running = asyncio.create_task(dispatcher.run("wait", key="a"))
    await gate.entered.wait()
    client = Redis.from_url(cluster.url)
    await client.config_set("maxmemory", 1)
    waiting = asyncio.create_task(dispatcher.run("wait", key="b"))
    hasty = Dispatcher(cluster.broker(patience_s=0.1))
    with pytest.raises(BrokerUnavailableError, match="used memory"):
        await hasty.run("wait", key="c")
    await hasty.close()
    await dispatcher.cancel("a")
    assert (await asyncio.wait_for(running, 20)).status == "cancelled"
    assert not waiting.done()
    gate.go_on.set()
    await client.config_set("maxmemory", 0)
    assert (await waiting).status == "completed"
    await client.aclose()


@pytest.mark.parametrize(
    ("setting", "value", "says"),
    [
        ("appendonly", "no", "a restart loses them"),
        ("appendfsync", "everysec", "power cut"),
        ("maxmemory-policy", "allkeys-lru", "memory is full"),
    ],
)
async def test_a_broker_that_may_lose_turns_is_told_of(
    cluster: Cluster, caplog: pytest.LogCaptureFixture, setting: str, value: str, says: str
) -> None:
    """With the mend; one that keeps what it acknowledges is not complained about."""
    broker = cluster.broker()
    await broker.warn_unless_durable()
    assert caplog.messages == []
    client = Redis.from_url(cluster.url)
    await client.config_set(setting, value)
    await client.aclose()
    await broker.warn_unless_durable()
    (message,) = caplog.messages
    assert says in message
    assert f"run it with {setting} " in message


async def test_nothing_acknowledged_is_lost_in_a_crash_of_the_broker(
    cluster: Cluster, redis: RedisServer
) -> None:
    """Turns that were sent before it run after it; dispatchers and workers find it again."""
    dispatcher = await cluster.dispatcher()
    end = await cluster.worker(ECHO)
    await dispatcher.run("echo", {"value": 0})
    await end()
    sent = [asyncio.create_task(dispatcher.run("echo", {"value": n})) for n in range(50)]
    broker = cluster.broker()
    await until(lambda: broker.queued("default", "echo"), 50)
    redis.kill()
    redis.start()
    assert await broker.queued("default", "echo") == 50
    await cluster.worker(ECHO)
    ends = await asyncio.gather(*sent)
    assert [end.unwrap()["echo"] for end in ends] == list(range(50))
    assert await broker.counts() == {"completed": 51}


def forget(redis: RedisServer) -> None:
    """Crash the broker, and bring it back without its data."""
    redis.kill()
    for file in redis.directory.glob("appendonlydir/*"):
        file.unlink()
    redis.start()


@pytest.mark.parametrize("deadline_s", [None, 60.0])
async def test_a_broker_that_lost_its_memory_is_told_again(
    cluster: Cluster, redis: RedisServer, deadline_s: float | None
) -> None:
    """A dispatcher sends what it waits for once more, and the worker makes itself known."""
    dispatcher = await cluster.dispatcher()
    end = await cluster.worker(ECHO)
    await dispatcher.run("echo", {"value": 0})
    await end()
    sending = dispatcher.run("echo", {"value": 1}, deadline_s=deadline_s)
    running = asyncio.create_task(sending)
    broker = cluster.broker()
    await until(lambda: broker.queued("default", "echo"), 1)
    forget(redis)
    await cluster.worker(ECHO)
    assert (await asyncio.wait_for(running, 20)).unwrap() == {"echo": 1}


async def test_a_worker_finds_a_broker_again_that_lost_its_memory(
    cluster: Cluster, redis: RedisServer, gate: Gate
) -> None:
    """It makes itself known, takes turns and hears of cancellations as before."""
    await cluster.worker(ECHO, WAIT, providers=gate.registry())
    dispatcher = await cluster.dispatcher()
    await dispatcher.run("echo", {"value": 0})
    forget(redis)
    assert (await dispatcher.run("echo", {"value": 1})).unwrap() == {"echo": 1}
    running = asyncio.create_task(dispatcher.run("wait", key="k"))
    await gate.entered.wait()
    await dispatcher.cancel("k")
    assert (await running).status == "cancelled"


async def test_callers_are_told_of_a_broker_that_stays_away(
    cluster: Cluster, redis: RedisServer, gate: Gate
) -> None:
    """Those that wait for an end as well; and the dispatcher works again when it is back."""
    await cluster.worker(WAIT, providers=gate.registry())
    impatient = cluster.broker(patience_s=0.3)
    async with Dispatcher(impatient) as dispatcher:
        running = asyncio.create_task(dispatcher.run("wait", key="k"))
        await gate.entered.wait()
        redis.kill()
        with pytest.raises(BrokerUnavailableError):
            await running
        redis.start()
        gate.go_on.set()
        assert (await dispatcher.run("wait", key="k")).status == "completed"
    assert len(gate.runs) == 1


async def test_a_worker_ends_when_its_broker_stays_away(
    cluster: Cluster, redis: RedisServer
) -> None:
    """With the reason, for whoever starts it again."""
    worker = Worker([ECHO.orchestrator], cluster.broker(patience_s=0.3), lease_s=1.0)
    serving = asyncio.create_task(worker.serve(asyncio.Event()))
    await (await cluster.dispatcher()).run("echo", {"value": 1})
    redis.kill()
    with pytest.raises(BrokerUnavailableError):
        await serving
    redis.start()


async def test_a_worker_ends_by_an_error_of_its_own(cluster: Cluster) -> None:
    """It does not go on as if nothing were wrong; the turn is there for another worker."""

    class Broken(InMemoryDeadLetterStore):
        async def get(self, letter_id: str) -> DeadLetter:
            raise RuntimeError("a defect")

    dispatcher = await cluster.dispatcher()
    async with dead_worker(cluster, "wait", 1):
        running = asyncio.create_task(dispatcher.run("wait", key="k"))
    broken = Worker([WAIT.orchestrator], cluster.broker(), dead_letters=Broken(), lease_s=0.2)
    with pytest.raises(RuntimeError, match="a defect"):
        await asyncio.wait_for(broken.serve(asyncio.Event()), 20)
    assert not running.done()
    assert await cluster.broker().queued("default", "wait") == 1
    running.cancel()


async def test_an_answer_that_was_lost_is_asked_for(cluster: Cluster) -> None:
    """At the deadline at the latest: the end that stands is told, and not that it is too late."""
    broker, key = cluster.broker(), "k"
    card = encode_card(Card(("default",), {"wait": ()}))
    await broker.join("w", card, [Address("default", "wait")], ttl_s=60.0)
    dispatcher = await cluster.dispatcher(grace_s=0.1)
    running = asyncio.create_task(dispatcher.run("wait", key=key, deadline_s=0.5))
    await until(lambda: broker.queued("default", "wait"), 1)
    client: Any = Redis.from_url(cluster.url)
    turn = f"{{stageflow}}:turn:{key}"
    (sender,) = [name for name in await client.hkeys(turn) if name.startswith(b"to ")]
    await client.hdel(turn, sender)
    await client.aclose()
    end = TurnResult(key, "wait", RunStatus.COMPLETED, worker="w")
    assert await broker.settle(key, Wire(DEFAULT_CODEC).encode_result(end), "completed")
    result = await running
    assert (result.status, result.worker) == ("completed", "w")


async def test_answers_that_were_read_are_dropped(cluster: Cluster) -> None:
    """A dispatcher that lives for long leaves no trail of all that it was told."""
    await cluster.worker(ECHO, concurrency=64)
    dispatcher = await cluster.dispatcher()
    for _ in range(3):
        await asyncio.gather(*(dispatcher.run("echo", {"value": 1}) for _ in range(500)))
    client = Redis.from_url(cluster.url)
    (answers,) = await client.keys("*answers*")
    assert await client.xlen(answers) < 1_000
    await client.aclose()


async def test_what_a_broker_keeps_to_itself_is_said(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    """A service that shows nobody its settings can be used all the same."""
    client: Any = Redis.from_url(cluster.url)
    await client.execute_command("ACL", "SETUSER", "default", "-config")
    await client.aclose()
    await cluster.broker().warn_unless_durable()
    (message,) = caplog.messages
    assert "cannot be told" in message


@pytest.mark.parametrize("broker_first", [True, False])
async def test_a_dispatcher_closes_at_once(cluster: Cluster, broker_first: bool) -> None:
    """Right after an answer, and also if its broker has been closed before it."""
    await cluster.worker(ECHO)
    broker = cluster.broker()
    dispatcher = Dispatcher(broker)
    await dispatcher.run("echo", {"value": 1})
    if broker_first:
        await broker.close()
    await asyncio.wait_for(dispatcher.close(), 20)
