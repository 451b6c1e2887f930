"""What a hop costs, what the broker can carry, and how turns a second grow with workers.

    python -m tests.cluster.figures

All of it is measured in one run, on one machine: figures of two runs are not to be compared.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from redis.asyncio import Redis

from stageflow import Pipeline, PipelineContext
from stageflow.breaker import BreakerPolicy, BreakerState
from stageflow.cluster import Dispatcher, RedisBroker, SharedBreakers, TurnResult
from stageflow.cluster.broker import Address, Parcel
from stageflow.cluster.turn import Card, Turn, Wire, encode_card
from stageflow.context import RunStatus
from stageflow.dlq.codec import DEFAULT_CODEC
from tests.cluster.pipelines import busy, one
from tests.utils.redis_server import RedisServer
from tests.utils.workers import WorkerProcess

CONCURRENCY = 16
OUTSTANDING = 400
_SERVED = [f"tests.cluster.pipelines:{name}" for name in ("one", "waiting", "busy")]


async def rate(times: int, call: Callable[[int], Awaitable[Any]]) -> float:
    """How many calls a second end if all are made at once."""
    began = time.perf_counter()
    await asyncio.gather(*map(call, range(times)))
    return times / (time.perf_counter() - began)


async def in_process(pipeline: Pipeline, inputs: dict[str, Any], times: int) -> float:
    """Microseconds that a turn takes without a hop, one after another."""
    began = time.perf_counter()
    for _ in range(times):
        (await pipeline.run(PipelineContext(inputs))).unwrap()
    return (time.perf_counter() - began) / times * 1e6


async def one_by_one(dispatcher: Dispatcher, times: int) -> tuple[float, float]:
    """Milliseconds that a turn takes with a hop, one after another: the median and the P99."""
    took = []
    for number in range(times):
        began = time.perf_counter()
        (await dispatcher.run("one", {"n": number})).unwrap()
        took.append((time.perf_counter() - began) * 1e3)
    return statistics.median(took), statistics.quantiles(took, n=100)[98]


async def broker_alone(broker: RedisBroker, times: int) -> tuple[float, float]:
    """Turns a second that the broker keeps, hands out and ends with nobody behind or before it.

    Returns:
        What one client gets out of it, and what the server could carry by the processor time that
        it took for each turn.
    """
    wire, address = Wire(DEFAULT_CODEC), Address("bare", "one")
    await broker.join("bare", encode_card(Card(("bare",), {})), [address], ttl_s=60.0)
    turns = [Turn("one", {"n": n}, f"bare-{n}", "bare") for n in range(times)]
    parcels = [
        Parcel(turn.key, address, *wire.encode_turn(turn), remaining_s=None) for turn in turns
    ]
    ends = [
        wire.encode_result(TurnResult(t.key, "one", RunStatus.COMPLETED, {"m": 1})) for t in turns
    ]
    client = Redis.from_url(await _url(broker))
    used_s = await _processor_s(client)
    began = time.perf_counter()
    await asyncio.gather(*(broker.submit(p, "bare", limit=10**9) for p in parcels))
    left = times
    while left:
        taken = await broker.take("bare", [address], count=256, wait_s=1.0)
        settling = (broker.settle(d.key, ends[int(d.key[5:])], "completed") for d in taken)
        left -= len(await asyncio.gather(*settling))
    took_s = time.perf_counter() - began
    used_s = await _processor_s(client) - used_s
    await client.aclose()
    return times / took_s, times / used_s


async def _url(broker: RedisBroker) -> str:
    return f"unix://{broker.where}"


async def _processor_s(client: Any) -> float:
    used = await client.info("cpu")
    return float(used["used_cpu_user"]) + float(used["used_cpu_sys"])


async def breaker_ms(url: str, times: int) -> tuple[float, float]:
    """Milliseconds until another client sees a breaker that has opened: the median and the most."""
    policy = BreakerPolicy(failures=1, cooldown_s=600.0)
    clock = asyncio.get_running_loop().time
    took = []
    async with SharedBreakers(url, policy) as here, SharedBreakers(url, policy) as there:
        await asyncio.gather(here.heard.wait(), there.heard.wait())
        for number in range(times):
            name, began = f"provider{number}", time.perf_counter()
            here[name].fail(here[name].acquire(clock), clock)
            while there[name].state is not BreakerState.OPEN:  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0)
            took.append((time.perf_counter() - began) * 1e3)
    return statistics.median(took), max(took)


async def measure(redis: RedisServer, most: int, scale: float) -> None:
    """Measure, and print a line as soon as its figure is known."""
    workers: list[WorkerProcess] = []
    broker = RedisBroker(redis.url)
    try:
        alone_us = await in_process(one, {"n": 1}, int(5_000 * scale))
        print(
            f"in one process              {alone_us:8.0f} µs a turn, {1e6 / alone_us:7.0f} turns/s"
        )
        through, limit = await broker_alone(broker, int(10_000 * scale))
        print(
            f"the broker alone, 1 client  {through:8.0f} turns/s; its processor allows {limit:.0f}"
        )
        median_ms, most_ms = await breaker_ms(redis.url, 50)
        print(f"an open breaker is seen in  {median_ms:8.2f} ms, at most {most_ms:.2f} ms of 50")
        print("\nworkers     hop only     50 ms waiting   10 stages computing   (turns/s)")
        async with Dispatcher(broker, max_outstanding=OUTSTANDING) as dispatcher:
            for count in range(1, most + 1):
                worker = WorkerProcess(
                    redis.url, *_SERVED, "--concurrency", str(CONCURRENCY), environment={}
                )
                workers.append(worker)
                worker.wait_until_it_serves()
                if count == 1:
                    hop_ms = await one_by_one(dispatcher, int(1_000 * scale))
                hop = await rate(int(6_000 * scale), lambda n: dispatcher.run("one", {"n": n}))
                idle = await rate(int(1_000 * scale * count), lambda _: dispatcher.run("waiting"))
                work = await rate(int(300 * scale * count), lambda _: dispatcher.run("busy"))
                print(f"{count:7d} {hop:12.0f} {idle:17.0f} {work:21.0f}", flush=True)
        busy_us = await in_process(busy(), {}, int(200 * scale))
        print(f"in one process, computing:{1e6 / busy_us:33.0f}")
        print(f"\none turn after another, with a hop: {hop_ms[0]:.2f} ms, P99 {hop_ms[1]:.2f} ms;")
        print(f"the hop costs {hop_ms[0] - alone_us / 1e3:.2f} ms of that")
        print(f"\n{os.cpu_count()} processors, {CONCURRENCY} turns at once in a worker, at most")
        print(f"{OUTSTANDING} under way; Redis with appendfsync always")
    finally:
        await broker.close()
        for worker in workers:
            worker.kill()


def main() -> int:
    """Measure with servers of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=4, help="how many at most (default: 4)")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="how much is measured (default: 1)"
    )
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)  # each breaker that opens says so
    with RedisServer() as redis:
        asyncio.run(measure(redis, arguments.workers, arguments.scale))
    return 0


if __name__ == "__main__":
    sys.exit(main())
