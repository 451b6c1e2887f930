"""Redis behind Sentinel and as a cluster: jobs continue after a fail-over."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from stageflow.cluster import BrokerUnavailableError, Dispatcher, RedisBroker, SharedBreakers
from stageflow.errors import InvalidConfigError
from tests.cluster.support import ECHO, WAIT, Cluster, Gate
from tests.utils.redis_deployments import BehindSentinel, InCluster, Replicated
from tests.utils.redis_server import RedisServer


@pytest.fixture(params=[BehindSentinel, InCluster])
def deployment(request: pytest.FixtureRequest) -> Iterator[Replicated]:
    with request.param() as servers:
        yield servers


@pytest.mark.slow
async def test_jobs_continue_after_a_fail_over(deployment: Any, gate: Gate) -> None:
    """Those under way, those that wait and those that are sent later each end once."""
    async with AsyncExitStack() as stack:
        cluster = Cluster(deployment.url, stack)
        end = await cluster.worker(ECHO, WAIT, providers=gate.registry())
        dispatcher = await cluster.dispatcher()
        running = asyncio.create_task(dispatcher.run("wait", key="k"))
        await gate.entered.wait()
        moving = asyncio.create_task(asyncio.to_thread(deployment.fail_over))
        sent = [dispatcher.run("echo", {"value": n}) for n in range(20)]
        results = await asyncio.gather(*sent)
        assert [result.unwrap()["echo"] for result in results] == list(range(20))
        await moving
        gate.go_on.set()
        assert (await running).status == "completed"
        async with SharedBreakers(cluster.url) as breakers:
            await breakers.heard.wait()
        assert await cluster.broker().counts() == {"completed": 21}
        await end()
    # It may have been reclaimed while its worker could not renew the lease.
    assert len(set(gate.runs)) == 1


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinel://host:26379",
        "redis+sentinel://host:26379/",
        "redis+sentinel://ho st/jobs",
        "redis+cluster://host:x",
        "redis+cluster://",
        "redis+other://host/jobs",
        "redis+cluster://host?replicas=two",
        "rediss+sentinel://:s3cret@host/jobs?unknown=1",
    ],
)
def test_an_address_of_several_servers_that_is_wrong_is_refused(url: str) -> None:
    """With the forms that there are, and without the password."""
    with pytest.raises(InvalidConfigError, match="redis\\+sentinel://host:port") as refused:
        RedisBroker(url)
    assert "s3cret" not in str(refused.value)


async def test_servers_that_know_nothing_are_an_outage(redis: RedisServer) -> None:
    """The error says how many were asked."""
    for url in ("redis+sentinel://127.0.0.1:1,[::1]:1/jobs", "redis+cluster://127.0.0.1:1,[::1]:1"):
        async with RedisBroker(url, patience_s=0.01) as broker:
            with pytest.raises(BrokerUnavailableError, match="none of 2 servers says where"):
                await broker.counts()


async def test_too_few_replicas_are_an_outage(redis: RedisServer) -> None:
    """A write that no replica has confirmed is not acknowledged."""
    async with (
        RedisBroker(f"{redis.url}?replicas=1", patience_s=0.01) as broker,
        Dispatcher(broker) as dispatcher,
    ):
        with pytest.raises(BrokerUnavailableError, match="0 of 1 replicas"):
            await dispatcher.run("echo", {"value": 1})
