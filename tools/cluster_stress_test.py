"""Run thousands of payments while workers are killed, the broker crashes and the database stops.

With --broker sentinel or cluster it has a replica, and fails over instead of crashing.
Each job must end exactly once by every count: the ends that the dispatchers received, the broker's
counters, the rows of the ledger, the dead letters. Each caller, with and without a deadline, must
get a result. The exit code is 1 if any of them disagree.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import psycopg

from stageflow.cluster import Dispatcher, JobResult, RedisBroker
from stageflow.dlq import PostgresDeadLetterStore
from tests.cluster.pipelines import LEDGER, SCHEMA
from tests.utils.postgres import PostgresServer
from tests.utils.redis_deployments import BehindSentinel, InCluster, Replicated
from tests.utils.redis_server import RedisServer
from tests.utils.workers import WorkerProcess

#: The deadline of every second job, in seconds: mishaps included, each ends long before.
_DEADLINE_S = 3_600.0


@dataclass
class Outcome:
    """The counts at the end.

    Attributes:
        ends: How each job ended, by its key, as its dispatcher was notified.
        again: The same of those that another dispatcher has sent as well.
        counts: How many jobs have ended, by outcome, as the broker has counted.
        attempts: How often each payment was begun, by key.
        run_ids: How many ids the runs of a key had at most.
        paid: The keys of the payments in the ledger.
        letters: The correlation ids of the dead letters.
        left: How many jobs are in the broker's queue still.
        events: How often each mishap was caused.
        seconds: How long it took.
        failed_over: Whether the broker failed over: what a replica has confirmed is kept, and an
            answer may have been read before that.
    """

    ends: dict[str, JobResult] = field(default_factory=dict)
    again: dict[str, JobResult] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    attempts: Counter[str] = field(default_factory=Counter)
    run_ids: int = 0
    paid: list[str] = field(default_factory=list)
    letters: list[str | None] = field(default_factory=list)
    left: int = 0
    events: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    failed_over: bool = False

    def problems(self, jobs: int) -> list[str]:
        """Return the promises that were broken, one sentence each."""
        completed = {key for key, end in self.ends.items() if end.status == "completed"}
        failed = {key for key, end in self.ends.items() if end.status == "failed"}
        told_twice = [
            key
            for key, end in self.again.items()
            if self._facts(end) != self._facts(self.ends[key])
        ]
        checks = {
            f"{len(self.ends)} of {jobs} jobs have ended": len(self.ends) == jobs,
            f"the broker has counted {self.counts}": sum(self.counts.values()) == jobs,
            "some neither completed nor failed": len(completed) + len(failed) == jobs,
            "one was paid twice": len(self.paid) == len(set(self.paid)),
            "one completed and was not paid": completed <= set(self.paid),
            "one left two letters": len(self.letters) == len(set(self.letters)),
            f"failed without a letter: {self._unkept(failed)}": set(self.letters) == failed,
            f"two dispatchers heard two ends:  {told_twice}": not told_twice,
            f"{self.left} jobs are in the queue": self.left == 0,
            f"attempts at one job had {self.run_ids} run ids": self.run_ids == 1,
        }
        return [problem for problem, holds in checks.items() if not holds]

    def _facts(self, end: JobResult) -> tuple[Any, ...]:
        told = end.status, end.pipeline_run_id, dict(end.outputs)
        return told if self.failed_over else (*told, end.worker, end.deliveries)

    def _unkept(self, failed: set[str]) -> dict[str, str]:
        """Return the problems of failed jobs that left no letter."""
        ends = {key: self.ends[key] for key in failed - set(self.letters)}
        return {key: f"{end.failure}; {end.dead_letter_error}" for key, end in ends.items()}


class StressTest:
    """The servers, the workers, and the crashes."""

    def __init__(
        self,
        redis: RedisServer | Replicated,
        postgres: PostgresServer,
        url: str,
        *,
        workers: int,
        seed: int,
    ) -> None:
        """Choose the servers, which run, and the database of the ledger and the letters."""
        self.redis, self.postgres, self.url = redis, postgres, url
        self.random = random.Random(seed)
        self.outcome = Outcome()
        self._count = workers
        self._workers: list[WorkerProcess] = []

    def start_worker(self) -> None:
        """One more worker."""
        options = ["--concurrency", "16", "--lease-s", "1", "--drain-s", "5"]
        served = ["tests.cluster.pipelines:payments", "--dlq", self.url]
        provided = ["--providers", "tests.cluster.pipelines:providers"]
        worker = WorkerProcess(
            self.redis.url, *served, *provided, *options, environment={LEDGER: self.url}
        )
        self._workers.append(worker)

    def kill_worker(self) -> None:
        """Kill one at random, and start another in its place."""
        victim = self._workers.pop(self.random.randrange(len(self._workers)))
        victim.kill()
        self.outcome.events["workers killed"] += 1
        self.start_worker()

    def crash_broker(self) -> None:
        """Kill the broker, and bring it back with what it has acknowledged."""
        if isinstance(self.redis, RedisServer):
            self.redis.kill()
            self.redis.start()
            self.outcome.events["broker killed"] += 1
        else:
            self.redis.fail_over()
            self.outcome.failed_over = True
            self.outcome.events["broker failed over"] += 1

    def stop_database(self) -> None:
        """Stop the database, kill a worker meanwhile, and bring it back."""
        self.postgres.stop()
        self.kill_worker()
        self.postgres.start()
        self.outcome.events["database stopped"] += 1

    async def run(self, jobs: int, *, kills: int, crashes: int = 2) -> Outcome:
        """Send the jobs, cause the mishaps as they end, and count."""
        async with await psycopg.AsyncConnection.connect(self.url) as connection:
            await connection.execute(SCHEMA)
        started_at = time.perf_counter()
        for _ in range(self._count):
            self.start_worker()
        broker = RedisBroker(self.redis.url, patience_s=300.0)
        try:
            async with (
                Dispatcher(broker, max_outstanding=300, worker_patience_s=60.0) as first,
                Dispatcher(broker, max_outstanding=300, worker_patience_s=60.0) as second,
            ):
                mishaps = asyncio.create_task(self._mishaps(jobs, kills, crashes))
                sending = [self._send(first, number, self.outcome.ends) for number in range(jobs)]
                sending += [
                    self._send(second, number, self.outcome.again) for number in range(0, jobs, 7)
                ]
                await asyncio.gather(*sending)
                await mishaps
            await self._count_all(broker)
        finally:
            await broker.close()
            for worker in self._workers:
                worker.kill()
        self.outcome.seconds = time.perf_counter() - started_at
        return self.outcome

    async def _send(self, by: Dispatcher, number: int, ends: dict[str, JobResult]) -> None:
        key = f"payment-{number}"
        inputs = {"number": number, "pause_ms": number % 23}
        # Half of the callers have a deadline, which no job needs.
        deadline_s = _DEADLINE_S if number % 2 else None
        ends[key] = await by.run("payments", inputs, key=key, deadline_s=deadline_s)
        self._ended.set()

    async def _mishaps(self, jobs: int, kills: int, crashes: int) -> None:
        self._ended = asyncio.Event()
        due = [(jobs * (n + 1) // (kills + 2), self.kill_worker) for n in range(kills)]
        due += [(jobs * (n + 1) // (crashes + 1), self.crash_broker) for n in range(crashes)]
        due += [(jobs // 2, self.stop_database)]
        for ended, mishap in sorted(due, key=lambda pair: pair[0]):
            while len(self.outcome.ends) < ended:
                self._ended.clear()
                await self._ended.wait()
            await asyncio.to_thread(mishap)

    async def _count_all(self, broker: RedisBroker) -> None:
        outcome = self.outcome
        outcome.counts = await broker.counts()
        outcome.left = await broker.queued("default", "payments")
        async with await psycopg.AsyncConnection.connect(self.url) as connection:
            found = await connection.execute("SELECT key, run_id FROM attempts")
            rows = await found.fetchall()
            found = await connection.execute("SELECT key FROM paid")
            outcome.paid = [key for (key,) in await found.fetchall()]
        outcome.attempts = Counter(key for key, _ in rows)
        ids = Counter(key for key, _ in set(rows))
        outcome.run_ids = max(ids.values())
        async with PostgresDeadLetterStore(self.url) as store:
            outcome.letters = [letter.correlation_id for letter in await store.letters()]


#: How a broker can be run.
BROKERS = {"single": RedisServer, "sentinel": BehindSentinel, "cluster": InCluster}


async def stress(
    jobs: int, *, workers: int, kills: int, seed: int, broker: str = "single", crashes: int = 2
) -> Outcome:
    """Run a stress test on servers of its own."""
    with BROKERS[broker]() as redis, PostgresServer() as postgres:
        url = await postgres.make_database()
        test = StressTest(redis, postgres, url, workers=workers, seed=seed)
        return await test.run(jobs, kills=kills, crashes=crashes)


def main() -> int:
    """Run the stress test, and print the counts."""
    parser = argparse.ArgumentParser("python -m tools.cluster_stress_test", description=__doc__)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--broker", choices=BROKERS, default="single")
    text = "how often the broker crashes, or fails over behind Sentinel or in a cluster"
    parser.add_argument("--crashes", type=int, default=2, help=text)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "big"))
    arguments = parser.parse_args()
    outcome = asyncio.run(
        stress(
            arguments.jobs,
            workers=arguments.workers,
            kills=arguments.kills,
            seed=arguments.seed,
            broker=arguments.broker,
            crashes=arguments.crashes,
        )
    )
    statuses = Counter(str(end.status) for end in outcome.ends.values())
    rows = {
        "seed": arguments.seed,
        "jobs sent": arguments.jobs,
        "sent twice": len(outcome.again),
        "ended, as dispatchers heard": f"{len(outcome.ends)} {dict(statuses)}",
        "ended, as the broker counted": f"{sum(outcome.counts.values())} {outcome.counts}",
        "payments in the ledger": f"{len(outcome.paid)}, {len(set(outcome.paid))} different",
        "attempts at payments": sum(outcome.attempts.values()),
        "dead letters": f"{len(outcome.letters)}, {len(set(outcome.letters))} different",
        "taken more than once": sum(end.deliveries > 1 for end in outcome.ends.values()),
        "left in the queue": outcome.left,
        **outcome.events,
        "seconds": f"{outcome.seconds:.1f}",
    }
    for name, value in rows.items():
        print(f"{name:<34}{value}")
    problems = outcome.problems(arguments.jobs)
    for problem in problems:
        print(f"WRONG: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
