"""Stages that do their work, and something beside it that no other stage may notice, are found."""

from __future__ import annotations

import asyncio
import datetime as dt
import functools
import io
import locale
import logging
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any, TypeVar

import numpy as np
import pytest

from stageflow import (
    Pipeline,
    PipelineContext,
    ProviderRegistry,
    StageContext,
    StageOutput,
    StageSpec,
    run_child,
)
from stageflow.errors import StageDefectError
from stageflow.testing import StageCase, StageContractTest, do_nothing
from tests.utils.stage_cases import both_loops, contract, counted, declared, names_of_tests

pytestmark = pytest.mark.untraced

F = TypeVar("F", bound=Callable[..., Any])


# ── inputs ──────────────────────────────────────────────────────────────────────────────────────


async def borrows_its_input(ctx: StageContext) -> StageOutput:
    ctx["words"].append("three")
    await asyncio.sleep(0)
    ctx["words"].pop()
    return await counted(ctx)


async def borrows_it_in_a_task(ctx: StageContext) -> StageOutput:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(borrows_its_input(ctx))
    return task.result()


async def reads_through_the_run(ctx: StageContext) -> StageOutput:
    ctx.run.inputs["secret"]
    return await counted(ctx)


async def gets_through_the_run(ctx: StageContext) -> StageOutput:
    ctx.run.inputs.get("secret")
    return await counted(ctx)


async def reads_all_of_the_run(ctx: StageContext) -> StageOutput:
    dict(ctx.scope.inputs)
    return await counted(ctx)


async def looks_into_the_run(ctx: StageContext) -> StageOutput:
    return await counted(ctx) if "secret" in ctx.run.inputs else StageOutput.ok(count=0)


async def reads_from_the_bag(ctx: StageContext) -> StageOutput:
    ctx.run.bag.get("secret")
    return await counted(ctx)


async def looks_into_the_bag(ctx: StageContext) -> StageOutput:
    return await counted(ctx) if "secret" not in ctx.run.bag else StageOutput.ok(count=0)


async def swallows_the_refusal(ctx: StageContext) -> StageOutput:
    try:
        ctx["secret"]
    except StageDefectError:
        return await counted(ctx)
    return StageOutput.ok(count=0)


async def swallows_the_refusal_to_get(ctx: StageContext) -> StageOutput:
    try:
        ctx.get("secret")
    except StageDefectError:
        return await counted(ctx)
    return StageOutput.ok(count=0)


async def returns_its_input(ctx: StageContext) -> StageOutput:
    await asyncio.sleep(0)
    return StageOutput.ok(count=ctx["words"])


# ── time and chance ─────────────────────────────────────────────────────────────────────────────


async def has_a_deadline_of_its_own(ctx: StageContext) -> StageOutput:
    until = time.time() + 1
    return await counted(ctx) if until else StageOutput.ok(count=0)


async def has_a_monotonic_deadline(ctx: StageContext) -> StageOutput:
    until = monotonic() + 1
    return await counted(ctx) if until else StageOutput.ok(count=0)


async def writes_a_date(ctx: StageContext) -> StageOutput:
    dt.datetime.now(dt.UTC).isoformat()
    return await counted(ctx)


async def writes_a_day(ctx: StageContext) -> StageOutput:
    return await counted(ctx) if dt.date.today() else StageOutput.ok(count=0)


async def counts_by_the_clock(words: list[str]) -> int:
    time.time()
    return len(words)


async def reads_a_clock_in_a_task(ctx: StageContext) -> StageOutput:
    async with asyncio.TaskGroup() as group:
        group.create_task(has_a_deadline_of_its_own(ctx))
    return await counted(ctx)


class ReadsAClock:
    async def execute(self, ctx: StageContext, /) -> StageOutput:
        return await has_a_deadline_of_its_own(ctx)


async def draws_from_the_global_generator(ctx: StageContext) -> StageOutput:
    random.random()
    return await counted(ctx)


async def shuffles(ctx: StageContext) -> StageOutput:
    random.shuffle(list(ctx["words"]))
    return await counted(ctx)


async def draws_with_numpy(ctx: StageContext) -> StageOutput:
    np.random.rand()
    return await counted(ctx)


async def seeds_the_global_generator(ctx: StageContext) -> StageOutput:
    random.seed(7)
    return await counted(ctx)


# ── the process ─────────────────────────────────────────────────────────────────────────────────


async def sets_a_variable(ctx: StageContext) -> StageOutput:
    os.environ["STAGE"] = "1"
    return await counted(ctx)


async def sets_a_variable_for_a_while(ctx: StageContext) -> StageOutput:
    os.environ["STAGE_FOR_A_WHILE"] = "1"
    try:
        await asyncio.sleep(0)
    finally:
        del os.environ["STAGE_FOR_A_WHILE"]
    return await counted(ctx)


def changing(what: str, change: Callable[[], object]) -> tuple[tuple[str, str], list[Any]]:
    async def changes(ctx: StageContext) -> StageOutput:
        change()
        return await counted(ctx)

    return ("leaves_the_process_as_it_is", f"changed {what}, which all code shares"), [changes]


CHANGES = (
    changing("the locale", lambda: locale.setlocale(locale.LC_CTYPE, "C")),
    changing(
        "the handlers of the root logger", lambda: logging.root.addHandler(logging.NullHandler())
    ),
)


async def changes_the_folder(ctx: StageContext) -> StageOutput:
    os.chdir("/")
    return await counted(ctx)


# ── what outlasts it ────────────────────────────────────────────────────────────────────────────


async def leaks_a_timer(ctx: StageContext) -> StageOutput:
    asyncio.get_running_loop().call_later(60, print)
    return await counted(ctx)


async def emits_from_a_timer(ctx: StageContext) -> StageOutput:
    asyncio.get_running_loop().call_later(0.5, functools.partial(ctx.emit, "late", n=1))
    return await counted(ctx)


async def emits_soon(ctx: StageContext) -> StageOutput:
    output = await counted(ctx)
    asyncio.get_running_loop().call_soon(ctx.emit, "late")
    return output


KEPT: list[Any] = []


async def keeps_its_context(ctx: StageContext) -> StageOutput:
    KEPT[:] = [ctx]
    return await counted(ctx)


async def keeps_its_run(ctx: StageContext) -> StageOutput:
    KEPT[:] = [ctx.run]
    return await counted(ctx)


async def keeps_its_scope(ctx: StageContext) -> StageOutput:
    KEPT[:] = [ctx.scope]
    return await counted(ctx)


class HoldsItsContext:
    ctx: StageContext | None = None

    async def execute(self, ctx: StageContext, /) -> StageOutput:
        self.ctx = ctx
        return await counted(ctx)


class KeepsAMethodOfIt:
    emit: Any = None

    async def execute(self, ctx: StageContext, /) -> StageOutput:
        self.emit = ctx.emit
        return await counted(ctx)


# ── cancellation ────────────────────────────────────────────────────────────────────────────────


async def raises_when_cancelled(ctx: StageContext) -> StageOutput:
    try:
        return await counted(ctx)
    except BaseException as error:
        raise ValueError("could not count") from error


async def raises_a_group_when_cancelled(ctx: StageContext) -> StageOutput:
    try:
        return await counted(ctx)
    except asyncio.CancelledError:
        raise ExceptionGroup("could not count", [ValueError("x")]) from None


async def fails_when_anything_is_raised(ctx: StageContext) -> StageOutput:
    try:
        return await counted(ctx)
    except BaseException as error:
        return StageOutput.fail(str(error))


#: By the test that has to find them, and by what it has to say.
WRONG: dict[tuple[str, str], list[Any]] = {
    ("leaves_its_inputs_as_they_are", r"changed its inputs \['words'\]: copy before"): [
        borrows_its_input,
        borrows_it_in_a_task,
    ],
    ("reads_only_what_it_declares", r"asks for \['secret'\] and does not declare that: add"): [
        reads_through_the_run,
        gets_through_the_run,
        reads_all_of_the_run,
        looks_into_the_run,
        reads_from_the_bag,
        looks_into_the_bag,
        swallows_the_refusal,
        swallows_the_refusal_to_get,
    ],
    ("returns_objects_of_its_own", r"'count' of count is its input \['words'\]: copy it"): [
        returns_its_input,
    ],
    ("leaves_the_process_as_it_is", r"changed os\.environ, which all code shares"): [
        sets_a_variable,
        sets_a_variable_for_a_while,
    ],
    ("leaves_the_process_as_it_is", "changed the working directory"): [changes_the_folder],
    **dict(CHANGES),
    ("keeps_no_context", r"it keeps its context: keep no state"): [
        keeps_its_context,
        keeps_its_run,
        keeps_its_scope,
        HoldsItsContext,
        KeepsAMethodOfIt,
    ],
    ("can_be_cancelled_wherever_it_waits", "let CancelledError pass"): [
        raises_when_cancelled,
        raises_a_group_when_cancelled,
        fails_when_anything_is_raised,
    ],
}
_CLOCK = "reads_only_the_clock_of_the_loop"
_PROCESS = "leaves_the_process_as_it_is"
#: As above, in simulated time alone: a stage that does real I/O may need the real date.
WRONG_IN_SIMULATED_TIME: dict[tuple[str, str], list[Any]] = {
    (_CLOCK, r"calls time\(\) at .*_conduct\.py:\d+ in has_a_deadline_of_its_own"): [
        has_a_deadline_of_its_own,
        reads_a_clock_in_a_task,
        ReadsAClock,
        functools.partial(has_a_deadline_of_its_own),
        functools.partial(functools.partial(has_a_deadline_of_its_own)),
    ],
    (_CLOCK, r"calls time\(\) at .* in counts_by_the_clock"): [counts_by_the_clock],
    (_CLOCK, r"calls monotonic\(\) at .* in has_a_monotonic_deadline"): [has_a_monotonic_deadline],
    (_CLOCK, r"calls datetime\.now\(\) at .*: ctx\.now\(\) has"): [writes_a_date],
    (_CLOCK, r"calls date\.today\(\) at"): [writes_a_day],
    (_PROCESS, r"the global random generator \(take ctx\.random\)"): [
        draws_from_the_global_generator,
        shuffles,
        seeds_the_global_generator,
    ],
    (_PROCESS, r"numpy's global random generator"): [draws_with_numpy],
    ("returns_the_outputs_that_it_declares", r"timers are set .* cancel \[<TimerHandle .*print"): [
        leaks_a_timer
    ],
    ("returns_the_outputs_that_it_declares", r"timers are set when it has ended"): [
        emits_from_a_timer
    ],
}


def each(wrong: dict[tuple[str, str], list[Any]]) -> Callable[[F], F]:
    """The test, the complaint and the runner of each."""
    parametrize: Callable[[F], F] = pytest.mark.parametrize(
        ("name", "complaint", "runner"),
        [
            pytest.param(f"test_{name}", said, runner, id=f"{name}-{number}")
            for number, ((name, said), runners) in enumerate(wrong.items())
            for runner in runners
        ],
    )
    return parametrize


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    """Nothing that a wrong stage does outlasts its contract."""
    state, here = random.getstate(), Path.cwd()
    yield
    assert (random.getstate(), Path.cwd()) == (state, here)
    assert "STAGE" not in os.environ
    KEPT.clear()


@both_loops
@each(WRONG)
def test_what_others_would_notice_is_found(
    name: str, complaint: str, runner: Any, real_io: bool
) -> None:
    """The complaint says what to do instead."""
    with pytest.raises(AssertionError, match=complaint):
        getattr(contract(declared(runner), real_io=real_io), name)()


@each(WRONG_IN_SIMULATED_TIME)
def test_what_would_not_repeat_is_found(name: str, complaint: str, runner: Any) -> None:
    """The complaint says what to do instead; what does real I/O may need the real date."""
    with pytest.raises(AssertionError, match=complaint):
        getattr(contract(declared(runner)), name)()
    if name in {f"test_{_CLOCK}", f"test_{_PROCESS}"}:
        getattr(contract(declared(runner), real_io=True), name)()


def test_an_event_after_the_end_is_found() -> None:
    """The engine refuses it, in a callback that nobody handles."""
    with pytest.raises(ExceptionGroup) as caught:
        contract(declared(emits_soon)).test_returns_the_outputs_that_it_declares()
    assert "emitted 'late' after it had ended" in str(caught.value.exceptions[0])


# ── providers ───────────────────────────────────────────────────────────────────────────────────


class Client:
    """A provider that can be closed, and that opens what is the stage's own."""

    def __init__(self) -> None:
        self.own: list[Client] = []

    async def open(self) -> Client:
        self.own.append(Client())
        return self.own[-1]

    async def ask(self) -> int:
        await asyncio.sleep(0.001)
        return 0

    def close(self) -> None: ...

    async def aclose(self) -> None:
        await asyncio.sleep(0)

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


class Limit:
    """A provider that is entered, and not closed by that."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()

    async def __aenter__(self) -> None:
        await self.lock.acquire()

    async def __aexit__(self, *_: object) -> None:
        self.lock.release()


async def closes(ctx: StageContext) -> StageOutput:
    ctx.provider("client").close()
    return await counted(ctx)


async def closes_and_waits(ctx: StageContext) -> StageOutput:
    await ctx.provider("client").aclose()
    return await counted(ctx)


async def enters_and_leaves(ctx: StageContext) -> StageOutput:
    async with ctx.provider("client") as client:
        await client.ask()
    return await counted(ctx)


async def closes_what_is_native(ctx: StageContext) -> StageOutput:
    ctx.provider("connection").close()
    return await counted(ctx)


async def closes_its_own(ctx: StageContext) -> StageOutput:
    client = await ctx.provider("client").open()
    async with client:
        await client.ask()
    await client.aclose()
    async with ctx.provider("limit"):
        return await counted(ctx)


def with_providers(runner: Any) -> Callable[[], StageCase]:
    """Makes a case whose providers are open, and stay so."""

    def make() -> StageCase:
        case = declared(runner)()
        providers = ProviderRegistry(client=Client(), limit=Limit(), connection=io.BytesIO())
        return StageCase(case.pipeline, case.name, case.inputs, providers)

    return make


@both_loops
@pytest.mark.parametrize(
    ("runner", "closed"),
    [
        (closes, "client"),
        (closes_and_waits, "client"),
        (enters_and_leaves, "client"),
        (closes_what_is_native, "connection"),
    ],
)
def test_a_stage_that_closes_a_provider_is_found(runner: Any, closed: str, real_io: bool) -> None:
    """The error names it; what the stage has opened it may close, and what is a lock it may use."""
    made = contract(with_providers(runner), real_io=real_io)
    with pytest.raises(AssertionError, match=rf"it closes \['{closed}'\]: let the code that"):
        made.test_leaves_its_providers_open()
    contract(with_providers(closes_its_own), real_io=real_io).test_leaves_its_providers_open()


def test_what_is_closed_when_the_stage_has_ended_is_not_its_doing() -> None:
    """The contract's own resources close providers."""

    class Closing(StageContractTest):
        def make_stage(self) -> StageCase:
            case = with_providers(counted)()
            self.resources.push_async_exit(case.providers["client"])
            case.providers["connection"].close()
            return case

    Closing().test_leaves_its_providers_open()


# ── no false alarm ──────────────────────────────────────────────────────────────────────────────


async def asks_a_child(ctx: StageContext) -> StageOutput:
    reads = StageSpec("reads", counted, inputs=("words", "secret"), outputs=("count",))
    found = await run_child(ctx, Pipeline("child", [reads], inputs=reads.inputs))
    return StageOutput.ok(count=found.outputs["count"])


async def logs(ctx: StageContext) -> StageOutput:
    logging.getLogger("tests").warning("counting")
    return await counted(ctx)


async def measures(ctx: StageContext) -> StageOutput:
    began = time.perf_counter(), ctx.now(), ctx.run.wall_clock(), time.gmtime(0)
    ctx.emit("measured", took=time.perf_counter() - began[0])
    return await counted(ctx)


async def draws_from_its_context(ctx: StageContext) -> StageOutput:
    ctx.random.shuffle([ctx.random.random()])
    np.random.default_rng(ctx.random.getrandbits(32)).random()
    return await counted(ctx)


async def reads_the_process(ctx: StageContext) -> StageOutput:
    return await counted(ctx) if os.environ and Path.cwd() else StageOutput.ok(count=0)


async def reads_what_it_declares_through_the_run(ctx: StageContext) -> StageOutput:
    return StageOutput.ok(count=len(ctx.run.inputs["words"]))


async def sets_timers(ctx: StageContext) -> StageOutput:
    loop = asyncio.get_running_loop()
    loop.call_later(60, print).cancel()
    async with asyncio.timeout(60):
        return await counted(ctx)


class KeepsWhatIsNotTheRuns:
    def __init__(self) -> None:
        self.words = 0

    async def execute(self, ctx: StageContext, /) -> StageOutput:
        cycle: list[Any] = [ctx]
        cycle.append(cycle)
        return await counted(ctx)


async def returns_what_cannot_change(ctx: StageContext) -> StageOutput:
    return StageOutput.ok(count=ctx["words"][0])


@pytest.mark.parametrize(
    "runner",
    [
        logs,
        measures,
        draws_from_its_context,
        reads_the_process,
        reads_what_it_declares_through_the_run,
        sets_timers,
        KeepsWhatIsNotTheRuns,
        returns_what_cannot_change,
    ],
)
def test_a_change_that_nobody_else_notices_is_not_a_fault(runner: Any) -> None:
    """No test of the contract complains."""
    made = contract(declared(runner), orders=2)
    for name in sorted(names_of_tests(StageContractTest)):
        getattr(made, name)()


def test_a_child_run_takes_what_it_needs_from_the_run() -> None:
    """The stage need not declare what it does not read itself."""
    contract(declared(asks_a_child)).test_reads_only_what_it_declares()


def test_a_text_may_be_handed_on() -> None:
    """As may every value that cannot be changed."""

    async def hands_on(ctx: StageContext) -> StageOutput:
        return StageOutput.ok(b=ctx["a"])

    def make(value: Any) -> StageCase:
        spec = StageSpec("hands_on", hands_on, inputs=("a",), outputs=("b",))
        return StageCase(Pipeline("p", [spec], inputs=["a"]), "hands_on", {"a": value})

    fixed: list[Any] = ["text", (1, 2), None, frozenset("a")]
    changeable: list[Any] = [[], {}, ([],), bytearray(), np.zeros(1)]
    for value in fixed:
        contract(functools.partial(make, value)).test_returns_objects_of_its_own()
    for value in changeable:
        with pytest.raises(AssertionError, match="is its input"):
            contract(functools.partial(make, value)).test_returns_objects_of_its_own()


def test_contexts_are_not_shared() -> None:
    """The contract's own context has not what the stage does not declare."""
    made = contract(declared(do_nothing, outputs=[]))
    assert isinstance(made.create_test_context(), PipelineContext)
    assert dict(made.ctx.inputs) == {"words": ["one", "two"]}
    assert dict(made.create_failing_context().inputs) == {}
