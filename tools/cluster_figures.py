"""Measure the cost of a hop, the broker's limit, and jobs a second by number of workers.

Each round measures every figure once, all on one machine. The report shows the median of the
rounds, with the least and the most.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from redis.asyncio import Redis

from stageflow import Pipeline, PipelineContext, RunStatus
from stageflow.cluster import (
    Address,
    Dispatcher,
    Envelope,
    Job,
    JobResult,
    RedisBroker,
    SharedBreakers,
)
from stageflow.cluster.job import Wire, WorkerInfo, encode_worker_info
from stageflow.codec import DEFAULT_CODEC
from stageflow.resilience import BreakerPolicy, BreakerState
from tests.cluster.pipelines import busy, one
from tests.utils.redis_server import RedisServer
from tests.utils.workers import WorkerProcess

CONCURRENCY = 16
OUTSTANDING = 400
WORKERS = 4
#: How many jobs of each kind a worker is given in a round.
JOBS = {"one": 1_500, "waiting": 300, "busy": 80}


async def rate(times: int, call: Callable[[], Awaitable[Any]]) -> float:
    """How many calls a second end if all are made at once."""
    began = time.perf_counter()
    await asyncio.gather(*(call() for _ in range(times)))
    return times / (time.perf_counter() - began)


async def in_process(pipeline: Pipeline, inputs: dict[str, Any], times: int) -> float:
    """Microseconds that a job takes without a hop, one after another."""
    began = time.perf_counter()
    for _ in range(times):
        (await pipeline.run(PipelineContext(inputs))).unwrap()
    return (time.perf_counter() - began) / times * 1e6


async def one_by_one(dispatcher: Dispatcher, times: int) -> tuple[float, float]:
    """Milliseconds that a job takes with a hop, one after another: the median and the P99."""
    took = []
    for number in range(times):
        began = time.perf_counter()
        (await dispatcher.run("one", {"n": number}, queue="1")).unwrap()
        took.append((time.perf_counter() - began) * 1e3)
    return statistics.median(took), statistics.quantiles(took, n=100)[98]


async def broker_alone(url: str, broker: RedisBroker, times: int) -> tuple[float, float]:
    """Jobs a second that the broker keeps, hands out and ends with nobody behind or before it.

    Returns:
        What one client gets out of it, and what the server could carry by the processor time that
        it took for each job.
    """
    wire, address = Wire(DEFAULT_CODEC), Address("bare", "one")
    await broker.join("bare", encode_worker_info(WorkerInfo(("bare",), {})), [address], ttl_s=60.0)
    client = Redis.from_url(url)
    first = int(await client.incrby("bare", times)) - times  # keys that no round has had
    jobs = [Job("one", {"n": n}, str(first + n), "bare") for n in range(times)]
    envelopes = [
        Envelope(job.key, address, *wire.encode_job(job), remaining_s=None) for job in jobs
    ]
    ends = [
        wire.encode_result(JobResult(job.key, "one", RunStatus.COMPLETED, {"m": 1})) for job in jobs
    ]
    used_s = await _processor_s(client)
    began = time.perf_counter()
    await asyncio.gather(*(broker.submit(p, "bare", limit=10**9) for p in envelopes))
    left = times
    while left:
        taken = await broker.take("bare", [address], count=256, wait_s=1.0)
        settling = (broker.complete(d.key, ends[int(d.key) - first], "completed") for d in taken)
        left -= len(await asyncio.gather(*settling))
    took_s = time.perf_counter() - began
    used_s = await _processor_s(client) - used_s
    await client.aclose()
    return times / took_s, times / used_s


async def _processor_s(client: Any) -> float:
    used = await client.info("cpu")
    return float(used["used_cpu_user"]) + float(used["used_cpu_sys"])


async def breaker_ms(url: str, times: int) -> list[float]:
    """Milliseconds until another client sees a breaker that has opened, each time."""
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
    return took


class Figures:
    """The measurements, round by round."""

    def __init__(self) -> None:
        """Nothing yet."""
        self._rounds: defaultdict[str, list[float]] = defaultdict(list)

    def add(self, **values: float) -> None:
        """One more of each."""
        for name, value in values.items():
            self._rounds[name].append(value)

    def __call__(self, name: str, form: str = ".0f") -> str:
        """The median, and in brackets the least and the most."""
        found = self._rounds[name]
        low, middle, high = min(found), statistics.median(found), max(found)
        return f"{middle:{form}} ({low:{form}} to {high:{form}})"


async def one_round(
    url: str, broker: RedisBroker, dispatcher: Dispatcher, figures: Figures, scale: float
) -> None:
    """Every figure once. The queue "3" is read by three of the workers, and so on."""
    through, limit = await broker_alone(url, broker, int(2_000 * scale))
    figures.add(
        alone_us=await in_process(one, {"n": 1}, int(2_000 * scale)),
        busy_us=await in_process(busy(), {}, int(50 * scale)),
        through=through,
        limit=limit,
    )
    median_ms, p99_ms = await one_by_one(dispatcher, int(300 * scale))
    figures.add(hop_ms=median_ms, hop_p99_ms=p99_ms)
    for count in range(1, WORKERS + 1):
        for name, each in JOBS.items():
            inputs = {"n": 1} if name == "one" else {}
            send = partial(dispatcher.run, name, inputs, queue=str(count))
            found = await rate(int(each * count * scale), send)
            figures.add(**{f"{name} {count}": found})


def report(figures: Figures, rounds: int) -> None:
    """Print it."""
    print(f"median (least to most) of {rounds} rounds; {os.cpu_count()} processors, all of it on")
    print(f"one machine; {CONCURRENCY} jobs at once in a worker, at most {OUTSTANDING} under way")
    print("from one dispatcher; Redis with appendfsync always\n")
    print(f"a job in this process, µs               {figures('alone_us')}")
    print(f"a job by a worker, one after another    {figures('hop_ms', '.2f')} ms")
    print(f"the slowest of a hundred of these        {figures('hop_p99_ms', '.2f')} ms")
    print(f"the broker alone, jobs/s by one client  {figures('through')}")
    print(f"what its processor time would allow      {figures('limit')}")
    print(f"an open breaker is seen elsewhere after  {figures('breaker_ms', '.2f')} ms\n")
    print("jobs/s by  hop only                waiting for 50 ms     computing in 10 stages")
    for count in range(1, WORKERS + 1):
        cells = (figures(f"{name} {count}") for name in JOBS)
        print(f"{count} worker{'s' if count > 1 else ' '}   " + "".join(f"{c:24}" for c in cells))
    print(f"in this process, one after another, µs a job that computes: {figures('busy_us')}")


async def measure(redis: RedisServer, rounds: int, scale: float) -> Figures:
    """Start the workers, and go round."""
    figures, broker = Figures(), RedisBroker(redis.url)
    workers: list[WorkerProcess] = []
    served = [f"tests.cluster.pipelines:{name}" for name in JOBS]
    try:
        for number in range(1, WORKERS + 1):
            options = ["--concurrency", str(CONCURRENCY)]
            for queue in range(number, WORKERS + 1):
                options += ["--queue", str(queue)]
            workers.append(WorkerProcess(redis.url, *served, *options, environment={}))
        for worker in workers:
            worker.wait_until_it_serves()
        async with Dispatcher(broker, max_outstanding=OUTSTANDING) as dispatcher:
            for number in range(rounds):
                print(f"round {number + 1} of {rounds} …", file=sys.stderr)
                await one_round(redis.url, broker, dispatcher, figures, scale)
        for took_ms in await breaker_ms(redis.url, 50):
            figures.add(breaker_ms=took_ms)
    finally:
        await broker.close()
        for worker in workers:
            worker.kill()
    return figures


def main() -> int:
    """Measure with servers of its own."""
    parser = argparse.ArgumentParser("python -m tools.cluster_figures", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="how many rounds (default: 5)")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="how much is measured in each (default: 1)"
    )
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)  # each breaker that opens says so
    with RedisServer() as redis:
        report(asyncio.run(measure(redis, arguments.rounds, arguments.scale)), arguments.rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
