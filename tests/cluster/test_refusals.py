"""Jobs and settings that are refused, and what cannot be read."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from stageflow import Pipeline, StageContext, StageOutput, StageSpec
from stageflow.cluster import (
    Address,
    BrokerUnavailableError,
    Dispatcher,
    Envelope,
    Job,
    RedisBroker,
    Worker,
)
from stageflow.cluster.job import WorkerInfo, encode_worker_info
from stageflow.errors import InvalidConfigError
from tests.cluster.support import ECHO, Cluster, echo
from tests.utils.errors import raises_code

REFUSALS: Iterable[tuple[dict[str, Any], str, str]] = [
    ({"pipeline": "ehco"}, "unserved_pipeline", "did you mean 'echo'"),
    ({"queue": "gpu"}, "no_worker", "stageflow worker echo --queue gpu"),
    ({"inputs": {}}, "missing_job_inputs", r"\['value'\]"),
    ({"inputs": {"value": [object()]}}, "incompatible_payload", r"inputs\['value'\]\[0\] is of"),
    ({"inputs": {"value": "x" * 2_000}}, "payload_too_large", "1000 are allowed"),
]


@pytest.mark.parametrize(("wrong", "code", "says"), REFUSALS)
async def test_what_cannot_be_run_is_refused_before_it_is_sent(
    cluster: Cluster, wrong: dict[str, Any], code: str, says: str
) -> None:
    """The error has its own code and names the fix; nothing is left in the broker."""
    await cluster.worker(ECHO)
    dispatcher = await cluster.dispatcher(worker_patience_s=0.5, max_payload_bytes=1_000)
    await dispatcher.run("echo", {"value": 1})
    with raises_code(code, match=says):
        await dispatcher.run(**{"pipeline": "echo", "inputs": {"value": 1}} | wrong)
    assert await cluster.broker().counts() == {"completed": 1}
    assert await cluster.broker().queued("default", "echo") == 0


async def test_a_job_is_refused_when_the_last_worker_has_left(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A dispatcher that has seen a worker warns at once, and does not wait for the deadline."""
    monkeypatch.setattr("stageflow.cluster.dispatcher._FRESH_S", 0.0)
    stop_worker = await cluster.worker(ECHO)
    dispatcher = await cluster.dispatcher(worker_patience_s=0.5)
    await dispatcher.run("echo", {"value": 1})
    await stop_worker()
    with raises_code("no_worker", match="stageflow worker echo"):
        await dispatcher.run("echo", {"value": 1}, deadline_s=60)
    assert "no worker reads queue 'default' any more; 'echo' waits" in caplog.messages


async def test_a_key_of_another_job_is_refused(cluster: Cluster) -> None:
    """The first job's end stands."""
    await cluster.worker(ECHO)
    dispatcher = await cluster.dispatcher()
    await dispatcher.run("echo", {"value": 1}, key="k")
    with raises_code("idempotency_conflict", match="'k'"):
        await dispatcher.run("echo", {"value": 2}, key="k")
    assert (await dispatcher.run("echo", {"value": 1}, key="k")).unwrap() == {"echo": 1}


async def test_a_worker_of_another_protocol_gets_no_jobs(cluster: Cluster) -> None:
    """A dispatcher sends it nothing, and says both versions."""
    info = encode_worker_info(
        WorkerInfo(("default",), {"echo": ("value",)}, protocol=99, version="9.9")
    )
    await cluster.broker().join("new", info, [Address("default", "echo")], ttl_s=60.0)
    dispatcher = await cluster.dispatcher(worker_patience_s=0.1)
    with raises_code("protocol_mismatch", match=r"stageflow 9\.9.*version 99.*version 1"):
        await dispatcher.run("echo", {"value": 1})


async def test_a_worker_with_unreadable_info_does_not_affect_others(cluster: Cluster) -> None:
    """Jobs go to those that can be understood."""
    await cluster.broker().join("odd", b"{", [Address("default", "echo")], ttl_s=60.0)
    await cluster.worker(ECHO)
    assert (await (await cluster.dispatcher()).run("echo", {"value": 1})).status == "completed"


BODIES = [
    (b'{"protocol": 99}', "protocol_mismatch"),
    (b"not JSON", "incompatible_payload"),
    (b'{"protocol": 1, "pipeline": "echo"}', "incompatible_payload"),
    (
        b'{"protocol": 1, "pipeline": "echo", "outputs": null, "deadline_s": null,'
        b' "inputs": {"value": {"$": "Mine", "v": 1}}}',
        "incompatible_payload",
    ),
    (b'{"protocol": 1, "x": "' + b"x" * 3_000 + b'"}', "payload_too_large"),
]


@pytest.mark.parametrize(("body", "code"), BODIES)
async def test_a_worker_refuses_what_it_cannot_read(
    cluster: Cluster, body: bytes, code: str
) -> None:
    """The job ends with the reason, and the worker goes on with the next."""
    await cluster.worker(ECHO, max_payload_bytes=2_000)
    broker = cluster.broker()
    envelope = Envelope("bad", Address("default", "echo"), body, "digest", None)
    assert await broker.submit(envelope, "sender", limit=10) is None
    async for answer in broker.answers("sender"):
        assert answer is not None
        assert answer[0] == "bad"
        assert f'"code": "{code}"'.encode() in answer[1]
        break
    assert (await (await cluster.dispatcher()).run("echo", {"value": 1})).status == "completed"


async def test_an_answer_that_is_too_large_fails_the_job(cluster: Cluster) -> None:
    """It says how large it is; its sender does not wait for ever."""
    await cluster.worker(
        Pipeline("echo", [echo, StageSpec("more", _more, outputs=("more",))], inputs=["value"]),
        max_payload_bytes=2_000,
    )
    result = await (await cluster.dispatcher()).run("echo", {"value": 1})
    assert result.failure is not None
    assert (result.status, result.failure.code) == ("failed", "payload_too_large")


async def _more(ctx: StageContext) -> StageOutput:
    return StageOutput.ok(more="x" * 3_000)


@pytest.mark.parametrize(
    "make",
    [
        lambda: RedisBroker("http://localhost"),
        lambda: RedisBroker("redis://localhost", namespace="a b"),
        lambda: RedisBroker("redis://localhost", patience_s=0),
        lambda: Worker([], RedisBroker("redis://localhost")),
        lambda: Worker([ECHO.orchestrator] * 2, RedisBroker("redis://localhost")),
        lambda: Worker([ECHO.orchestrator], RedisBroker("redis://localhost"), concurrency=0),
        lambda: Worker([ECHO.orchestrator], RedisBroker("redis://localhost"), lease_s=-1.0),
        lambda: Worker([ECHO.orchestrator], RedisBroker("redis://localhost"), queues=["a:b"]),
        lambda: Dispatcher(RedisBroker("redis://localhost"), max_outstanding=0),
        lambda: Dispatcher(RedisBroker("redis://localhost"), grace_s=0),
        lambda: Job("echo", {}, "white space"),
        lambda: Job("echo", {}, "k", deadline_s=0),
        lambda: Job("e c", {}, "k"),
    ],
)
def test_bad_settings_are_refused(make: Callable[[], object]) -> None:
    """Where they are given, and not when the first job is sent."""
    with pytest.raises(InvalidConfigError):
        make()


async def test_an_unreachable_broker_is_named_after_a_while(cluster: Cluster) -> None:
    """The error says where it was looked for."""
    away = RedisBroker("unix:///nowhere/socket", patience_s=0.1)
    async with Dispatcher(away) as dispatcher:
        with pytest.raises(BrokerUnavailableError, match="/nowhere/socket") as caught:
            await dispatcher.run("echo", {"value": 1})
    assert caught.value.retryable
    await away.close()
