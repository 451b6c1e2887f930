"""Redis servers that change their role, are full or busy, or refuse a client."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.exceptions import ResponseError

from stageflow.cluster import (
    BrokerUnavailableError,
    Dispatcher,
    RedisBroker,
    SharedBreakers,
    Worker,
)
from stageflow.cluster.redis_link import RedisLink, script_text
from stageflow.resilience import BreakerState
from tests.cluster.support import ECHO, WAIT, Cluster, Gate
from tests.utils.errors import code_of, raises_code
from tests.utils.redis_server import RedisServer
from tests.utils.workers import WorkerProcess


@asynccontextmanager
async def replica(client: Any) -> AsyncIterator[None]:
    await client.execute_command("REPLICAOF", "127.0.0.1", "1")
    yield
    await client.execute_command("REPLICAOF", "NO", "ONE")


@asynccontextmanager
async def stale_replica(client: Any) -> AsyncIterator[None]:
    await client.config_set("replica-serve-stale-data", "no")
    async with replica(client):
        yield


@asynccontextmanager
async def full(client: Any) -> AsyncIterator[None]:
    await client.config_set("maxmemory", "1")
    yield
    await client.config_set("maxmemory", "0")


@asynccontextmanager
async def without_replicas(client: Any) -> AsyncIterator[None]:
    await client.config_set("min-replicas-to-write", "1")
    yield
    await client.config_set("min-replicas-to-write", "0")


@asynccontextmanager
async def busy(client: Any) -> AsyncIterator[None]:
    await client.config_set("busy-reply-threshold", "1")
    endless = asyncio.ensure_future(client.eval("while true do end", 0))
    yield
    await client.execute_command("SCRIPT", "KILL")
    with pytest.raises(ResponseError):
        await endless


@pytest.mark.parametrize("state", [replica, stale_replica, full, without_replicas, busy])
async def test_a_server_that_cannot_serve_for_a_moment_is_an_outage(
    cluster: Cluster,
    gate: Gate,
    caplog: pytest.LogCaptureFixture,
    state: Callable[[Any], AbstractAsyncContextManager[None]],
) -> None:
    """Workers, dispatchers and breakers continue, and the jobs under way end."""
    await cluster.worker(ECHO, WAIT, providers=gate.registry())
    dispatcher = await cluster.dispatcher()
    running = asyncio.create_task(dispatcher.run("wait"))
    await gate.entered.wait()
    client: Any = Redis.from_url(cluster.url)
    async with asyncio.timeout(60), SharedBreakers(cluster.url) as breakers:
        await breakers.heard.wait()
        async with state(client):
            while "cannot be reached" not in caplog.text:  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0)
            sent = asyncio.create_task(dispatcher.run("echo", {"value": 1}))
            gate.go_on.set()
        assert (await running).status == "completed"
        assert (await sent).unwrap() == {"echo": 1}
        async with SharedBreakers(cluster.url) as others:
            await others.heard.wait()
            breakers["llm"].force_open(time.monotonic)
            while others["llm"].state is not BreakerState.OPEN:  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0)
    await client.aclose()


@pytest.fixture
async def locked(redis: RedisServer) -> str:
    """The URL of a server that needs a password, with a wrong one."""
    client: Any = Redis.from_url(redis.url)
    await client.config_set("requirepass", "right")
    await client.aclose()
    return redis.url.replace("unix://", "unix://:s3cret@")


@pytest.mark.parametrize("given", [True, False])
async def test_a_refused_password_is_not_an_outage(
    locked: str, redis: RedisServer, given: bool
) -> None:
    """Dispatchers and workers end at once with the fix, and never show the password."""
    broker = RedisBroker(locked if given else redis.url, patience_s=60.0)
    worker = Worker([ECHO.orchestrator], broker)
    async with asyncio.timeout(20), Dispatcher(broker) as dispatcher:
        for call in (dispatcher.run("echo", {"value": 1}), worker.serve(asyncio.Event())):
            with raises_code("broker_refused", match="correct user, password") as refused:
                await call
            assert "s3cret" not in str(refused.value)
    await broker.close()


async def test_a_right_that_a_user_lacks_is_named(cluster: Cluster, redis: RedisServer) -> None:
    """The server's own text names the command."""
    client: Any = Redis.from_url(redis.url)
    await client.execute_command("ACL", "SETUSER", "default", "-evalsha")
    await client.aclose()
    async with Dispatcher(cluster.broker()) as dispatcher:
        with raises_code("broker_refused", match="evalsha"):
            await asyncio.wait_for(dispatcher.run("echo", {"value": 1}), 20)


async def test_a_restricted_user_can_run_jobs(cluster: Cluster, redis: RedisServer) -> None:
    """Without CONFIG and SCRIPT, also when the server has forgotten its scripts."""
    await cluster.worker(ECHO)
    dispatcher = await cluster.dispatcher()
    client = redis.client()
    client.execute_command("ACL", "SETUSER", "default", "-script", "-config")
    client.execute_command("ACL", "SETUSER", "admin", "on", "nopass", "+@all")
    admin = redis.client()
    admin.execute_command("AUTH", "admin", "any")
    for number in range(3):
        assert (await dispatcher.run("echo", {"value": number})).unwrap() == {"echo": number}
        admin.script_flush()


async def test_a_server_without_flags_of_scripts_takes_them_without(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis 6.2 cannot compile the line with them; this one cannot compile unknown ones."""
    for name in ("complete", "join"):
        assert script_text(name).startswith("#!lua flags=allow-oom\n")
    eval_of_client = Pipeline.eval
    refused = ResponseError("user_script:1: unexpected symbol near '#'")

    def eval_of_old_server(self: Any, script: str, *arguments: Any) -> Any:
        assert not script.startswith("#!")
        return eval_of_client(self, script, *arguments)

    async def probe(*_: Any) -> None:
        raise refused

    monkeypatch.setattr(Pipeline, "eval", eval_of_old_server)
    monkeypatch.setattr(Redis, "eval", probe)
    await cluster.worker(ECHO)
    assert (await (await cluster.dispatcher()).run("echo", {"value": 1})).unwrap() == {"echo": 1}


async def test_a_database_that_the_server_lacks_is_not_an_outage(redis: RedisServer) -> None:
    """The error names the fix."""
    async with RedisBroker(f"{redis.url}?db=99") as broker:
        with raises_code("broker_refused", match="correct .* database in its URL"):
            await asyncio.wait_for(broker.counts(), 20)


@pytest.mark.parametrize("busy", [True, False])
async def test_a_worker_stops_while_its_broker_is_away(
    cluster: Cluster, redis: RedisServer, gate: Gate, busy: bool
) -> None:
    """Within its grace period, also if it has never reached the broker or runs a job."""
    broker = cluster.broker(patience_s=86_400.0)
    worker = Worker([WAIT.orchestrator], broker, providers=gate.registry(), drain_s=0.2)
    stop = asyncio.Event()
    if busy:
        serving = asyncio.create_task(worker.serve(stop))
        waiting = asyncio.create_task((await cluster.dispatcher()).run("wait"))
        await gate.entered.wait()
        redis.kill()
        gate.go_on.set()
    else:
        redis.kill()
        serving = asyncio.create_task(worker.serve(stop))
    stop.set()
    await asyncio.wait_for(serving, 20)
    redis.start()
    if busy:
        waiting.cancel()


@pytest.mark.parametrize("off_s", [3_600.0, -3_600.0])
async def test_a_clock_that_is_an_hour_off_changes_nothing(
    cluster: Cluster, gate: Gate, monkeypatch: pytest.MonkeyPatch, off_s: float
) -> None:
    """Deadlines, leases and registrations are measured by the clock of the server alone."""
    right = time.time
    monkeypatch.setattr(time, "time", lambda: right() + off_s)
    await cluster.worker(ECHO, WAIT, providers=gate.registry(), lease_s=0.4)
    dispatcher = await cluster.dispatcher(grace_s=60.0)
    result = await dispatcher.run("echo", {"value": 1}, deadline_s=60.0)
    assert (result.unwrap(), result.deliveries) == ({"echo": 1}, 1)
    late = await dispatcher.run("wait", deadline_s=1.0)
    assert code_of(late.failure) == "deadline_exceeded"
    assert late.worker is not None, "its worker has not noticed that the deadline passed"


@pytest.mark.slow
@pytest.mark.parametrize("off_s", [3_600.0, -3_600.0])
async def test_a_worker_whose_clock_is_an_hour_off_answers_in_time(
    redis: RedisServer, tmp_path: Path, off_s: float
) -> None:
    """It and the dispatcher need not agree about the time of day."""
    clock = f"import time; right = time.time; time.time = lambda: right() + {off_s}"
    (tmp_path / "sitecustomize.py").write_text(clock)
    arguments = (redis.url, "chat", "--scale", "0", "--breakers")
    worker = WorkerProcess(*arguments, environment={"PYTHONPATH": str(tmp_path)})
    inputs = {"text": "hello", "user_id": "ada"}
    try:
        worker.wait_until_it_serves()
        async with RedisBroker(redis.url) as broker, Dispatcher(broker) as dispatcher:
            result = await dispatcher.run("chat", inputs, deadline_s=60.0)
    finally:
        worker.kill()
    assert (result.status, result.deliveries) == ("completed", 1)


@pytest.mark.slow
def test_the_command_stops_while_its_broker_is_away() -> None:
    """With the code 0."""
    worker = WorkerProcess(
        "redis://127.0.0.1:1", "chat", "--drain-s", "0.2", "--breakers", environment={}
    )
    worker.wait_until_it_serves()
    assert worker.stop() == 0


@pytest.mark.slow
def test_the_command_ends_by_a_refused_password(locked: str) -> None:
    """With the code 1 and the fix."""
    worker = WorkerProcess(locked, "chat", environment={})
    code, text = worker.end()
    assert code == 1
    assert "correct user, password" in text
    assert "s3cret" not in text


async def test_an_outage_within_a_script_is_an_outage(redis: RedisServer) -> None:
    """Redis 6.2 wraps the answer to the call in an error of the script."""
    text = "Error running script (call to f_1): @user_script:8: @user_script: 8: -OOM command not"
    link = RedisLink(redis.url, "n", patience_s=0.01)

    async def attempt() -> None:
        raise ResponseError(f"{text} allowed when used memory > 'maxmemory'.")

    with pytest.raises(BrokerUnavailableError, match="used memory"):
        await link.call(attempt)
    await link.close()
