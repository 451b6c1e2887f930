"""Retries: what is tried again, when, how often, and what never is."""

from __future__ import annotations

import asyncio
import dataclasses
import math
import statistics
from typing import Any

import pytest

from stageflow import RunResult, StageContext, StageOutput, TimeoutInterceptor
from stageflow.errors import CircuitOpenError, InvalidConfigError, StageRaisedError
from stageflow.interceptors import RetryInterceptor, RetryPolicy
from tests.utils.assertions import assert_run_sound, events_of
from tests.utils.factories import make_pipeline, make_spec
from tests.utils.scripted import ASKED, ScriptedLLM, Step, asking, context, fails
from tests.utils.virtual_time import run_virtual


class HttpError(Exception):
    """The error of an HTTP client; its class holds the headers of the answer."""

    def __init__(self, status_code: int, **headers: str) -> None:
        super().__init__(f"HTTP {status_code}")
        self.status_code = status_code
        self.response = self
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


def run(
    llm: ScriptedLLM, policy: RetryPolicy, *inside: Any, fields: Any = None, **given: Any
) -> RunResult:
    """One turn with retries around its only stage."""
    pipeline = make_pipeline(asking(**(fields or {})))
    interceptors = [RetryInterceptor(policy), *inside]
    ctx = context(llm, **{"seed": 1, **given})
    result = run_virtual(lambda: pipeline.run(ctx, interceptors=interceptors))
    kept = [event for event in result.events if not event.type.endswith(".retrying")]
    assert len(kept) == 4
    return result


def delays_s(result: RunResult) -> list[float]:
    """The delays that a run's events tell of."""
    return [e.data["delay_s"] for e in result.events if e.type == "stage.llm.retrying"]


@pytest.mark.parametrize("failures", [0, 1, 2])
def test_it_tries_again_until_it_succeeds(failures: int) -> None:
    """As often as it takes, and the run ends as though nothing had been."""
    llm = ScriptedLLM(*fails(failures))
    result = run(llm, RetryPolicy(attempts=3))
    assert (result.status, llm.calls) == ("completed", failures + 1)
    assert result.outputs == {"answer": "ok"}


@pytest.mark.parametrize("attempts", [1, 2, 5])
def test_it_gives_up_after_so_many_attempts(attempts: int) -> None:
    """The run fails with what the last attempt raised."""
    llm = ScriptedLLM(*fails(attempts - 1), TimeoutError("the last one"))
    result = run(llm, RetryPolicy(attempts=attempts))
    assert llm.calls == attempts
    assert len(delays_s(result)) == attempts - 1
    assert result.error is not None
    assert "the last one" in result.error


def test_each_retry_is_an_event_between_start_and_end() -> None:
    """It tells which attempt failed, why, and how long the pause is; the pauses are what passes."""
    result = run(ScriptedLLM(*fails(2)), RetryPolicy(attempts=3))
    told = events_of(result.events, "llm")
    assert [event.type.rsplit(".", 1)[1] for event in told] == [
        "started",
        "retrying",
        "retrying",
        "completed",
    ]
    assert [(e.data["attempt"], e.data["error_code"]) for e in told[1:3]] == [
        (1, "connection_failed"),
        (2, "connection_failed"),
    ]
    assert result.duration_ms == pytest.approx(sum(delays_s(result)) * 1000.0)


def test_delays_grow_twofold_with_full_jitter() -> None:
    """Each is drawn evenly from 0 up to a bound that doubles, and stays at the maximum."""
    policy = RetryPolicy(attempts=6, base_delay_s=1.0, max_delay_s=6.0)
    rows = [delays_s(run(ScriptedLLM(*fails(6)), policy, seed=seed)) for seed in range(200)]
    for drawn, bound_s in zip(zip(*rows, strict=True), [1.0, 2.0, 4.0, 6.0, 6.0], strict=True):
        assert 0.0 <= min(drawn) < 0.1 * bound_s
        assert 0.9 * bound_s < max(drawn) <= bound_s
        assert statistics.fmean(drawn) == pytest.approx(bound_s / 2, rel=0.15)


def test_the_same_seed_gives_the_same_delays() -> None:
    """Chance comes from the context."""
    policy = RetryPolicy(attempts=4)
    first, again, other = (
        delays_s(run(ScriptedLLM(*fails(4)), policy, seed=seed)) for seed in (7, 7, 8)
    )
    assert first == again != other


@pytest.mark.parametrize(
    "error",
    [
        HttpError(400),
        HttpError(401),
        HttpError(404),
        ValueError("a bug"),
        CircuitOpenError("llm", 1.0),
        MemoryError(),
    ],
    ids=repr,
)
def test_what_is_permanent_is_never_retried(error: Exception) -> None:
    """Nor is a bug, nor what an open circuit breaker rejects."""
    llm = ScriptedLLM(error)
    result = run(llm, RetryPolicy(attempts=9))
    assert (result.status, llm.calls, result.duration_ms) == ("failed", 1, 0.0)


@pytest.mark.parametrize(
    "error", [HttpError(429), HttpError(500), HttpError(503), TimeoutError()], ids=repr
)
def test_what_may_pass_is_retried(error: Exception) -> None:
    """Rate limits, failing servers, timeouts."""
    llm = ScriptedLLM(error)
    assert run(llm, RetryPolicy(attempts=2)).status == "completed"
    assert llm.calls == 2


def test_a_stage_that_returns_a_failure_says_itself_whether_to_retry() -> None:
    """By ``retryable``."""

    def failing(retryable: bool) -> Any:
        async def runner(ctx: StageContext) -> StageOutput:
            await ctx.llm.complete(ASKED)
            return StageOutput.fail("no", retryable=retryable)

        return runner

    for retryable, calls in ((True, 3), (False, 1)):
        llm = ScriptedLLM()
        run(llm, RetryPolicy(attempts=3), fields={"runner": failing(retryable)})
        assert llm.calls == calls


@pytest.mark.parametrize(
    ("error", "least_s"),
    [
        (HttpError(429, Retry_After="7"), 7.0),
        (HttpError(503, Retry_After="2"), 2.0),
        (StageRaisedError(ValueError(), "rate_limited", retry_after_s=3.5), 3.5),
        (HttpError(429), 0.0),
    ],
    ids=["429 with header", "503", "typed", "429 without"],
)
def test_a_time_to_wait_that_a_provider_names_is_honoured(error: Exception, least_s: float) -> None:
    """At least that long, even where the policy's maximum is shorter."""
    result = run(ScriptedLLM(error), RetryPolicy(attempts=2, base_delay_s=0.1, max_delay_s=0.5))
    (delay_s,) = delays_s(result)
    assert max(least_s, 0.0) <= delay_s <= max(least_s, 0.1)
    assert result.duration_ms == pytest.approx(delay_s * 1000.0)


@pytest.mark.parametrize(
    ("asked_s", "limit", "calls"),
    [
        ("86400", {"max_delay_s": 1.0}, 1),
        ("61", {}, 1),
        ("60", {}, 2),
        ("3", {"max_retry_after_s": 2.5}, 1),
        ("86400", {"max_retry_after_s": 100_000.0}, 2),
    ],
)
def test_a_wait_beyond_the_longest_accepted_fails_at_once(
    asked_s: str, limit: dict[str, float], calls: int
) -> None:
    """Nobody waits a day for an answer unless the policy says so."""
    llm = ScriptedLLM(HttpError(429, Retry_After=asked_s))
    result = run(llm, RetryPolicy(attempts=2, **limit))
    assert (llm.calls, result.duration_ms) == (calls, 0.0 if calls == 1 else float(asked_s) * 1e3)
    assert (result.failure.code if result.failure else None) == (
        "rate_limited" if calls == 1 else None
    )


def test_a_thousand_attempts_are_as_good_as_three() -> None:
    """The delay stays at its bound, however large the exponent."""
    policy = RetryPolicy(attempts=1200, base_delay_s=0.01, max_delay_s=0.02)
    llm = ScriptedLLM(*fails(1199))
    assert run(llm, policy).status == "completed"
    assert llm.calls == 1200


@pytest.mark.parametrize(
    ("stages", "calls"), [({"llm": None}, 1), ({"llm": RetryPolicy(attempts=5)}, 5), ({}, 3)]
)
@pytest.mark.simulate(order="asyncio")
async def test_a_stage_may_have_a_policy_of_its_own_or_none(
    stages: dict[str, RetryPolicy | None], calls: int
) -> None:
    """The other stages keep the policy for all."""
    llm, other = ScriptedLLM(*fails(9)), ScriptedLLM(*fails(2))

    async def asks_other(ctx: StageContext) -> StageOutput:
        await other.complete(ASKED)
        return StageOutput.ok()

    pipeline = make_pipeline(asking(required=False), make_spec("other", runner=asks_other))
    retry = RetryInterceptor(RetryPolicy(attempts=3), stages=stages)
    result = await pipeline.run(context(llm), interceptors=[retry])
    assert (result.status, llm.calls, other.calls) == ("completed", calls, 3)
    assert "stages=" in repr(retry) or not stages


@pytest.mark.parametrize(
    ("stages", "problem"),
    [
        ({"llm": 3}, "stages['llm'] is 3; give RetryPolicy(attempts=…)"),
        ("llm", "stages is 'llm'; give policies by the name of the stage: {'charge': None}"),
    ],
)
def test_what_is_not_a_policy_of_a_stage_is_refused(stages: Any, problem: str) -> None:
    """Where the interceptor is made."""
    with pytest.raises(InvalidConfigError) as refused:
        RetryInterceptor(stages=stages)
    assert str(refused.value) == f"RetryInterceptor: {problem}"


@pytest.mark.parametrize("work_s", [0.0, 1.0], ids=["at once", "after a second"])
@pytest.mark.parametrize("limit", ["deadline_s", "timeout_s"])
@pytest.mark.parametrize(("beyond_s", "calls"), [(-1.0, 1), (0.0, 1), (0.5, 2)])
def test_no_retry_would_begin_after_the_runs_deadline_or_the_stages_timeout(
    work_s: float, limit: str, beyond_s: float, calls: int
) -> None:
    """The failure is reported at once instead of waiting seven seconds for nothing."""
    refused = HttpError(429, Retry_After="7")
    llm = ScriptedLLM([work_s, refused] if work_s else refused)
    limited = {limit: work_s + 7.0 + beyond_s}
    given = limited if limit == "deadline_s" else {"fields": limited}
    result = run(llm, RetryPolicy(attempts=2, base_delay_s=0.0), **given)
    waited_s = 7.0 if calls == 2 else 0.0
    assert (llm.calls, result.duration_ms) == (calls, (work_s + waited_s) * 1000.0)
    assert (result.failure.code if result.failure else None) == (
        None if calls == 2 else "rate_limited"
    )


def test_the_stages_timeout_bounds_all_attempts_together() -> None:
    """Retries do not buy a stage more time."""
    slow: list[Step] = [[1.0, ConnectionError()] for _ in range(9)]
    llm = ScriptedLLM(*slow)
    result = run(llm, RetryPolicy(attempts=9, base_delay_s=0.0), fields={"timeout_s": 2.5})
    assert (llm.calls, result.duration_ms) == (3, 2500.0)
    assert result.failure is not None
    assert result.failure.code == "stage_timeout"


def test_a_timeout_inside_bounds_each_attempt() -> None:
    """And each that is too slow may be followed by another."""
    llm = ScriptedLLM(9.0, 9.0)
    result = run(llm, RetryPolicy(attempts=3, base_delay_s=0.0), TimeoutInterceptor(1.0))
    assert (result.status, llm.calls, result.duration_ms) == ("completed", 3, 2000.0)


@pytest.mark.parametrize("at_s", [0.5, 1.5])
@pytest.mark.simulate(order="asyncio")
async def test_a_cancellation_ends_it_in_an_attempt_and_in_a_pause(at_s: float) -> None:
    """No further attempt is made, and the run ends cancelled."""
    llm = ScriptedLLM([1.0, HttpError(429, Retry_After="7")])
    pipeline = make_pipeline(asking())
    ctx = context(llm)

    task = asyncio.create_task(pipeline.run(ctx, interceptors=[RetryInterceptor()]))
    await asyncio.sleep(at_s)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert asyncio.get_running_loop().time() == at_s
    assert (str(ctx.status), llm.calls) == ("cancelled", 1)


@pytest.mark.parametrize("in_group", [False, True], ids=["itself", "in a task group"])
@pytest.mark.parametrize("limit", ["timeout", "cancellation"])
@pytest.mark.simulate(order="asyncio")
async def test_a_stage_that_makes_an_error_of_its_cancellation_is_not_retried(
    limit: str, in_group: bool
) -> None:
    """The caller that cancelled it does not wait for another attempt."""
    llm = ScriptedLLM(9.0)

    async def converting(ctx: StageContext) -> StageOutput:
        try:
            return StageOutput.ok(answer=await ctx.llm.complete(ASKED))
        except asyncio.CancelledError:
            raise ConnectionError("connection closed") from None

    async def grouped(ctx: StageContext) -> StageOutput:
        async with asyncio.TaskGroup() as group:
            answer = group.create_task(converting(ctx))
        return answer.result()

    runner = grouped if in_group else converting
    fields = {"runner": runner, "timeout_s": 1.0 if limit == "timeout" else None}
    pipeline = make_pipeline(asking(**fields))
    ctx = context(llm)

    task = asyncio.create_task(pipeline.run(ctx, interceptors=[RetryInterceptor()]))
    await asyncio.sleep(1.0)
    if limit == "cancellation":
        task.cancel()
    await asyncio.wait([task])
    assert asyncio.get_running_loop().time() == 1.0
    assert llm.calls == 1


def test_a_stage_whose_task_group_fails_is_tried_again() -> None:
    """Python 3.11 leaves the group's request to cancel its own task behind; nobody else has one."""
    slow: list[Step] = [[1.0, ConnectionError("refused")] for _ in range(2)]
    llm = ScriptedLLM(*slow)

    async def grouped(ctx: StageContext) -> StageOutput:
        async with asyncio.TaskGroup() as group:
            answer = group.create_task(ctx.llm.complete(ASKED))
        return StageOutput.ok(answer=answer.result())

    result = run(llm, RetryPolicy(attempts=3, base_delay_s=0.0), fields={"runner": grouped})
    assert (result.status, llm.calls) == ("completed", 3)


@pytest.mark.simulate(order="asyncio")
async def test_a_run_with_retries_is_sound() -> None:
    """But for the retries, its events and outputs are those of any run."""
    pipeline = make_pipeline(asking())
    result = await pipeline.run(context(ScriptedLLM()), interceptors=[RetryInterceptor()])
    assert_run_sound(pipeline, result)


_DELAY = "give a number of seconds, 0 or more"


@pytest.mark.parametrize(
    ("field", "values", "fix"),
    [
        ("attempts", [0, 1.5, None], "give a positive integer"),
        ("base_delay_s", [-1, math.nan, 10**400], _DELAY),
        ("max_delay_s", [math.inf, "1"], _DELAY),
        ("max_retry_after_s", [-1], _DELAY),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(field: str, values: list[Any], fix: str) -> None:
    """Where it is made, word for word: what was set up, its field, the value, and what to give."""
    for value in values:
        with pytest.raises(InvalidConfigError) as refused:
            RetryPolicy(**{field: value})
        assert str(refused.value) == f"RetryPolicy: {field} is {value!r}; {fix}"


def test_repr_names_the_policy() -> None:
    """So that the order of a stack of interceptors can be read."""
    assert repr(RetryInterceptor(RetryPolicy(attempts=2))).startswith(
        "RetryInterceptor(RetryPolicy(attempts=2"
    )


def test_the_error_of_another_value_shows_how_to_write_a_policy() -> None:
    """Word for word; without any the documented one holds, and no delay at all is a policy too."""
    with pytest.raises(InvalidConfigError) as refused:
        RetryInterceptor(3)  # type: ignore[arg-type]
    assert str(refused.value) == "RetryInterceptor: policy is 3; give RetryPolicy(attempts=…)"
    assert RetryInterceptor().policy == RetryPolicy(attempts=3, base_delay_s=0.1, max_delay_s=5.0)
    none = RetryPolicy(attempts=2, base_delay_s=0, max_delay_s=0)
    result = run(ScriptedLLM(*fails(1)), none)
    assert (delays_s(result), result.duration_ms) == ([0.0], 0.0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        none.attempts = 5  # type: ignore[misc]
