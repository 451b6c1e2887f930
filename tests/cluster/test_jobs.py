"""Jobs that are sent, run and answered, over a real broker."""

from __future__ import annotations

import asyncio
import json

import pytest
from redis.asyncio import Redis

from stageflow import Audio, Message, Pipeline, ProviderRegistry, RunStatus
from stageflow.cli import main
from stageflow.cluster import Address, Envelope, JobResult, remote_pipeline
from stageflow.cluster.job import Wire, WorkerInfo, encode_worker_info
from stageflow.codec import DEFAULT_CODEC
from stageflow.dlq import InMemoryDeadLetterStore
from stageflow.errors import ChildRunError, InvalidConfigError
from tests.cluster.support import (
    DECLINE,
    ECHO,
    REFUSE,
    SAY,
    THING,
    WAIT,
    Cluster,
    Gate,
    echo,
    number_of,
    until,
)
from tests.utils.errors import raises_code

VALUES = ["ü", 2**70, b"\0\xff", (1, [2.5, None]), {"$": 1}, {1, 2}, Message("user", "hi")]


async def test_inputs_and_outputs_cross_the_wire(cluster: Cluster) -> None:
    """Each value that a dead letter can hold arrives equal, in both directions, with its type."""
    await cluster.worker(ECHO)
    dispatcher = await cluster.dispatcher()
    value = [*VALUES, Audio(b"\1\0", 16_000)]
    result = await dispatcher.run("echo", {"value": value})
    assert result.unwrap() == {"echo": value}
    assert list(map(type, result.outputs["echo"])) == list(map(type, value))
    assert (result.status, result.deliveries, result.pipeline) == ("completed", 1, "echo")


async def test_only_outputs_that_are_wanted_come_back(cluster: Cluster) -> None:
    """None come back if the dispatcher requests none."""
    await cluster.worker(ECHO)
    dispatcher = await cluster.dispatcher()
    assert (await dispatcher.run("echo", {"value": 1}, outputs=[])).outputs == {}


async def test_a_refusal_reaches_the_caller(
    cluster: Cluster, capfd: pytest.CaptureFixture[str]
) -> None:
    """It is not a failure and leaves no letter, also if another pipeline requested it."""
    letters = InMemoryDeadLetterStore()
    await cluster.worker(DECLINE, dead_letters=letters, queues=["gpu"])
    outer = Pipeline("outer", [remote_pipeline("there", "decline", queue="gpu"), echo])
    registry = ProviderRegistry(cluster=await cluster.dispatcher())
    await cluster.worker(outer, dead_letters=letters, providers=registry)
    dispatcher = await cluster.dispatcher()
    for result in (
        await dispatcher.run("decline", queue="gpu"),
        await dispatcher.run("outer", {"value": 1}),
    ):
        assert (result.status, result.failure, result.dead_letter) == ("completed", None, None)
        assert result.refusal == result.user_message == "We do not sell\nthat."
    assert not await letters.letters()
    words = ["dispatch", "tests.cluster.support:DECLINE", "--broker", cluster.url, "--queue", "gpu"]
    assert await asyncio.to_thread(main, words) == 0
    assert capfd.readouterr().out == "We do not sell\nthat.\n"
    assert await asyncio.to_thread(main, [*words, "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["user_message"] == "We do not sell\nthat."


async def test_an_answer_of_an_older_worker_is_read(cluster: Cluster) -> None:
    """It does not say whether it is a refusal."""
    wire = Wire(DEFAULT_CODEC)
    plain = json.loads(wire.encode_result(JobResult("k", "echo", RunStatus.COMPLETED)))
    for name in ("refusal", "version"):
        del plain[name]
    assert wire.decode_result("k", json.dumps(plain).encode()).refusal is None
    with raises_code("incompatible_payload", match="refusal is int"):
        wire.decode_result("k", json.dumps({**plain, "refusal": 1}).encode())


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
    with raises_code("stage_failed", match="the shop is closed"):
        result.unwrap()


async def test_an_output_that_cannot_be_sent_fails_the_job(cluster: Cluster) -> None:
    """The failure names it by its path; who asks for other outputs gets them."""
    await cluster.worker(THING)
    dispatcher = await cluster.dispatcher()
    result = await dispatcher.run("thing")
    assert (result.status, result.outputs) == ("failed", {})
    with raises_code("incompatible_payload", match=r"outputs\['thing'\] is of type .*object"):
        result.unwrap()
    assert (await dispatcher.run("thing", outputs=[])).status == "completed"


async def test_a_stream_that_was_not_kept_is_sent_to_nobody(cluster: Cluster) -> None:
    """Its job completes, unless a reader requests that stream by its name."""
    await cluster.worker(SAY)
    dispatcher = await cluster.dispatcher()
    assert (await dispatcher.run("say")).unwrap() == {"length": 2}
    result = await dispatcher.run("say", outputs=["words"])
    assert result.failure is not None
    assert "outputs['words'] is of type" in str(result.failure)


async def test_a_key_that_is_sent_again_runs_once(cluster: Cluster, gate: Gate) -> None:
    """Two dispatchers send it, while it runs and afterwards: all get the one result."""
    await cluster.worker(WAIT, providers=gate.registry())
    first, second = await cluster.dispatcher(), await cluster.dispatcher()
    early = [asyncio.create_task(by.run("wait", key="k")) for by in (first, first, second)]
    await gate.entered.wait()
    gate.go_on.set()
    ends = [*await asyncio.gather(*early), await second.run("wait", key="k")]
    assert len(gate.runs) == 1
    assert {(end.pipeline_run_id, end.key) for end in ends} == set(gate.runs)


async def test_the_run_of_a_key_has_the_same_id_each_time(cluster: Cluster, gate: Gate) -> None:
    """So a stage writes under that id only once, also if another worker takes the job over."""
    gate.go_on.set()
    end = await cluster.worker(WAIT, providers=gate.registry())
    await (await cluster.dispatcher()).run("wait", key="k")
    await end()
    client = Redis.from_url(cluster.url)
    await client.flushall()  # as if the job had been forgotten: it is run a second time
    await client.aclose()
    await cluster.worker(WAIT, providers=gate.registry())
    await (await cluster.dispatcher()).run("wait", key="k")
    first, again = gate.runs
    assert first == again
    assert first[1] == "k"


async def test_a_cancelled_caller_cancels_the_run(cluster: Cluster, gate: Gate) -> None:
    """Its stage cleans up on the worker, and each caller of that key sees the cancellation."""
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
    assert result.failure.code == "job_cancelled"


async def test_a_waiting_job_can_be_cancelled(cluster: Cluster, gate: Gate) -> None:
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


async def test_a_deadline_ends_a_run_on_the_worker(cluster: Cluster, gate: Gate) -> None:
    """As in one process: its stages are cancelled, and the failure has the same code."""
    await cluster.worker(WAIT, providers=gate.registry())
    await until(lambda: number_of(cluster.broker().workers()), 1)
    result = await (await cluster.dispatcher()).run("wait", deadline_s=0.5)
    assert result.failure is not None
    assert (result.status, result.failure.code) == ("failed", "deadline_exceeded")
    assert result.worker is not None
    assert gate.cleaned_up.is_set()


async def test_a_deadline_counts_while_a_job_waits(cluster: Cluster, gate: Gate) -> None:
    """It does not start after its deadline, and its sender gets an error in time."""
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
    """Its sender gets an error when it has passed, and nothing is sent."""
    dispatcher = await cluster.dispatcher(worker_patience_s=10.0)
    result = await dispatcher.run("echo", {"value": 1}, deadline_s=0.05)
    assert result.failure is not None
    assert result.failure.code == "deadline_exceeded"
    assert await cluster.broker().queued("default", "echo") == 0


async def test_a_full_queue_takes_no_more(cluster: Cluster, gate: Gate) -> None:
    """The sender's error says how many jobs there are, and that a retry may succeed."""
    await cluster.worker(WAIT, providers=gate.registry(), concurrency=1)
    dispatcher = await cluster.dispatcher(max_queued=2)
    running = [asyncio.create_task(dispatcher.run("wait")) for _ in range(2)]
    broker = cluster.broker()
    await until(lambda: broker.queued("default", "wait"), 2)
    with raises_code("queue_full", match="2 jobs") as caught:
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
    """The jobs that it does not take stay there for another worker."""
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
    await broker.join("w", encode_worker_info(WorkerInfo(("default",), {})), addresses, ttl_s=60.0)
    for number in range(10):
        envelope = Envelope(f"k{number}", addresses[3], b"{}", "digest", None)
        await broker.submit(envelope, "sender", limit=100)
    for expected in (4, 4, 2):
        taken = await broker.take("w", addresses, count=4, wait_s=20.0)
        assert len(taken) == expected
        assert {one.address for one in taken} == {addresses[3]}
    assert await broker.take("w", addresses, count=4, wait_s=0.01) == []


async def test_jobs_that_came_before_any_worker_are_taken(cluster: Cluster) -> None:
    """As after a loss of the broker's memory: the first worker finds no consumer group."""
    broker, addresses = cluster.broker(), [Address("default", "echo")]
    await broker.submit(Envelope("k", addresses[0], b"{}", "digest", None), "sender", limit=100)
    assert await broker.take("w", addresses, count=1, wait_s=0.01) == []
    (taken,) = await broker.take("w", addresses, count=1, wait_s=0.01)
    assert (taken.key, taken.body) == ("k", b"{}")


async def test_jobs_go_to_workers_of_their_queue(cluster: Cluster) -> None:
    """One that needs a GPU is run by the worker that has it, even if others are idle."""
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


def test_streams_do_not_come_back_from_another_process() -> None:
    """They are refused where they are named, with what to give instead."""
    with pytest.raises(InvalidConfigError, match=r"streams is \['tokens'\]; .* give outputs"):
        remote_pipeline("there", "chat", queue="gpu", streams=["tokens"])
