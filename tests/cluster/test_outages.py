"""Workers that stop or die, and brokers that go away or lose their data."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis.asyncio import Redis

from stageflow import Pipeline, RunStatus
from stageflow.cluster import (
    Address,
    BrokerUnavailableError,
    Dispatcher,
    Envelope,
    JobResult,
    Worker,
)
from stageflow.cluster.broker import Delivery
from stageflow.cluster.job import Wire, WorkerInfo, encode_worker_info
from stageflow.codec import DEFAULT_CODEC
from stageflow.dlq import DeadLetter, InMemoryDeadLetterStore
from tests.cluster.support import ECHO, REFUSE, WAIT, Cluster, Gate, number_of, until
from tests.utils.redis_server import RedisServer
from tests.utils.task_factories import Factory, first_step


async def test_a_worker_that_stops_finishes_its_jobs(cluster: Cluster, gate: Gate) -> None:
    """And takes nothing more: a job that waits is there for the next worker."""
    end = await cluster.worker(WAIT, providers=gate.registry(), concurrency=1, name="first")
    dispatcher = await cluster.dispatcher()
    running = asyncio.create_task(dispatcher.run("wait", key="a"))
    await gate.entered.wait()
    waiting = asyncio.create_task(dispatcher.run("wait", key="b"))
    broker = cluster.broker()
    await until(lambda: broker.queued("default", "wait"), 2)
    ending = asyncio.ensure_future(end())
    await until(lambda: number_of(broker.workers()), 0)
    gate.go_on.set()
    await ending
    assert (await running).worker == "first"
    await cluster.worker(WAIT, providers=gate.registry(), name="second")
    assert (await waiting).worker == "second"


async def test_a_worker_returns_jobs_that_it_cannot_finish(cluster: Cluster, gate: Gate) -> None:
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
    """A job's workers take it and die, one after another."""
    broker, addresses = cluster.broker(), [Address("default", pipeline)]
    info = encode_worker_info(WorkerInfo(("default",), {pipeline: ()}))
    await broker.join("dead", info, addresses, ttl_s=60.0)
    yield
    taken = await broker.take("dead", addresses, count=1, wait_s=20.0)
    for _ in range(times - 1):
        assert [one.key for one in taken] == ["k"]
        await broker.leave("dead")
        taken = await broker.reclaim("dead", addresses, count=1, lease_s=0.0)
    assert [one.deliveries for one in taken] == [times]


async def test_a_job_whose_worker_died_is_reclaimed(cluster: Cluster, gate: Gate) -> None:
    """When its lease has run out; the result says how often it was taken."""
    gate.go_on.set()
    dispatcher = await cluster.dispatcher()
    async with dead_worker(cluster, "wait", 1):
        running = asyncio.create_task(dispatcher.run("wait", key="k"))
    await cluster.worker(WAIT, providers=gate.registry(), name="heir", lease_s=0.2)
    result = await running
    assert (result.worker, result.deliveries, len(gate.runs)) == ("heir", 2, 1)


async def test_a_job_may_take_longer_than_a_lease(cluster: Cluster, gate: Gate) -> None:
    """As long as its worker lives, nobody takes it over."""
    await cluster.worker(WAIT, providers=gate.registry(), lease_s=0.4)
    dispatcher = await cluster.dispatcher()
    running = asyncio.create_task(dispatcher.run("wait"))
    await gate.entered.wait()
    broker, loop = cluster.broker(), asyncio.get_running_loop()
    begun_at = loop.time()
    while loop.time() < begun_at + 1.0:  # two leases and a half
        addresses = [Address("default", "wait")]
        assert await broker.reclaim("thief", addresses, count=1, lease_s=0.4) == []
    gate.go_on.set()
    assert (await running).deliveries == 1


async def test_a_job_that_kills_its_workers_is_given_up(cluster: Cluster, gate: Gate) -> None:
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
    assert result.failure.code == "job_abandoned"
    (letter,) = await letters.letters()
    assert (letter.id, letter.inputs, gate.runs) == (result.dead_letter, {"extra": 1}, [])


async def test_a_job_with_a_dead_letter_does_not_run_again(cluster: Cluster, gate: Gate) -> None:
    """Its worker died after the letter and before the end: the letter tells how it ended."""
    letters = InMemoryDeadLetterStore()
    end = await cluster.worker(REFUSE, dead_letters=letters)
    dispatcher = await cluster.dispatcher()
    first = await dispatcher.run("refuse", key="k")
    await end()
    client = Redis.from_url(cluster.url)
    await client.flushall()  # as if the end had not been put on record
    await client.aclose()
    fine = Pipeline("refuse", WAIT.stages)
    async with dead_worker(cluster, "refuse", 1):
        running = asyncio.create_task(dispatcher.run("refuse", key="k"))
    await cluster.worker(fine, providers=gate.registry(), lease_s=0.2, dead_letters=letters)
    again = await asyncio.wait_for(running, 120)
    assert again.failure is not None
    assert first.failure is not None
    assert (again.status, again.deliveries, gate.runs) == ("failed", 2, [])
    assert (again.dead_letter, again.pipeline_run_id) == (first.dead_letter, first.pipeline_run_id)
    assert (again.failure.code, again.failure.stage) == ("stage_failed", "refuse")


async def test_a_worker_does_not_complete_a_job_that_it_lost(cluster: Cluster, gate: Gate) -> None:
    """The first worker to end a job decides its result; the other's run is cancelled."""
    await cluster.worker(WAIT, providers=gate.registry(), name="slow", lease_s=0.4)
    dispatcher = await cluster.dispatcher()
    running = asyncio.create_task(dispatcher.run("wait", key="k"))
    await gate.entered.wait()
    broker, addresses = cluster.broker(), [Address("default", "wait")]
    (taken,) = await broker.reclaim("other", addresses, count=1, lease_s=0.0)
    assert taken.key == "k"
    await gate.cleaned_up.wait()
    end = JobResult("k", "wait", RunStatus.COMPLETED, worker="other")
    answer = Wire(DEFAULT_CODEC).encode_result(end)
    assert await broker.complete("k", answer, "completed")
    assert not await broker.complete("k", answer, "completed")
    assert (await running).worker == "other"
    assert await broker.counts() == {"completed": 1}


async def test_a_full_broker_can_end_its_jobs(cluster: Cluster, gate: Gate) -> None:
    """It takes no more until there is room; jobs that run end, and others can be cancelled."""
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
    assert (await asyncio.wait_for(running, 120)).status == "cancelled"
    assert not waiting.done()
    gate.go_on.set()
    await client.config_set("maxmemory", 0)
    assert (await waiting).status == "completed"
    await client.aclose()


@pytest.mark.parametrize(
    ("setting", "value", "says"),
    [
        ("appendonly", "no", "loses its jobs"),
        ("appendfsync", "everysec", "power cut"),
        ("maxmemory-policy", "allkeys-lru", "memory is full"),
    ],
)
async def test_a_broker_that_may_lose_jobs_is_reported(
    cluster: Cluster, caplog: pytest.LogCaptureFixture, setting: str, value: str, says: str
) -> None:
    """With the fix; one that keeps what it acknowledges is not complained about."""
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
    """Jobs that were sent before it run after it; dispatchers and workers find it again."""
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
async def test_jobs_are_sent_again_to_a_broker_that_lost_its_data(
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
    assert (await asyncio.wait_for(running, 120)).unwrap() == {"echo": 1}


async def test_a_worker_serves_a_broker_that_lost_its_data(
    cluster: Cluster, redis: RedisServer, gate: Gate
) -> None:
    """It makes itself known, takes jobs and hears of cancellations as before."""
    await cluster.worker(ECHO, WAIT, providers=gate.registry())
    dispatcher = await cluster.dispatcher()
    await dispatcher.run("echo", {"value": 0})
    forget(redis)
    assert (await dispatcher.run("echo", {"value": 1})).unwrap() == {"echo": 1}
    running = asyncio.create_task(dispatcher.run("wait", key="k"))
    await gate.entered.wait()
    await dispatcher.cancel("k")
    assert (await running).status == "cancelled"


async def test_callers_get_an_error_if_the_broker_stays_away(
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
    """It says why, so that an operator can start it again."""
    worker = Worker([ECHO.orchestrator], cluster.broker(patience_s=0.3), lease_s=1.0)
    serving = asyncio.create_task(worker.serve(asyncio.Event()))
    await (await cluster.dispatcher()).run("echo", {"value": 1})
    redis.kill()
    with pytest.raises(BrokerUnavailableError):
        await serving
    redis.start()


async def test_a_worker_ends_by_an_error_of_its_own(cluster: Cluster) -> None:
    """It does not go on as if nothing were wrong; the job is there for another worker."""

    class Broken(InMemoryDeadLetterStore):
        async def get(self, dead_letter_id: str) -> DeadLetter:
            raise RuntimeError("a defect")

    dispatcher = await cluster.dispatcher()
    async with dead_worker(cluster, "wait", 1):
        running = asyncio.create_task(dispatcher.run("wait", key="k"))
    broken = Worker([WAIT.orchestrator], cluster.broker(), dead_letters=Broken(), lease_s=0.2)
    with pytest.raises(RuntimeError, match="a defect"):
        await asyncio.wait_for(broken.serve(asyncio.Event()), 120)
    assert not running.done()
    assert await cluster.broker().queued("default", "wait") == 1
    running.cancel()


async def test_a_lost_answer_is_requested_again(cluster: Cluster) -> None:
    """At the deadline at the latest, the caller gets the stored result."""
    broker, key = cluster.broker(), "k"
    info = encode_worker_info(WorkerInfo(("default",), {"wait": ()}))
    await broker.join("w", info, [Address("default", "wait")], ttl_s=60.0)
    dispatcher = await cluster.dispatcher(grace_s=0.1)
    running = asyncio.create_task(dispatcher.run("wait", key=key, deadline_s=0.5))
    await until(lambda: broker.queued("default", "wait"), 1)
    client: Any = Redis.from_url(cluster.url)
    job = f"{{stageflow}}:job:{key}"
    (sender,) = [name for name in await client.hkeys(job) if name.startswith(b"to ")]
    await client.hdel(job, sender)
    await client.aclose()
    end = JobResult(key, "wait", RunStatus.COMPLETED, worker="w")
    assert await broker.complete(key, Wire(DEFAULT_CODEC).encode_result(end), "completed")
    result = await running
    assert (result.status, result.worker) == ("completed", "w")


async def test_answers_that_were_read_are_dropped(cluster: Cluster) -> None:
    """A dispatcher that lives for long keeps no record of the answers that it received."""
    await cluster.worker(ECHO, concurrency=64)
    dispatcher = await cluster.dispatcher()
    for _ in range(3):
        await asyncio.gather(*(dispatcher.run("echo", {"value": 1}) for _ in range(500)))
    client = Redis.from_url(cluster.url)
    (answers,) = await client.keys("*answers*")
    assert await client.xlen(answers) < 1_000
    await client.aclose()


async def test_a_broker_that_hides_its_settings_is_reported(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    """A service that shows nobody its settings can be used all the same."""
    client: Any = Redis.from_url(cluster.url)
    await client.execute_command("ACL", "SETUSER", "default", "-config")
    await client.aclose()
    await cluster.broker().warn_unless_durable()
    (message,) = caplog.messages
    assert "cannot read whether" in message


@pytest.mark.parametrize("broker_first", [True, False])
async def test_a_dispatcher_closes_at_once(cluster: Cluster, broker_first: bool) -> None:
    """Right after an answer, and also if its broker has been closed before it."""
    await cluster.worker(ECHO)
    broker = cluster.broker()
    dispatcher = Dispatcher(broker)
    await dispatcher.run("echo", {"value": 1})
    if broker_first:
        await broker.close()
    await asyncio.wait_for(dispatcher.close(), 120)


class SilentBroker:
    """A broker that accepts a job, and is away for its answer at once."""

    async def workers(self) -> dict[str, bytes]:
        return {"w": encode_worker_info(WorkerInfo(("default",), {"echo": ()}))}

    async def submit(self, *_: object, limit: int) -> None:
        await asyncio.sleep(0)

    async def answers(self, sender: str) -> AsyncIterator[None]:
        if sender:
            raise BrokerUnavailableError("nowhere", 1.0, OSError("gone"))
        yield


async def test_a_job_hears_of_an_outage_under_an_eager_task_factory() -> None:
    """The task that reads answers may fail before it is returned."""
    eager: Factory = first_step
    asyncio.get_running_loop().set_task_factory(eager)
    broker: Any = SilentBroker()
    async with Dispatcher(broker) as dispatcher:
        with pytest.raises(BrokerUnavailableError):
            await asyncio.wait_for(dispatcher.run("echo"), 5)


async def test_a_broker_that_lost_its_data_answers_every_call_of_a_worker(
    cluster: Cluster, redis: RedisServer
) -> None:
    """Whichever call comes first after the loss creates the groups again, or needs none."""
    broker, address = cluster.broker(), Address("default", "echo")

    async def taken() -> Delivery:
        await broker.submit(Envelope("k", address, b"body", "digest", None), "sender", limit=1)
        (delivery,) = await broker.take("one", [address], count=1, wait_s=5.0)
        return delivery

    await broker.join("one", b"info", [address], ttl_s=60.0)
    for _ in range(2):
        held = await taken()
        await broker.complete(held.key, b"answer", "completed")
        forget(redis)
        await broker.give_back("one", [held])
        assert await broker.renew("one", [held]) == {"k": "lost"}
        assert await broker.reclaim("two", [address], count=1, lease_s=1.0) == []
