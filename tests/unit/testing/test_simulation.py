"""Virtual time and seeded order in a simulation, and the tokens that repeat a run."""

from __future__ import annotations

import asyncio
import base64
import os
import subprocess
import sys
import zlib
from collections.abc import Callable, Coroutine
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

from stageflow import (
    Pipeline,
    PipelineContext,
    ProviderRegistry,
    RunResult,
    RunStatus,
    StageContext,
    StageOutput,
    StageSpec,
)
from stageflow.kernels import KNOWN_USER, chat, voice
from stageflow.providers import (
    FakeDatabase,
    FakeLLM,
    FakeSTT,
    FakeTTS,
    LatencyProfile,
    speech_of_text,
)
from stageflow.testing import (
    FaultPlan,
    PlannedFault,
    Scenario,
    Schedule,
    Simulation,
    SimulationLoop,
    Token,
    TokenError,
    explore,
    replay,
    run_in,
    simulate,
    simulate_pipeline,
)


async def racing(sim: Simulation, runners: int = 6) -> list[int]:
    """Which of some tasks comes first is up to the schedule alone."""
    order: list[int] = []

    async def run(number: int) -> None:
        await asyncio.sleep(0)
        order.append(number)

    async with asyncio.TaskGroup() as group:
        for number in range(runners):
            group.create_task(run(number))
    return order


async def racing_cancellations(sim: Simulation) -> list[int]:
    """A group that cancels its tasks, and tasks that are waited for, go through sets."""
    order: list[int] = []

    async def run(number: int) -> None:
        try:
            await asyncio.sleep(10)
        finally:
            order.append(number)

    async def fail() -> None:
        raise LookupError

    async def fail_together() -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(20):
                group.create_task(run(number))
            group.create_task(fail())

    with pytest.raises(ExceptionGroup):
        await fail_together()
    waited = [asyncio.ensure_future(asyncio.sleep(0, number)) for number in range(20)]
    done, _ = await asyncio.wait(waited)
    return order + [task.result() for task in done]


async def lost_update(sim: Simulation) -> None:
    """Two tasks read, wait and write: in some orders one update is lost."""
    counter = 0

    async def increase() -> None:
        nonlocal counter
        for _ in range(3):
            await asyncio.sleep(0)
        seen = counter
        await asyncio.sleep(0)
        counter = seen + 1

    await asyncio.gather(increase(), increase(), increase())
    assert counter >= 2, f"lost two of three updates: {counter}"


async def asking(sim: Simulation) -> RunResult:
    """One stage that asks the language model."""

    async def ask(ctx: StageContext) -> StageOutput:
        return StageOutput.ok(said=await ctx.llm.complete([]))

    pipeline = Pipeline("asking", [StageSpec("ask", ask, outputs=("said",))])
    providers = ProviderRegistry(llm=FakeLLM("fine"))
    return await sim.interruptible(pipeline.run(sim.context(providers=providers)))


def eight_stages() -> Pipeline:
    """Eight stages that sleep, two side by side."""

    async def nap(ctx: StageContext) -> StageOutput:
        await asyncio.sleep(0.01)
        return StageOutput.ok()

    return Pipeline(
        "eight", [StageSpec(f"s{n}", nap, (f"s{n - 2}",) if n > 1 else ()) for n in range(8)]
    )


def test_timeouts_pass_in_virtual_time() -> None:
    """A timeout strikes at its very second, and no real time passes."""

    async def waits(sim: Simulation) -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(30):
                await asyncio.sleep(3600)
        return sim.loop.time()

    outcome = simulate(waits)
    assert outcome.value == 30.0
    assert outcome.elapsed_s == 30.0


def test_timers_are_called_in_the_order_of_their_times() -> None:
    """For any seed, an earlier timer is never called after a later one."""

    async def sleeps(sim: Simulation) -> list[float]:
        woke: list[float] = []

        async def sleep(seconds: float) -> None:
            await asyncio.sleep(seconds)
            woke.append(seconds)

        async with asyncio.TaskGroup() as group:
            for seconds in (5.0, 1.0, 3.0, 2.0, 4.0):
                group.create_task(sleep(seconds))
        return woke

    for outcome in explore(sleeps, runs=50):
        assert outcome.value == [1.0, 2.0, 3.0, 4.0, 5.0]


def test_a_cancelled_timer_does_not_move_the_clock() -> None:
    """Time stands where the work ended, however late the timer was set for."""

    async def cancels(sim: Simulation) -> None:
        sim.loop.call_later(100, print).cancel()
        await asyncio.sleep(1)

    assert simulate(cancels).elapsed_s == 1.0


def test_work_can_take_time_that_holds_the_loop() -> None:
    """`pass_time` moves the clock without anybody else's turn."""

    async def works(sim: Simulation) -> float:
        sim.loop.pass_time(2.5)
        return sim.loop.time()

    assert simulate(works).value == 2.5


def test_the_clock_never_runs_backwards() -> None:
    """A timer that fell due while work held the loop is called late, at the later time."""

    async def works(sim: Simulation) -> list[float]:
        called_at_s: list[float] = []
        sim.loop.call_later(1, lambda: called_at_s.append(sim.loop.time()))
        sim.loop.pass_time(5)
        await asyncio.sleep(0)
        await asyncio.sleep(1)
        return called_at_s

    assert simulate(works).value == [5.0]


@pytest.mark.parametrize("seed", [None, 0, 1, 2])
@pytest.mark.parametrize("pipeline", [voice(), chat()], ids=lambda pipeline: str(pipeline.name))
def test_a_kernel_takes_as_long_as_its_critical_path(pipeline: Pipeline, seed: int | None) -> None:
    """With fixed latencies, to the last bit, in whatever order."""
    db = {"ada": {"name": "Ada"}}
    fixed = LatencyProfile.fixed
    providers = ProviderRegistry(
        llm=FakeLLM(latency=fixed(180.3), first_piece=fixed(60)),
        stt=FakeSTT(latency=fixed(120.7)),
        tts=FakeTTS(latency=fixed(90.1)),
        db=FakeDatabase({"profiles": db}, read=fixed(20.9), write=fixed(10.7)),
    )
    inputs = {"text": "hello", "audio": speech_of_text("hello"), "user_id": KNOWN_USER}
    given = {key: inputs[key] for key in pipeline.inputs}
    outcome = simulate_pipeline(pipeline, given, providers=providers, seed=seed)
    assert outcome.value.status is RunStatus.COMPLETED
    calls_ms = {
        "stt": [120.7],
        "profile": [20.9],
        "memory": [20.9],
        "llm": [180.3],
        "tts": [90.1],
        "persist": [20.9, 10.7],
    }
    ends: dict[str, float] = {}
    graph = pipeline.build()
    for number in graph.order:
        spec = graph.specs[number]
        before = (graph.specs[one].name for one in graph.predecessors[number])
        at_s = max((ends[name] for name in before), default=0.0)
        for call_ms in calls_ms.get(spec.name, []):
            at_s += call_ms / 1000.0
        ends[spec.name] = at_s
    assert outcome.elapsed_s == max(ends.values())


def test_seeds_give_different_orders() -> None:
    """Of 720 orders of six tasks, 500 seeds give at least half that they could."""
    orders = {tuple(outcome.value) for outcome in explore(racing, runs=500)}
    assert len(orders) > 180


def test_every_order_is_reached() -> None:
    """No order of three tasks is left out."""
    orders = {tuple(outcome.value) for outcome in explore(racing, 3, runs=300)}
    assert len(orders) == 6


def test_without_a_seed_the_order_is_asyncio_s_own() -> None:
    """First in, first out."""
    assert simulate(racing, seed=None).value == asyncio.run(racing(None))  # type: ignore[arg-type]


def test_switches_limit_how_often_the_order_differs() -> None:
    """With none allowed the order is asyncio's; with a few, that many at most."""
    assert simulate(racing, scenario=Scenario(3, switches=0)).value == [0, 1, 2, 3, 4, 5]
    free = simulate(racing, scenario=Scenario(3))
    assert free.switches > 2
    few = [simulate(racing, scenario=Scenario(seed, switches=2)).switches for seed in range(30)]
    assert max(few) == 2


@pytest.mark.parametrize("main", [racing, racing_cancellations], ids=["tasks", "sets"])
def test_the_same_seed_gives_the_same_order(
    main: Callable[[Simulation], Coroutine[Any, Any, list[int]]],
) -> None:
    """A hundred times of a hundred, sets of tasks included."""
    first = simulate(main, seed=11)
    for _ in range(100):
        again = simulate(main, seed=11)
        assert (again.value, again.steps) == (first.value, first.steps)


PROCESS = """
from tests.unit.testing.test_simulation import eight_stages, racing_cancellations
from stageflow.testing.simulation import simulate, simulate_pipeline
import sys
print(simulate(racing_cancellations, seed=11).value)
sys.stdout.flush()
for seed in range(20):
    sys.stdout.buffer.write(simulate_pipeline(eight_stages(), seed=seed).log)
"""


def test_the_log_is_the_same_in_other_processes() -> None:
    """Byte for byte, whatever the hashes of strings are there."""
    logs = {
        subprocess.run(
            [sys.executable, "-c", PROCESS],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
        ).stdout
        for seed in ("0", "1", "2024")
    }
    assert len(logs) == 1
    here = b"".join(simulate_pipeline(eight_stages(), seed=seed).log for seed in range(20))
    (log,) = logs
    assert log.partition(b"\n")[2] == here
    assert here.count(b"pipeline.completed") == 20


def test_the_log_is_the_same_a_hundred_times() -> None:
    """Ids and time stamps included; another seed gives another."""
    logs = {simulate_pipeline(eight_stages(), seed=5).log for _ in range(100)}
    assert len(logs) == 1
    assert simulate_pipeline(eight_stages(), seed=6).log not in logs


def failing_token() -> tuple[str, str]:
    """The note and the token of the first failure of `lost_update`."""
    with pytest.raises(AssertionError) as caught:
        explore(lost_update, runs=1_000)
    (note,) = caught.value.__notes__
    return note, note.split("replay('")[1].split("'")[0]


def test_a_failure_says_how_to_run_it_again() -> None:
    """For pytest and for Python, with one token."""
    note, token = failing_token()
    assert f"pytest --simulate={token}" in note
    with pytest.raises(AssertionError, match="lost two of three updates"):
        replay(token)
    assert Token.parse(token).scenario.seed is not None


def test_a_token_carries_faults_and_cancellation() -> None:
    """Replayed, the same fault strikes, and the same step is cancelled."""
    faults = FaultPlan((PlannedFault("llm", "error", {"message": "Service unavailable"}),))
    failed = simulate(asking, scenario=Scenario(4, faults=faults))
    assert failed.value.status is RunStatus.FAILED
    again = replay(failed.token)
    assert again.log == failed.log
    with pytest.raises(asyncio.CancelledError):
        simulate(asking, scenario=Scenario(4, cancel_at_step=3))
    text = str(Token.parse(failed.token))
    assert Token.parse(text) == Token.parse(failed.token)
    assert Token.parse(text).scenario.faults == faults


def test_every_step_can_be_cancelled() -> None:
    """Before the first callback and before the last, and each leaves a run that was cancelled."""
    steps = simulate(asking).steps
    cancelled = 0
    for step in range(1, steps):
        try:
            simulate(asking, scenario=Scenario(cancel_at_step=step))
        except asyncio.CancelledError:
            cancelled += 1
    assert cancelled >= 3


def test_arguments_travel_in_the_token() -> None:
    """JSON's values do; without them the token holds the conditions alone."""
    assert replay(simulate(racing, 4, seed=2).token).value == simulate(racing, 4, seed=2).value

    class Opaque(int):
        def __init__(self, number: int) -> None:
            self.unwritable = object()

    async def local(sim: Simulation, number: int) -> int:
        return number

    token = simulate(local, 4).token
    with pytest.raises(TokenError, match="no function that a module has"):
        replay(token)
    assert simulate(local, 5, token=token).value == 5
    assert Token.parse(simulate(racing_with, object()).token).main is None


class Size(Enum):
    """An argument of a simulation."""

    SMALL = 1


ARGUMENTS: list[Any] = [(1, 2), {1: "a"}, Size.SMALL, {3, "x"}, float("inf"), b"x", Scenario(3)]


def test_a_token_changes_no_argument() -> None:
    """Neither an argument of the function nor an option of a fault; each has its type again."""
    options = {"message": (1, {2: Size.SMALL})}
    scenario = Scenario(3, faults=FaultPlan((PlannedFault("llm", "error", options),)))
    token = Token(scenario, f"{__name__}:racing_with", tuple(ARGUMENTS))
    again = Token.parse(str(token))
    assert (again.args, again.scenario) == (token.args, scenario)
    assert list(map(type, again.args)) == list(map(type, ARGUMENTS))


def test_a_token_refuses_what_it_cannot_hold() -> None:
    """The option is named; a failure under it is reported without a token."""
    faults = FaultPlan((PlannedFault("llm", "error", {"exception": ConnectionError}),))
    with pytest.raises(TokenError, match=r"token\['faults'\]\[0\]\['exception'\] is of type"):
        str(Token(Scenario(faults=faults)))

    async def fails(sim: Simulation) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        simulate(fails, scenario=Scenario(faults=faults))
    assert "['exception'] is of type" in caught.value.__notes__[0]


async def racing_with(sim: Simulation, thing: object) -> list[int]:
    """As `racing`, with something that cannot be written down."""
    return await racing(sim)


@pytest.mark.parametrize(
    ("token", "problem"),
    [
        ("", "does not begin"),
        ("sf1-", "damaged"),
        ("sf1-%%%", "damaged"),
        ("sf1-eJyrVkrOz0vLTE4F", "damaged"),
        (
            str(Token(Scenario(), main="no.such.module:f")),
            "'no.such.module' is neither imported nor in the current folder",
        ),
        (str(Token(Scenario(), main="asyncio:no_such_function")), "there is no"),
    ],
)
def test_a_bad_token_is_refused(token: str, problem: str) -> None:
    """With what is wrong with it."""
    with pytest.raises(TokenError, match=problem):
        replay(token)


def test_exploring_needs_a_seed_to_count_from() -> None:
    """No seed is asyncio's own order, of which there is one."""
    with pytest.raises(ValueError, match=r"scenario\.seed"):
        explore(racing, scenario=Scenario(None))


def test_contexts_of_a_simulation_repeat() -> None:
    """Ids, random numbers and time stamps come from the seed and from virtual time."""

    async def ids(sim: Simulation) -> tuple[str, str, float]:
        first, second = sim.context(), sim.context()
        await asyncio.sleep(2)
        return first.new_id(), second.new_id(), first.wall_clock()

    one = simulate(ids, seed=1).value
    assert one == simulate(ids, seed=1).value
    assert one[0] != one[1]
    assert one[0] != simulate(ids, seed=2).value[0]
    assert one[2] == 1_000_000_002.0


def test_a_context_of_one_s_own_choice_is_taken() -> None:
    """The argument `context` takes precedence over the simulation's own."""

    async def chosen(sim: Simulation) -> PipelineContext:
        return sim.context({"a": 1}, seed=3, deadline_s=5.0)

    context = simulate(chosen).value
    assert (context.seed, context.deadline_s, dict(context.inputs)) == (3, 5.0, {"a": 1})


def test_the_loop_follows_the_schedule_that_it_is_given() -> None:
    """Used by itself, without `simulate`."""
    loop = SimulationLoop(Schedule(seed=3))
    assert run_in(loop, asyncio.sleep(4, "slept")) == "slept"
    assert loop.time() == 4.0


def packed(text: str) -> str:
    """A token with this content."""
    content = base64.urlsafe_b64encode(zlib.compress(text.encode(), 9)).rstrip(b"=")
    return f"sf1-{content.decode()}"


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "7",
        '{"seed": "x"}',
        '{"faults": 7}',
        '{"stages": [1]}',
        '{"call": "first"}',
        '{"main": 7}',
        '{"main": ":", "args": [1]}',
        '{"seed": 1, "args": 7}',
        '{"seed": 1, "args": ' + 900 * "[" + 900 * "]" + "}",
        '{"a": ' + 900 * '{"b": ' + "1" + 901 * "}",
        '{"args": "' + 5_000_000 * "x" + '"}',
    ],
)
def test_what_is_not_a_token_is_refused(text: str) -> None:
    """For any content; a large one is not even unpacked."""
    with pytest.raises(TokenError):
        replay(packed(text))


def test_a_token_that_is_cut_off_is_refused() -> None:
    """At any character."""
    token = packed('{"seed": 1, "main": "tests.unit.testing.test_simulation:counting"}')
    for length in range(4, len(token)):
        with pytest.raises(TokenError):
            Token.parse(token[:length])


@pytest.mark.parametrize("inside", [True, False])
def test_a_token_imports_only_modules_of_the_current_folder(
    inside: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any other has to be imported already: importing runs code."""
    (tmp_path / "named_by_token.py").write_text("def main(value): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    if inside:
        monkeypatch.chdir(tmp_path)
    text = packed('{"seed": 1, "main": "named_by_token:main", "args": [1]}')
    try:
        assert Token.parse(text).main == "named_by_token:main"
        assert ("named_by_token" in sys.modules) is inside
        if not inside:
            with pytest.raises(TokenError, match="import it first"):
                replay(text)
    finally:
        sys.modules.pop("named_by_token", None)
