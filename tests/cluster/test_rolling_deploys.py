"""Two versions of workers and dispatchers side by side: no job is lost, each refusal is named."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from stageflow import Pipeline, stage
from stageflow.cluster import Address, Dispatcher, Envelope, Job, RedisBroker, Worker
from stageflow.cluster.job import Wire, WorkerInfo, encode_worker_info
from stageflow.codec import DEFAULT_CODEC
from tests.cluster.support import ECHO, Cluster, number_of, until
from tests.utils.errors import raises_code

ADDRESS = Address("default", "echo")
BODY, _ = Wire(DEFAULT_CODEC).encode_job(Job("echo", {"value": 1}, "k"))


@stage
async def echo(value: int, unit: str) -> str:
    return f"{value} {unit}"


NEW = Pipeline("echo", [echo], inputs=["value", "unit"])


def newer(**fields: Any) -> bytes:
    """A job in a format that this version does not know."""
    return json.dumps({**json.loads(BODY), "protocol": 2, "version": "9.9", **fields}).encode()


def info(protocol: int, *, version: str = "9.9") -> bytes:
    return encode_worker_info(WorkerInfo(("default",), {"echo": ()}, protocol, version))


async def answer_of(cluster: Cluster, body: bytes, key: str = "k") -> dict[str, Any]:
    """Send a body and return the answer."""
    broker = cluster.broker()
    await broker.submit(Envelope(key, ADDRESS, body, key, None), "sender", limit=10)
    async for answer in broker.answers("sender"):
        assert answer is not None
        return dict(json.loads(answer[1]))
    raise AssertionError


async def test_a_job_of_a_newer_format_waits_for_a_newer_worker(cluster: Cluster) -> None:
    """The older worker leaves it in the stream, and refuses it once no newer worker is left."""
    broker = cluster.broker()
    await broker.join("new", info(2), [ADDRESS], ttl_s=600.0)
    await cluster.worker(ECHO, lease_s=0.2, name="old")
    answer = asyncio.create_task(answer_of(cluster, newer(inputs=[1])))
    await until(lambda: broker.queued("default", "echo"), 1)
    dispatcher = await cluster.dispatcher()
    assert (await dispatcher.run("echo", {"value": 1})).worker == "old"
    assert not answer.done()
    (taken,) = await _reclaimed(broker)
    assert (taken.key, taken.body) == ("k", newer(inputs=[1]))
    await broker.give_back("new", [taken])
    await broker.leave("new")
    failure = (await answer)["failure"]
    assert failure["code"] == "protocol_mismatch"
    assert "stageflow 9.9) speaks version 2" in failure["message"]


async def _reclaimed(broker: Any) -> Any:
    """Reclaim as the newer worker, which may find that the older one looks at the job just now."""
    async with asyncio.timeout(60):
        while True:
            if found := await broker.reclaim("new", [ADDRESS], count=1, lease_s=0.2):
                return found


async def test_a_job_without_a_new_input_waits_for_a_worker_that_does_not_need_it(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Jobs of old and new callers end on workers that can run them."""
    monkeypatch.setattr("stageflow.cluster.dispatcher._FRESH_S", 3600.0)
    old = await cluster.worker(ECHO, lease_s=0.2, concurrency=2)
    await cluster.worker(NEW, lease_s=0.2, concurrency=2, name="new")
    dispatcher = await cluster.dispatcher()
    sent = [dispatcher.run("echo", {"value": n}) for n in range(20)]
    sent += [dispatcher.run("echo", {"value": n, "unit": "kg"}) for n in range(20)]
    results = [result.unwrap()["echo"] for result in await asyncio.gather(*sent)]
    assert results[:20] == list(range(20))
    assert {str(text).split()[0] for text in results[20:]} == {str(n) for n in range(20)}
    await old()
    with raises_code("missing_job_inputs", match=r"\['unit'\] for pipeline 'echo'"):
        await (await cluster.dispatcher()).run("echo", {"value": 1})
    # This dispatcher has not read the list of workers again.
    result = await dispatcher.run("echo", {"value": 1})
    assert (result.status, result.worker) == ("failed", "new")
    with raises_code("missing_job_inputs", match=r"worker new needs the inputs \['unit'\]"):
        result.unwrap()


class SlowBroker(RedisBroker):
    """Holds every registration but the first until the test lets it go on."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.joined = 0
        self.left = False
        self.again = asyncio.Event()
        self.go_on = asyncio.Event()

    async def join(self, *args: Any, **options: Any) -> None:
        self.joined += 1
        if self.joined > 1:
            self.again.set()
            await self.go_on.wait()
        await super().join(*args, **options)

    async def leave(self, worker: str) -> None:
        self.left = True
        await super().leave(worker)


async def test_a_worker_that_ends_while_it_registers_again_stays_gone(cluster: Cluster) -> None:
    """A dispatcher would send its jobs to a worker that is not there."""
    broker, stop = SlowBroker(cluster.url), asyncio.Event()
    async with asyncio.TaskGroup() as group, broker:
        worker = Worker([ECHO.orchestrator], broker, lease_s=4.0)
        serving = group.create_task(worker.serve(stop))
        await broker.again.wait()
        stop.set()
        for _ in range(20):  # more steps than it takes to begin to leave
            await asyncio.sleep(0)
        assert not broker.left
        broker.go_on.set()
        await serving
        assert await broker.workers() == {}


async def test_a_dispatcher_learns_of_changed_inputs(cluster: Cluster) -> None:
    """Before it refuses a job it looks at the workers again."""
    end = await cluster.worker(NEW)
    dispatcher = await cluster.dispatcher()
    await dispatcher.run("echo", {"value": 1, "unit": "kg"})
    await end()
    await cluster.worker(ECHO)
    assert (await dispatcher.run("echo", {"value": 1})).unwrap() == {"echo": 1}


async def test_a_pipeline_of_the_new_workers_runs_on_them(cluster: Cluster) -> None:
    """It is refused by name until the first of them is there."""
    other = Pipeline("other", [echo])
    await cluster.worker(ECHO, name="old")
    dispatcher = await cluster.dispatcher()
    inputs = {"value": 1, "unit": "kg"}
    with raises_code("unserved_pipeline", match="'other'; they serve 'echo'"):
        await dispatcher.run("other", inputs)
    await cluster.worker(ECHO, other, name="new")
    await until(lambda: number_of(cluster.broker().workers()), 2)
    results = await asyncio.gather(*(dispatcher.run("other", inputs) for _ in range(10)))
    assert {(result.worker, result.outputs["echo"]) for result in results} == {("new", "1 kg")}


async def test_a_dispatcher_sends_nothing_to_a_newer_worker(cluster: Cluster) -> None:
    """While an older one serves the queue, its jobs run there."""
    await cluster.broker().join("new", info(2), [ADDRESS], ttl_s=60.0)
    hasty = await cluster.dispatcher(worker_patience_s=0.1)
    with raises_code("protocol_mismatch", match=r"stageflow 9\.9"):
        await hasty.run("echo", {"value": 1})
    await cluster.worker(ECHO, name="old")
    await until(lambda: number_of(cluster.broker().workers()), 2)
    assert (await hasty.run("echo", {"value": 1})).worker == "old"


def test_fields_that_are_added_do_not_disturb() -> None:
    """Within a protocol, either side may know fields that the other does not."""
    wire = Wire(DEFAULT_CODEC)
    plain = {**json.loads(BODY), "added": 1}
    assert plain["version"]
    assert wire.decode_job("k", ADDRESS, json.dumps(plain).encode()).inputs == {"value": 1}


@pytest.mark.parametrize("fields", [{"version": None}, {"version": 7}, {"version": "9" * 9_000}])
def test_a_sender_is_named_whatever_it_says_of_itself(fields: dict[str, Any]) -> None:
    """Briefly."""
    with raises_code("protocol_mismatch", match="stageflow ") as refused:
        Wire(DEFAULT_CODEC).decode_job("k", ADDRESS, newer(**fields))
    assert len(str(refused.value)) < 300


async def test_a_dispatcher_can_be_closed_while_a_job_waits(cluster: Cluster) -> None:
    """The deadline of a job that waits for another version holds."""
    await cluster.broker().join("new", info(2), [ADDRESS], ttl_s=600.0)
    await cluster.worker(ECHO, lease_s=0.2)
    dispatcher: Dispatcher = await cluster.dispatcher()
    assert (await dispatcher.run("echo", {"value": 1})).status == "completed"
    broker = cluster.broker()
    await broker.submit(Envelope("k", ADDRESS, newer(), "k", 0.3), "sender", limit=10)
    await until(lambda: broker.queued("default", "echo"), 0)
    assert await broker.counts() == {"completed": 1, "failed": 1}
