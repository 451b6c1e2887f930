"""The dispatcher and the workers in a simulation, with a small broker that is simulated too.

All of their hosts are killed and restarted at steps that are drawn from the seed.
"""

from __future__ import annotations

import asyncio
import pickle
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest

from stageflow import Pipeline, StageContext, StageOutput, stage
from stageflow.cluster import Address, BrokerUnavailableError, Dispatcher, Envelope, Worker
from stageflow.cluster.broker import Broker, Delivery
from stageflow.testing import NetworkPlan, Scenario, Simulation, explore

JOBS = 3
LEASE_S = 2.0


@dataclass
class Stored:
    """A job as the broker has stored it."""

    envelope: Envelope
    senders: dict[str, None]
    answer: bytes | None = None
    ends: int = 0
    deliveries: int = 0
    renewed_s: float | None = None
    cancelled: bool = False


@dataclass
class Store:
    """The disk of the broker, which survives its crashes; `bug` is one that is planted."""

    bug: str = ""
    jobs: dict[str, Stored] = field(default_factory=dict)
    infos: dict[str, tuple[bytes, float]] = field(default_factory=dict)
    answered: dict[str, list[tuple[str, bytes]]] = field(default_factory=dict)
    called_off: list[str] = field(default_factory=list)

    def submit(self, envelope: Envelope, sender: str) -> bytes | None:
        stored = self.jobs.setdefault(envelope.key, Stored(envelope, {}))
        stored.senders[sender] = None
        return stored.answer

    def complete(self, key: str, answer: bytes) -> bool:
        stored = self.jobs[key]
        if stored.answer is not None:
            return False
        stored.answer = answer
        stored.ends += 1
        for sender in stored.senders:
            self.answered.setdefault(sender, []).append((key, answer))
        return True

    def cancel(self, key: str) -> None:
        self.jobs[key].cancelled = True
        self.called_off.append(key)

    def join(self, worker: str, info: bytes, ttl_s: float) -> None:
        self.infos[worker] = info, now_s() + ttl_s

    def leave(self, worker: str) -> None:
        self.infos.pop(worker, None)

    def workers(self) -> dict[str, bytes]:
        return {name: info for name, (info, until_s) in self.infos.items() if until_s > now_s()}

    def take(self, addresses: Sequence[Address], count: int, lease_s: float) -> list[Delivery]:
        """Take jobs that wait (with a lease of 0), or whose lease has expired."""
        found: list[Delivery] = []
        for key, stored in self.jobs.items():
            renewed_s, envelope = stored.renewed_s, stored.envelope
            free = renewed_s is None if not lease_s else (renewed_s or 1e9) + lease_s <= now_s()
            lost = self.bug == "acknowledged when taken" and stored.deliveries
            open_still = stored.answer is None and envelope.address in addresses
            if free and open_still and not lost and len(found) < count:
                stored.deliveries += 1
                stored.renewed_s = now_s()
                rest = envelope.body, envelope.remaining_s, stored.deliveries, stored.cancelled
                receipt = f"{key}/{stored.deliveries}"
                found.append(Delivery(key, envelope.address, receipt, *rest))
        return found

    def renew(self, receipts: Mapping[str, str]) -> dict[str, str]:
        states = {}
        for key, receipt in receipts.items():
            stored = self.jobs[key]
            if stored.answer is not None or receipt != f"{key}/{stored.deliveries}":
                states[key] = "lost"
            elif stored.cancelled:
                states[key] = "cancelled"
            else:
                stored.renewed_s = now_s()
        return states

    def give_back(self, keys: Sequence[str]) -> None:
        for key in keys:
            self.jobs[key].renewed_s = -1e9

    def answers(self, sender: str, seen: int) -> list[tuple[str, bytes]]:
        return self.answered.get(sender, [])[seen:]

    def cancellations(self, seen: int) -> list[str]:
        return self.called_off[seen:]


def now_s() -> float:
    return asyncio.get_running_loop().time()


async def read_frame(reader: StreamReader) -> Any:
    size = int.from_bytes(await reader.readexactly(4), "big")
    return pickle.loads(await reader.readexactly(size))


def write_frame(writer: StreamWriter, value: Any) -> None:
    body = pickle.dumps(value)
    writer.write(len(body).to_bytes(4, "big") + body)


async def serve(store: Store) -> None:
    """Call the store for others."""

    async def handle(reader: StreamReader, writer: StreamWriter) -> None:
        with closing(writer), suppress(OSError, EOFError):
            name, args = await read_frame(reader)
            write_frame(writer, getattr(store, name)(*args))

    async with await asyncio.start_server(handle, None, 7000) as server:
        await server.serve_forever()


class SimulatedBroker(Broker):
    """Calls the store over the network, and retries while its host is away."""

    def __init__(self) -> None:
        self.outages = 0

    async def call(self, name: str, *args: Any) -> Any:
        give_up_s = now_s() + 60
        while True:
            try:
                async with asyncio.timeout(3):
                    reader, writer = await asyncio.open_connection("broker", 7000)
                    with closing(writer):
                        write_frame(writer, (name, args))
                        return await read_frame(reader)
            except (OSError, EOFError) as error:
                self.outages += 1
                if now_s() > give_up_s:
                    raise BrokerUnavailableError("broker", 60, error) from error
                await asyncio.sleep(0.1)

    async def submit(self, envelope: Envelope, sender: str, *, limit: int) -> bytes | None:
        answer: bytes | None = await self.call("submit", envelope, sender)
        return answer

    async def answers(self, sender: str) -> AsyncIterator[tuple[str, bytes] | None]:
        seen, outages = 0, self.outages
        while True:
            found = await self.call("answers", sender, seen)
            if outages != self.outages:
                outages = self.outages
                yield None
            seen += len(found)
            for one in found:
                yield one
            await asyncio.sleep(0.2)

    async def cancel(self, key: str) -> None:
        await self.call("cancel", key)

    async def complete(
        self, key: str, answer: bytes, outcome: str, *, delivery: Delivery | None = None
    ) -> bool:
        return bool(await self.call("complete", key, answer))

    async def workers(self) -> Mapping[str, bytes]:
        found: dict[str, bytes] = await self.call("workers")
        return found

    async def join(
        self, worker: str, info: bytes, addresses: Collection[Address], *, ttl_s: float
    ) -> None:
        await self.call("join", worker, info, ttl_s)

    async def leave(self, worker: str) -> None:
        await self.call("leave", worker)

    async def take(
        self, worker: str, addresses: Sequence[Address], *, count: int, wait_s: float
    ) -> list[Delivery]:
        taken: list[Delivery] = await self.call("take", addresses, count, 0)
        if not taken:
            await asyncio.sleep(wait_s)
        return taken

    async def reclaim(
        self, worker: str, addresses: Sequence[Address], *, count: int, lease_s: float
    ) -> list[Delivery]:
        taken: list[Delivery] = await self.call("take", addresses, count, lease_s)
        return taken

    async def renew(self, worker: str, held: Collection[Delivery]) -> Mapping[str, str]:
        states: dict[str, str] = await self.call("renew", {d.key: d.receipt for d in held})
        return states

    async def give_back(self, worker: str, held: Collection[Delivery]) -> None:
        await self.call("give_back", [one.key for one in held])

    async def cancellations(self) -> AsyncIterator[str]:
        seen = 0
        while True:
            found = await self.call("cancellations", seen)
            seen += len(found)
            for key in found:
                yield key
            await asyncio.sleep(0.5)


@stage(inputs=["number"], outputs=["double"])
async def double(ctx: StageContext) -> StageOutput:
    await asyncio.sleep(0.5)
    return StageOutput.ok(double=2 * ctx["number"])


DOUBLE = Pipeline("double", [double], inputs=["number"])


async def work(name: str) -> None:
    worker = Worker([DOUBLE.orchestrator], SimulatedBroker(), name=name, lease_s=LEASE_S)
    await worker.serve(asyncio.Event())


async def send(results: list[tuple[str, Any]], done: asyncio.Event) -> None:
    """Send all jobs, also those that an earlier start has sent."""
    async with Dispatcher(SimulatedBroker(), worker_patience_s=60) as dispatcher:

        async def run(number: int) -> None:
            result = await dispatcher.run("double", {"number": number}, key=f"job-{number}")
            results.append((result.key, result.unwrap()["double"]))

        await asyncio.gather(*map(run, range(JOBS)))
    done.set()


async def a_cluster_that_crashes(sim: Simulation, bug: str) -> None:
    store, results, done = Store(bug), list[tuple[str, Any]](), asyncio.Event()
    hosts = [
        sim.host("broker", serve, store),
        *(sim.host(name, work, name) for name in ("one", "two")),
        sim.host("sender", send, results, done),
    ]
    for host in hosts:
        sim.loop.at_step(sim.random.randrange(1, 2_000), host.restart)
    async with asyncio.timeout(20):
        await done.wait()
    await asyncio.sleep(2 * LEASE_S)
    assert {key: stored.ends for key, stored in store.jobs.items()} == {
        f"job-{number}": 1 for number in range(JOBS)
    }, "each job ends once"
    assert set(results) == {(f"job-{number}", 2 * number) for number in range(JOBS)}


RESETS = NetworkPlan(resets=0.01)


def test_each_job_ends_once_wherever_its_hosts_are_killed() -> None:
    """Broker, workers and sender, each at any step, and with connections that are reset."""
    explore(a_cluster_that_crashes, "", runs=8, scenario=Scenario(network=RESETS))


def test_a_job_that_is_lost_with_its_worker_is_found() -> None:
    """A broker that counts a job as done once it is taken."""
    scenario = Scenario(order="asyncio", network=RESETS)
    with pytest.raises(TimeoutError):
        explore(a_cluster_that_crashes, "acknowledged when taken", runs=20, scenario=scenario)
