"""Entries of streams that are not jobs or answers: no worker and no dispatcher ends by them."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from stageflow.cluster import Address, Envelope, Job, SharedBreakers
from stageflow.cluster.job import Wire
from stageflow.codec import DEFAULT_CODEC
from stageflow.errors import InvalidConfigError
from stageflow.resilience import BreakerState
from tests.cluster.support import ECHO, WAIT, Cluster, Gate, until

STREAM = "{stageflow}:jobs:default:echo"
ASIDE = "{stageflow}:unreadable"
BODY, _ = Wire(DEFAULT_CODEC).encode_job(Job("echo", {"value": 1}, "k"))


@pytest.fixture
async def client(cluster: Cluster) -> AsyncIterator[Any]:
    client = Redis.from_url(cluster.url)
    yield client
    await client.aclose()


RAW = [
    {"x": "1"},
    {"key": b"\xff", "body": BODY, "until": ""},
    {"key": "", "body": BODY, "until": ""},
    {"key": "white space", "body": BODY, "until": ""},
    {"key": "raw", "body": BODY, "until": "soon"},
    {"key": "raw", "body": BODY},
    {"key": "raw", "until": ""},
    {"key": "raw", "body": b"\x00", "until": ""},
    {"key": "raw", "body": BODY, "until": ""},
    {"key": "raw", "body": BODY, "until": "nan"},
]


@pytest.mark.parametrize("fields", RAW)
async def test_a_raw_entry_is_set_aside(
    cluster: Cluster, client: Any, fields: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """It is named in the log, counted and kept; jobs behind it run."""
    entry = await client.xadd(STREAM, fields)
    await cluster.worker(ECHO)
    dispatcher = await cluster.dispatcher()
    assert (await dispatcher.run("echo", {"value": 1})).unwrap() == {"echo": 1}
    await until(lambda: cluster.broker().queued("default", "echo"), 0)
    assert f"entry {entry.decode()} of {STREAM} is not a job" in caplog.text
    assert await cluster.broker().counts() == {"completed": 1, "unreadable": 1}
    ((_, kept),) = await client.xrange(ASIDE)
    assert (kept[b"stream"].decode(), kept[b"entry"]) == (STREAM, entry)


@pytest.mark.parametrize(
    "content",
    [
        {"pipeline": "wait"},
        {"outputs": [["echo"]]},
        {"outputs": "echo"},
        {"inputs": {"value": {"$": "rational", "v": [1, 0]}}},
        {"deadline_s": -1},
    ],
)
async def test_a_job_that_cannot_be_read_ends_with_the_reason(
    cluster: Cluster, content: dict[str, Any]
) -> None:
    """Such as one that a broken or newer dispatcher has sent; its worker continues."""
    await cluster.worker(ECHO)
    broker, body = cluster.broker(), json.dumps({**json.loads(BODY), **content}).encode()
    envelope = Envelope("k", Address("default", "echo"), body, "digest", None)
    await broker.submit(envelope, "sender", limit=10)
    async for answer in broker.answers("sender"):
        assert answer is not None
        assert answer[0] == "k"
        assert b'"code": "incompatible_payload"' in answer[1]
        break
    dispatcher = await cluster.dispatcher()
    assert (await dispatcher.run("echo", {"value": 1})).unwrap() == {"echo": 1}


@pytest.mark.parametrize("outputs", [[["echo"]], "echo", [1]])
async def test_outputs_that_are_not_keys_are_refused(cluster: Cluster, outputs: Any) -> None:
    """Before they are sent."""
    dispatcher = await cluster.dispatcher()
    with pytest.raises(InvalidConfigError, match="give a list of keys"):
        await dispatcher.run("echo", {"value": 1}, outputs=outputs)


async def test_an_answer_that_cannot_be_read_is_skipped(
    cluster: Cluster, client: Any, gate: Gate
) -> None:
    """Later answers arrive."""
    await cluster.worker(WAIT, providers=gate.registry())
    dispatcher = await cluster.dispatcher()
    running = asyncio.create_task(dispatcher.run("wait", key="k"))
    await gate.entered.wait()
    (sender,) = [f for f in await client.hkeys("{stageflow}:job:k") if f.startswith(b"to ")]
    for fields in ({"x": "1"}, {"key": b"\xff", "result": "1"}, {"key": "k"}):
        await client.xadd(sender[3:], fields)
    gate.go_on.set()
    assert (await asyncio.wait_for(running, 60)).status == "completed"


async def test_a_message_about_a_breaker_that_cannot_be_read_is_skipped(
    cluster: Cluster, client: Any
) -> None:
    """Later ones are followed, and so is what is stored beside one that cannot be read."""
    await client.hset("{stageflow}:breakers", "odd", "{")
    async with SharedBreakers(cluster.url) as breakers:
        await breakers.heard.wait()
        for message in (b"\xff", "{", "[]", '["llm", "ajar", 1, "x"]', '[["llm"], "open", 1, "x"]'):
            await client.publish("{stageflow}:breaker", message)
        await client.publish("{stageflow}:breaker", '["llm", "open", 60, "x"]')
        async with asyncio.timeout(60):
            while breakers["llm"].state is not BreakerState.OPEN:  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0)


def _mutated(chance: random.Random, fields: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """An entry with one field changed, lost or added."""
    name = chance.choice(list(fields))
    how, changed = chance.randrange(4), dict(fields)
    if how == 0:
        del changed[name]
    elif how == 1:
        at = chance.randrange(len(fields[name]) + 1)
        changed[name] = fields[name][:at] + chance.randbytes(3) + fields[name][at + 2 :]
    elif how == 2:
        changed[chance.randbytes(3)] = chance.randbytes(9)
    else:
        changed[name] = chance.randbytes(chance.randrange(40))
    return changed or {b"x": b""}


@pytest.mark.slow
@pytest.mark.untraced
async def test_of_any_entries_no_worker_ends(cluster: Cluster, client: Any) -> None:
    """Of 2,000 raw and mutated entries every one leaves the stream, and the jobs between end."""
    chance = random.Random(7)
    end = await cluster.worker(ECHO, concurrency=64)
    dispatcher = await cluster.dispatcher()
    await dispatcher.run("echo", {"value": 0})
    sent = []
    for number in range(2_000):
        fields = {b"key": b"raw-%d" % number, b"body": BODY, b"until": b""}
        await client.xadd(STREAM, _mutated(chance, fields))
        if number % 20 == 0:
            sent.append(asyncio.create_task(dispatcher.run("echo", {"value": number})))
    async with asyncio.timeout(120):
        results = await asyncio.gather(*sent)
        await until(lambda: cluster.broker().queued("default", "echo"), 0)
    assert [result.unwrap()["echo"] for result in results] == list(range(0, 2_000, 20))
    assert await cluster.broker().counts() == {"completed": 101, "unreadable": 2_000}
    await end()


async def test_a_job_whose_state_cannot_be_read_ends(cluster: Cluster, client: Any) -> None:
    """Its lease is renewed as those of others; its answer is given to nobody."""
    broker, address = cluster.broker(), Address("default", "echo")
    await broker.join("w", b"info", [address], ttl_s=60.0)
    await broker.submit(Envelope("k", address, BODY, "digest", None), "sender", limit=1)
    held = await broker.take("w", [address], count=1, wait_s=1.0)
    await client.delete("{stageflow}:job:k")
    await client.set("{stageflow}:job:k", "odd")
    assert await broker.renew("w", held) == {}
    assert not await broker.complete("k", b"{}", "completed", delivery=held[0])
    assert await broker.queued("default", "echo") == 0


async def test_a_job_behind_many_others_is_reclaimed(cluster: Cluster) -> None:
    """With one free slot, behind more jobs under way than one look at the stream sees."""
    broker, address = cluster.broker(), Address("default", "echo")
    await broker.join("busy", b"info", [address], ttl_s=60.0)
    for number in range(50):
        envelope = Envelope(f"k{number}", address, BODY, "digest", None)
        await broker.submit(envelope, "sender", limit=100)
    await broker.take("busy", [address], count=49, wait_s=1.0)
    dead = await broker.take("dead", [address], count=1, wait_s=1.0)
    await broker.give_back("dead", dead)  # its lease has ended, those of the others have not
    (found,) = await broker.reclaim("heir", [address], count=1, lease_s=600.0)
    assert found.key == "k49"
