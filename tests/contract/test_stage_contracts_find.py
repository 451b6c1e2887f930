"""Each test of the stage's contract can fail: a wrong stage for each, and it is found."""

from __future__ import annotations

import asyncio
import gc
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from stageflow import Pipeline, StageContext, StageOutput, stage
from stageflow.testing import (
    ContractOverrideError,
    StageCase,
    StageContractTest,
    overrides_contract,
)
from stageflow.testing.contracts.conduct import ClosesCalls
from tests.utils.stage_cases import both_loops, contract, declared, names_of_tests, streaming

pytestmark = pytest.mark.untraced


async def right(ctx: StageContext) -> StageOutput:
    words = ctx["words"]
    await asyncio.sleep(0.001)
    return StageOutput.ok(count=len(words))


async def really_right(ctx: StageContext) -> StageOutput:
    """Asks a thread, as a client of files or of an old database does."""
    words = ctx["words"]
    count = await asyncio.to_thread(len, words)
    await asyncio.sleep(0.001)
    return StageOutput.ok(count=count)


async def raises(ctx: StageContext) -> StageOutput:
    raise ValueError("broken")


async def never_fails(ctx: StageContext) -> StageOutput:
    return StageOutput.ok(count=0)


async def returns_nothing(ctx: StageContext) -> Any:
    await asyncio.sleep(0)


async def skips(ctx: StageContext) -> StageOutput:
    return StageOutput.skip("no time")


async def writes_less(ctx: StageContext) -> StageOutput:
    return StageOutput.ok()


async def writes_what_cannot_be_stored(ctx: StageContext) -> StageOutput:
    return StageOutput.ok(count=iter(ctx["words"]))


async def reads_more(ctx: StageContext) -> StageOutput:
    return StageOutput.ok(count=ctx["secret"])


async def changes_its_input(ctx: StageContext) -> StageOutput:
    ctx["words"].sort(reverse=True)
    return StageOutput.ok(count=0)


async def swallows_cancellation(ctx: StageContext) -> StageOutput:
    words = ctx["words"]
    try:
        await asyncio.sleep(1)
    except asyncio.CancelledError:
        await asyncio.sleep(0)
    return StageOutput.ok(count=len(words))


async def fails_when_cancelled(ctx: StageContext) -> StageOutput:
    try:
        await asyncio.sleep(1)
    except BaseException:
        return StageOutput.fail("could not count")
    return StageOutput.ok(count=len(ctx["words"]))


async def goes_on_and_then_fails(ctx: StageContext) -> StageOutput:
    try:
        await asyncio.sleep(1)
    except:  # noqa: E722 - as people write it
        await asyncio.sleep(0.5)
        return StageOutput.fail("could not count")
    return StageOutput.ok(count=len(ctx["words"]))


async def returns_less_when_cancelled(ctx: StageContext) -> StageOutput:
    try:
        await asyncio.sleep(1)
    except BaseException:
        return StageOutput.ok()
    return StageOutput.ok(count=len(ctx["words"]))


async def returns_nothing_when_cancelled(ctx: StageContext) -> Any:
    with suppress(asyncio.CancelledError):
        await asyncio.sleep(1)
        return StageOutput.ok(count=len(ctx["words"]))


async def uses_a_call_without_await(ctx: StageContext) -> StageOutput:
    call: Any = ctx.llm.complete([])
    return StageOutput.ok(count=call.upper())


async def forgets_a_call(ctx: StageContext) -> StageOutput:
    ctx.llm.complete([])  # type: ignore[unused-coroutine]
    await asyncio.sleep(0)
    return StageOutput.ok(count=0)


async def cleans_up_for_ever(ctx: StageContext) -> StageOutput:
    words = ctx["words"]
    try:
        await asyncio.sleep(1)
    finally:
        await asyncio.sleep(60)
    return StageOutput.ok(count=len(words))


async def leaves_a_task(ctx: StageContext) -> StageOutput:
    words = ctx["words"]
    asyncio.get_running_loop().create_task(asyncio.sleep(60))
    await asyncio.sleep(0)
    return StageOutput.ok(count=len(words))


async def holds_the_loop(ctx: StageContext) -> StageOutput:
    words = ctx["words"]
    hold(0.06)
    return StageOutput.ok(count=len(words))


def hold(cpu_s: float) -> None:
    until = time.thread_time() + cpu_s  # of this thread: others may have the machine meanwhile
    while time.thread_time() < until:
        pass


async def holds_the_loop_in_pieces(ctx: StageContext) -> StageOutput:
    for _ in range(30):
        hold(0.002)
    return StageOutput.ok(count=len(ctx["words"]))


async def waits_long(ctx: StageContext) -> StageOutput:
    await asyncio.sleep(0.06)
    return StageOutput.ok(count=len(ctx["words"]))


class Clashes:
    """Mixes two runs up only if they take turns in an order that asyncio would not take."""

    busy = False

    async def execute(self, ctx: StageContext, /) -> StageOutput:
        words = ctx["words"]
        for _ in range(4 * len(words)):
            await asyncio.sleep(0)
        clash, self.busy = self.busy, True
        await asyncio.sleep(0)
        self.busy = False
        return StageOutput.ok(count=-1 if clash else len(words))


class KeepsState:
    """Holds its input on itself while it waits."""

    words: Any = None

    async def execute(self, ctx: StageContext, /) -> StageOutput:
        self.words = ctx["words"]
        await asyncio.sleep(0.001)
        return StageOutput.ok(count=len(self.words))


class CountsRuns:
    """Gives another answer each time."""

    runs = 0

    async def execute(self, ctx: StageContext, /) -> StageOutput:
        self.runs += len(ctx["words"])
        return StageOutput.ok(count=self.runs)


async def streams_right(ctx: StageContext) -> StageOutput:
    parts, words = ctx.open("parts"), ctx["words"]
    for number in range(3):
        await asyncio.sleep(0.001)
        if not await parts.put(number):
            break
    return StageOutput.ok(count=len(words))


async def swallows_while_it_puts(ctx: StageContext) -> StageOutput:
    """Alone it never waits to put, and so is never cancelled there."""
    parts, words = ctx.open("parts"), ctx["words"]
    for number in range(3):
        try:
            await parts.put(number)
        except asyncio.CancelledError:
            break
    return StageOutput.ok(count=len(words))


async def insists_on_being_read(ctx: StageContext) -> StageOutput:
    parts, words = ctx.open("parts"), ctx["words"]
    for number in range(3):
        if not await parts.put(number):
            raise RuntimeError("nobody listens")
    return StageOutput.ok(count=len(words))


WRONG: dict[str, list[Callable[[], StageCase]]] = {
    "test_emits_a_completed_event_when_it_succeeds": [declared(raises), declared(skips)],
    "test_emits_a_failed_event_when_it_fails": [declared(never_fails)],
    "test_returns_an_output_with_a_valid_status": [declared(returns_nothing), declared(skips)],
    "test_returns_the_outputs_that_it_declares": [declared(writes_less), declared(skips)],
    "test_returns_outputs_that_can_be_stored": [declared(writes_what_cannot_be_stored)],
    "test_reads_only_what_it_declares": [declared(reads_more)],
    "test_leaves_its_inputs_as_they_are": [declared(changes_its_input)],
    "test_can_be_cancelled_wherever_it_waits": [
        declared(swallows_cancellation),
        declared(cleans_up_for_ever),
        declared(leaves_a_task),
    ],
    "test_can_be_cancelled_while_its_reader_is_slow": [streaming(swallows_while_it_puts)],
    "test_ends_when_its_reader_stops": [streaming(insists_on_being_read)],
    "test_does_not_hold_the_loop": [declared(holds_the_loop), declared(holds_the_loop_in_pieces)],
    "test_two_runs_at_once_do_not_mix": [declared(KeepsState), declared(CountsRuns)],
}

#: What only a broken engine, or a false declaration, can violate, and what a stage does beside its
#: work; shown in test_planted_engine_bugs.py and test_stage_conduct.py.
OTHERWISE = {
    "test_keeps_no_context",
    "test_leaves_its_providers_open",
    "test_leaves_the_process_as_it_is",
    "test_reads_only_the_clock_of_the_loop",
    "test_returns_objects_of_its_own",
    "test_emits_a_started_event",
    "test_cannot_fail_only_if_it_says_so",
    "test_a_failure_has_a_message_for_the_user",
}


@pytest.mark.parametrize(
    ("make", "real_io"),
    [
        (declared(right), True),
        (declared(right), False),
        (declared(really_right), True),
        (streaming(streams_right), True),
        (streaming(streams_right), False),
    ],
)
@pytest.mark.parametrize("name", sorted(names_of_tests(StageContractTest)))
def test_a_right_stage_passes(name: str, make: Callable[[], StageCase], real_io: bool) -> None:
    """No contract asks for more than it says."""
    getattr(contract(make, real_io=real_io), name)()


@both_loops
@pytest.mark.parametrize(
    ("name", "number"), [(name, n) for name, cases in WRONG.items() for n in range(len(cases))]
)
def test_a_wrong_stage_is_found(name: str, number: int, real_io: bool) -> None:
    """By the test that is there for it, on a real loop and in simulated time."""
    make = WRONG[name][number]
    # One of them hangs: it is given up soon, and again after a cancellation.
    with pytest.raises((AssertionError, RuntimeError)) as caught:
        getattr(contract(make, real_io=real_io, patience_s=0.3), name)()
    assert str(caught.value)


@both_loops
@pytest.mark.parametrize(
    "runner",
    [
        swallows_cancellation,
        fails_when_cancelled,
        goes_on_and_then_fails,
        returns_less_when_cancelled,
        returns_nothing_when_cancelled,
    ],
)
def test_whatever_a_cancelled_stage_returns_it_has_swallowed(runner: Any, real_io: bool) -> None:
    """Also if it returns a failure, or something else than an output: the error names the fix."""
    made = contract(declared(runner), real_io=real_io)
    with pytest.raises(AssertionError, match="let CancelledError pass"):
        made.test_can_be_cancelled_wherever_it_waits()


@both_loops
@pytest.mark.parametrize("name", sorted(names_of_tests(StageContractTest)))
def test_a_call_that_a_failed_stage_left_is_not_complained_of(name: str, real_io: bool) -> None:
    """The stage's own error stands alone: Python adds no warning once the call is dropped."""
    with warnings.catch_warnings(record=True) as added:
        warnings.simplefilter("always")
        with suppress(AssertionError):
            getattr(contract(declared(uses_a_call_without_await), real_io=real_io), name)()
        gc.collect()
    assert [str(warning.message) for warning in added] == []


def test_what_a_call_without_await_leads_to_is_said() -> None:
    """With the fix."""
    with pytest.raises(AssertionError, match="write await before the call that returned it"):
        contract(declared(uses_a_call_without_await)).test_returns_an_output_with_a_valid_status()


@both_loops
def test_a_call_that_nobody_awaited_is_found(real_io: bool) -> None:
    """The error names the call, where it is made, and the fix."""
    made = contract(declared(forgets_a_call), real_io=real_io)
    said = r"write await before the call: nobody awaited FakeLLM\.complete\(…\), called at"
    with pytest.raises(AssertionError, match=said + r" .*_find\.py:\d+ in forgets_a_call$"):
        made.test_reads_only_what_it_declares()


async def test_a_call_that_a_task_will_make_is_not_closed() -> None:
    """The stage has failed, and its task goes on."""
    begun: list[asyncio.Task[int]] = []

    async def seven() -> int:
        return 7

    async def starts_and_fails(ctx: StageContext) -> StageOutput:
        call = seven()
        begun.append(asyncio.create_task(call))
        raise ValueError("broken")

    spec = stage(name="s")(starts_and_fails)
    result = await Pipeline("p", [spec]).run(interceptors=[ClosesCalls()])
    assert result.status == "failed"
    assert await begun[0] == 7


def test_other_warnings_are_handed_on() -> None:
    """A contract does not swallow them."""

    async def warns(ctx: StageContext) -> StageOutput:
        warnings.warn("old", DeprecationWarning, stacklevel=1)
        return StageOutput.ok(count=0)

    with pytest.warns(DeprecationWarning, match="old"):
        contract(declared(warns)).test_emits_a_started_event()


def test_to_wait_is_not_to_hold() -> None:
    """A real loop that has nothing to do is not held."""
    made = contract(declared(waits_long), real_io=True)
    made.test_does_not_hold_the_loop()


#: Checks that hold for a stage even if it fails each time.
OWED_IN_FAILURE = {
    "test_emits_a_started_event",
    "test_emits_a_failed_event_when_it_fails",
    "test_cannot_fail_only_if_it_says_so",
    "test_a_failure_has_a_message_for_the_user",
}


@both_loops
@pytest.mark.parametrize("name", sorted(names_of_tests(StageContractTest) - OWED_IN_FAILURE))
def test_a_stage_that_always_fails_has_shown_nothing_else(name: str, real_io: bool) -> None:
    """Every other test needs one good run, and says why there was none."""
    with pytest.raises(AssertionError, match="count failed: ValueError: broken"):
        getattr(contract(declared(raises), real_io=real_io), name)()


def test_in_simulated_time_orders_are_drawn() -> None:
    """Drawn orders find a bug that asyncio's own order hides."""
    shared = Clashes()
    made = contract(declared(shared), orders=30)
    with pytest.raises(AssertionError, match="keep no state on the stage"):
        made.test_two_runs_at_once_do_not_mix()
    contract(declared(Clashes()), real_io=True).test_two_runs_at_once_do_not_mix()


def test_real_io_in_simulated_time_is_refused_with_the_fix() -> None:
    """The error says which attribute to set."""

    async def connects(ctx: StageContext) -> StageOutput:
        await asyncio.open_connection("127.0.0.1", 9)
        return StageOutput.ok(count=0)

    made = contract(declared(connects))
    with pytest.raises(AssertionError, match="real_io = True"):
        made.test_emits_a_completed_event_when_it_succeeds()


def test_where_a_real_stage_hangs_is_named() -> None:
    """File, line and function, and not those of the contract."""
    made = contract(declared(cleans_up_for_ever), real_io=True, patience_s=0.2)
    with pytest.raises(AssertionError, match=r"test_stage_contracts_find\.py:\d+ in cleans_up_for"):
        made.test_can_be_cancelled_wherever_it_waits()


def test_what_a_maker_opened_is_closed_in_the_loop_that_used_it() -> None:
    """Once for each stage that ran, and before the loop is gone."""
    used: list[asyncio.AbstractEventLoop] = []
    closed: list[asyncio.AbstractEventLoop] = []

    async def close() -> None:
        closed.append(asyncio.get_running_loop())

    async def uses(ctx: StageContext) -> StageOutput:
        used.append(asyncio.get_running_loop())
        await asyncio.sleep(0)
        return StageOutput.ok(count=0)

    class Opening(StageContractTest):
        def make_stage(self) -> StageCase:
            self.resources.push_async_callback(close)
            return declared(uses)()

    for real_io in (True, False):
        used.clear()
        closed.clear()
        made = Opening()
        made.real_io = real_io
        made.test_returns_the_outputs_that_it_declares()
        made.test_can_be_cancelled_wherever_it_waits()
        assert len(closed) >= 3
        assert set(map(id, used)) <= set(map(id, closed))
        assert len(closed) == len(set(map(id, closed)))


def test_every_test_of_the_contract_is_shown_red() -> None:
    """None is left that could not fail."""
    assert names_of_tests(StageContractTest) == WRONG.keys() | OTHERWISE


def test_the_place_that_holds_the_loop_is_named() -> None:
    """File, line and function."""
    with pytest.raises(AssertionError, match=r"test_stage_contracts_find\.py:\d+ in hold;"):
        contract(declared(holds_the_loop)).test_does_not_hold_the_loop()


def test_a_replaced_test_has_to_be_declared() -> None:
    """Whether it is replaced or deleted; with a reason it may be."""
    with pytest.raises(ContractOverrideError, match=r"Sly replaces the contract's test_does_not"):
        type("Sly", (StageContractTest,), {"test_does_not_hold_the_loop": lambda self: None})
    with pytest.raises(ContractOverrideError, match="Sly"):
        type("Sly", (StageContractTest,), {"test_does_not_hold_the_loop": None})

    class Open(StageContractTest):
        @overrides_contract(reason="it computes, in a process of its own")
        def test_does_not_hold_the_loop(self) -> None: ...

    with pytest.raises(ContractOverrideError, match="Slyer"):
        type("Slyer", (Open,), {"test_does_not_hold_the_loop": lambda self: None})
    with pytest.raises(ValueError, match="say why"):
        overrides_contract(reason=" ")


def test_only_a_reader_shows_what_is_swallowed_in_put() -> None:
    """Alone, the stage passes the test that the one beside a reader fails."""
    made = contract(streaming(swallows_while_it_puts))
    made.test_can_be_cancelled_wherever_it_waits()
    with pytest.raises(AssertionError, match="let CancelledError pass"):
        made.test_can_be_cancelled_while_its_reader_is_slow()
