"""To which calls an injected fault applies, and for how long."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

import pytest

from stageflow import ProviderRegistry
from stageflow.errors import InvalidConfigError
from stageflow.providers import FakeLLM, adapted
from stageflow.resilience import classify
from stageflow.testing import FaultType, inject_fault
from tests.utils.faulty import QUESTION, Search, gathered, providers


async def answer(registry: ProviderRegistry) -> str:
    """Return the model's answer, or the code of its failure."""
    try:
        return await registry.llm.complete(QUESTION)
    except Exception as error:
        return classify(error).code


HEALTHY = "".join(["You ", "said: ", "one two three"])


@pytest.mark.simulate(order="asyncio")
async def test_the_inner_fault_wins_and_the_outer_returns() -> None:
    """The inner fault holds alone until its block is left; then the outer one is back."""
    registry = providers()
    with inject_fault("llm", FaultType.ERROR) as outer:
        assert await answer(registry) == "service_unavailable"
        async with inject_fault("llm", FaultType.DISCONNECT) as inner:
            assert await answer(registry) == "connection_failed"
            with inject_fault("llm", FaultType.SLOW, duration_ms=1):
                assert await answer(registry) == HEALTHY
            assert await answer(registry) == "connection_failed"
        assert await answer(registry) == "service_unavailable"
        with inject_fault("stt", FaultType.ERROR, allow_unused=True):
            assert await answer(registry) == "service_unavailable"
    assert await answer(registry) == HEALTHY
    assert (outer.injected, inner.injected) == (3, 2)


@pytest.mark.simulate(order="asyncio")
async def test_a_block_restores_however_it_is_left() -> None:
    """A body that raises, or is cancelled, leaves the provider as it was."""
    registry = providers()
    with pytest.raises(ZeroDivisionError), inject_fault("llm", FaultType.ERROR):
        raise ZeroDivisionError
    assert await answer(registry) == HEALTHY

    async def stalled() -> str:
        try:
            async with inject_fault("llm", FaultType.STALL):
                return await answer(registry)
        finally:
            assert await answer(registry) == HEALTHY

    task = asyncio.create_task(stalled())
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await answer(registry) == HEALTHY


@pytest.mark.simulate(order="asyncio")
async def test_tasks_side_by_side_do_not_disturb_each_other() -> None:
    """Two tasks at once each meet their own fault, and a third none."""
    registry = providers()

    async def under(fault_type: FaultType) -> str:
        with inject_fault("llm", fault_type):
            await asyncio.sleep(0.01)
            return await answer(registry)

    heard = await asyncio.gather(
        under(FaultType.ERROR), under(FaultType.DISCONNECT), answer(registry)
    )
    assert list(heard) == ["service_unavailable", "connection_failed", HEALTHY]


@pytest.mark.simulate(order="asyncio")
async def test_a_task_that_outlives_the_block_is_restored_too() -> None:
    """A task that a block has started meets the fault, but no longer once the block is left."""
    registry = providers()
    heard: list[str] = []

    async def ask_twice() -> None:
        held = registry.llm
        heard.append(await answer(registry))
        await asyncio.sleep(1)
        heard.append(await answer(registry))
        heard.append(await held.complete(QUESTION))

    with inject_fault("llm", FaultType.ERROR) as llm:
        task = asyncio.create_task(ask_twice())
        await asyncio.sleep(0.5)
    await task
    assert heard == ["service_unavailable", HEALTHY, HEALTHY]
    assert llm.calls == 1


@pytest.mark.simulate(order="asyncio")
async def test_a_task_that_outlives_the_inner_block_meets_the_outer_fault() -> None:
    """To a task from an inner block that is left, the outer block's fault is back as to others."""
    registry = providers()

    async def ask_later() -> str:
        await asyncio.sleep(1)
        return await answer(registry)

    with inject_fault("llm", FaultType.ERROR):
        with inject_fault("llm", FaultType.DISCONNECT, allow_unused=True):
            task = asyncio.create_task(ask_later())
        assert await task == "service_unavailable"


@pytest.mark.simulate(order="asyncio")
async def test_a_block_leaves_nothing_behind() -> None:
    """Once its block is left nothing holds on to an injector."""
    injector = inject_fault("llm", FaultType.ERROR)
    with injector:
        await answer(providers())
    kept = weakref.ref(injector)
    del injector
    gc.collect()
    assert kept() is None


@pytest.mark.simulate(order="asyncio")
async def test_a_call_that_never_begins_is_not_counted_as_a_call() -> None:
    """A call that is cancelled before it begins is not counted, and reaches nobody."""
    search = Search()
    with inject_fault("search", FaultType.SLOW, allow_unused=True) as injector:
        task = asyncio.create_task(ProviderRegistry(search=search)["search"].find("x"))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    gc.collect()  # what was made and never awaited would warn here, and warnings are errors
    assert injector.calls == 0


@pytest.mark.simulate(order="asyncio")
async def test_any_method_of_any_provider_is_met() -> None:
    """Of a provider that fits no port, every call is met, and no value is touched."""
    search = Search()
    registry = ProviderRegistry(search=search, ask=search.find)
    with inject_fault("search", FaultType.ERROR, status_code=500) as injector:
        faulty = registry["search"]
        for call in (faulty.find("x"), faulty.later("x"), gathered(faulty.pages(), [])):
            with pytest.raises(Exception, match="'search' is out of order"):
                await call
        with pytest.raises(Exception, match="'search' is out of order"):
            faulty.names()
        assert faulty.ranking == "by date"
        assert not hasattr(faulty, "nothing")
        assert (injector.calls, injector.injected) == (4, 4)
    with inject_fault("ask", FaultType.INVALID, reply=5):
        assert await registry["ask"]("x") == 5
    with inject_fault("search", FaultType.INVALID, reply=["a", "b"]):
        assert await gathered(registry["search"].pages(), []) == ["a", "b"]
    with inject_fault("search", FaultType.SLOW, duration_ms=0):
        assert await registry["search"].later("x") == ["x"]
    assert await registry["search"].find("x") == ["x"]


@pytest.mark.simulate(order="asyncio")
async def test_closing_a_stream_early_closes_the_real_one() -> None:
    """A reader that stops early closes the provider's own stream, through any fault."""
    search = Search()
    registry = ProviderRegistry(search=search)
    faults: list[tuple[FaultType, dict[str, Any]]] = [
        (FaultType.SLOW, {}),
        (FaultType.CUT, {"after_pieces": 2}),
        (FaultType.STALL, {"after_pieces": 2}),
        (FaultType.DISCONNECT, {"after_call": True}),
    ]
    for fault_type, options in faults:
        before = search.closed
        with inject_fault("search", fault_type, **options):
            pages = registry["search"].pages()
            assert await anext(pages) == "first"
            await pages.aclose()
        assert search.closed == before + 1, fault_type


@pytest.mark.simulate(order="asyncio")
async def test_a_provider_of_two_may_fail() -> None:
    """An injector can be put around a provider by hand; it strikes while its block is entered."""
    injector = inject_fault("llm", FaultType.ERROR)
    registry = ProviderRegistry(llm=injector.around(FakeLLM("first")), other=FakeLLM("second"))
    assert await answer(registry) == "first"
    with injector:
        assert await answer(registry) == "service_unavailable"
        assert await registry["other"].complete(QUESTION) == "second"
    assert await answer(registry) == "first"
    assert (injector.calls, injector.injected) == (1, 1)


@pytest.mark.simulate(order="asyncio")
async def test_other_adapters_keep_their_place() -> None:
    """An adapter of another kind that stands between two faults is kept."""
    seen: list[str] = []

    class Listening:
        def __init__(self, llm: Any) -> None:
            self.llm = llm

        async def complete(self, messages: Any) -> str:
            seen.append("asked")
            said: str = await self.llm.complete(messages)
            return said

    registry = providers()
    with (
        inject_fault("llm", FaultType.ERROR),
        adapted("llm", Listening),
        inject_fault("llm", FaultType.SLOW),
    ):
        assert await answer(registry) == "service_unavailable"
    assert seen == ["asked"]


def test_a_block_cannot_be_entered_twice() -> None:
    """An injector counts for one block at a time; a second entrance says what to do."""
    injector = inject_fault("llm", FaultType.ERROR, allow_unused=True)
    with injector, pytest.raises(InvalidConfigError, match="an injector for each block"):
        injector.__enter__()
    with injector:
        pass
