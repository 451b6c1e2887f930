"""Faults meet clients of every shape: in place of the call, never beside it, never unnoticed."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any
from unittest.mock import AsyncMock

import pytest

from stageflow import ProviderRegistry
from stageflow._utils.closing import closing_stream
from stageflow.errors import InvalidConfigError
from stageflow.providers import FakeDatabase
from stageflow.testing import FaultInjector, FaultPlan, FaultType, PlannedFault, inject_fault
from tests.utils.client_shapes import EFFECTS, Api, Down, Dynamic, Settings, Slotted, did
from tests.utils.faulty import gathered

# A test that is not async needs no simulation.
simulated = pytest.mark.simulate(order="asyncio")


@pytest.fixture(autouse=True)
def _no_effects() -> None:
    EFFECTS.clear()


async def _entered(manager: Any) -> Any:
    async with manager as value:
        return value


async def _first(stream: Any) -> Any:
    async with closing_stream(stream):
        return await anext(aiter(stream))


async def _all(stream: Any) -> list[Any]:
    return [piece async for piece in stream]


async def _plain(call: Callable[[], Any]) -> Any:
    return call()


async def _with(api: Any) -> Any:
    with api.block() as value:
        return value


async def _many(api: Any) -> Any:
    first, *_ = await asyncio.gather(api.get(), api.get())
    return first


#: How each shape is used.
SHAPES: dict[str, Callable[[Any], Awaitable[Any]]] = {
    "async method": lambda api: api.call(),
    "namespace": lambda api: api.chat.completions.create(),
    "plain method of a namespace": lambda api: _plain(api.chat.completions.counted),
    "part that is a data class": lambda api: api.models.get(),
    "simple namespace": lambda api: api.space.tools.call(),
    "partial": lambda api: api.partial(),
    "plain method": lambda api: _plain(api.plain),
    "item": lambda api: _plain(lambda: api["k"]),
    "async property": lambda api: api.status,
    "property that starts a task": lambda api: api.state,
    "async context manager": lambda api: _entered(api.session()),
    "plain context manager": _with,
    "annotated context manager": lambda api: _entered(api.entered()),
    "task": lambda api: api.task(),
    "future without annotation": lambda api: _awaited(api.future),
    "names for type checkers": lambda api: api.unknown_names(),
    "request awaited": lambda api: api.get(),
    "request entered": lambda api: _entered(api.get()),
    "requests gathered": _many,
    "page awaited": lambda api: api.pages(),
    "pages iterated": lambda api: _first(api.pages()),
    "decorated": lambda api: asyncio.create_task(api.wrapped()),
    "stream": lambda api: _first(api.stream()),
    "another client": lambda api: api.with_options().chat.completions.create(),
    "the client entered": _entered,
}


async def _awaited(call: Callable[[], Awaitable[Any]]) -> Any:
    return await call()


each_shape = pytest.mark.parametrize("shape", SHAPES)


@each_shape
@pytest.mark.parametrize(
    ("fault_type", "options", "raised"),
    [
        (FaultType.ERROR, {"exception": Down("down")}, Down),
        (FaultType.RATE_LIMITED, {}, Exception),
        (FaultType.DISCONNECT, {}, ConnectionResetError),
        (FaultType.TIMEOUT, {"duration_ms": 5_000}, TimeoutError),
    ],
)
@simulated
async def test_a_fault_comes_in_place_of_the_call(
    shape: str, fault_type: FaultType, options: dict[str, Any], raised: type[Exception]
) -> None:
    """The client does nothing, and the caller gets the fault where it would get the answer."""
    registry = ProviderRegistry(api=Api())
    with inject_fault("api", fault_type, **options) as injector, pytest.raises(raised):
        await SHAPES[shape](registry["api"])
    assert EFFECTS == []
    assert injector.injected == (2 if shape == "requests gathered" else 1)
    await SHAPES[shape](registry["api"])
    assert EFFECTS


#: What blocks its thread cannot stall; whether these do cannot be seen without a call.
PLAIN = {"plain method", "item", "plain method of a namespace", "plain context manager"}


@each_shape
@simulated
async def test_a_stalled_call_waits_and_is_not_made(shape: str) -> None:
    """Where a caller cannot wait, the fault is refused."""
    registry = ProviderRegistry(api=Api())
    with inject_fault("api", FaultType.STALL) as injector:
        fix = "it is not async; choose another fault, or annotate that it returns an Awaitable"
        raised, message = (
            (InvalidConfigError, rf"fault STALL: method is 'api\.\S+'; {fix}$")
            if shape in PLAIN
            else (TimeoutError, None)
        )
        with pytest.raises(raised, match=message):
            async with asyncio.timeout(1_000):
                await SHAPES[shape](registry["api"])
    assert (EFFECTS, injector.injected > 0) == ([], True)


@each_shape
@simulated
async def test_a_reply_comes_in_place_of_the_answer(shape: str) -> None:
    """In each way in which a caller can visibly await or enter it."""
    if shape in ("future without annotation", "plain context manager"):
        return
    expected = "r"
    with inject_fault("api", FaultType.INVALID, reply="r") as injector:
        assert await SHAPES[shape](ProviderRegistry(api=Api())["api"]) == expected
    assert (EFFECTS, injector.injected > 0) == ([], True)


@each_shape
@simulated
async def test_a_slow_call_is_made_later(shape: str) -> None:
    """Once, and with the client's own answer; of a plain call, nothing is counted as injected."""
    api, loop = Api(), asyncio.get_running_loop()
    healthy = await SHAPES[shape](api)
    effects, before_s = EFFECTS.copy(), loop.time()
    with inject_fault("api", FaultType.SLOW, duration_ms=2_000, allow_unused=True) as injector:
        assert await SHAPES[shape](ProviderRegistry(api=api)["api"]) == healthy
    assert effects * 2 == EFFECTS
    assert loop.time() - before_s == (0.0 if shape in PLAIN else 2.0)
    assert (injector.injected == 0) == (shape in PLAIN)


@each_shape
@pytest.mark.parametrize(
    ("fault_type", "options"), [(FaultType.CUT, {}), (FaultType.DISCONNECT, {"after_call": True})]
)
@simulated
async def test_an_answer_is_lost_after_the_work(
    shape: str, fault_type: FaultType, options: dict[str, Any]
) -> None:
    """The client has done its work, and closes what it had opened."""
    if shape in ("stream", "pages iterated", "plain context manager"):
        return  # these have a first piece, or have not begun
    with inject_fault("api", fault_type, **options), pytest.raises(ConnectionResetError):
        await SHAPES[shape](ProviderRegistry(api=Api())["api"])
    assert EFFECTS
    assert EFFECTS.count("session") == EFFECTS.count("session left")


@simulated
async def test_values_and_classes_are_the_clients_own() -> None:
    """An attribute that is not a call meets no fault, is itself, and can be set."""
    api: Any = Api()
    with inject_fault("api", FaultType.ERROR, allow_unused=True):
        faulty: Any = ProviderRegistry(api=api)["api"]
        assert faulty.settings is api.settings
        assert faulty.settings.joined("x") == "http://there/x"
        assert faulty.last_error is api.last_error
        assert faulty.later is None
        assert isinstance(ProviderRegistry(api=api)["api"], Api)
        assert (faulty == api, hash(faulty), len({faulty, api})) == (True, hash(api), 1)
        assert "with_options" in dir(faulty)
        assert not hasattr(faulty, "nothing")
        assert not callable(faulty)
        faulty.n += 1
        faulty.chat.completions.limit = 3
        faulty.later = Settings()
        del faulty.later
    assert (api.n, api.chat.completions.limit, hasattr(api, "later")) == (1, 3, False)


@simulated
async def test_an_error_class_of_the_client_can_be_caught() -> None:
    """Also one that the fault raises."""
    registry = ProviderRegistry(api=Api())
    with inject_fault("api", FaultType.ERROR, exception=Down) as injector:
        api = registry["api"]
        try:
            await api.call()
        except api.Down as error:
            caught = error
    assert isinstance(caught, Down)
    assert injector.injected == 1


@pytest.mark.parametrize(
    ("client", "use", "healthy"),
    [
        (Dynamic(), lambda api: api.users.list(name="x", self=1), "/users/list"),
        (Slotted(), lambda api: api.call(), "slotted"),
        (Api().call, lambda api: api("x"), "call"),
        (Api().partial, lambda api: api(), "call"),
        (AsyncMock(return_value="mock"), lambda api: api(1), "mock"),
        (AsyncMock(**{"chat.create.return_value": "m"}), lambda api: api.chat.create(1), "m"),
    ],
    ids=["dynamic", "slots", "method", "partial", "mock", "methods of a mock"],
)
@simulated
async def test_clients_of_other_kinds(client: Any, use: Any, healthy: str) -> None:
    """A fault, a reply, and once the block is left the client's own answer."""
    registry = ProviderRegistry(api=client)
    with inject_fault("api", FaultType.DISCONNECT), pytest.raises(ConnectionResetError):
        await use(registry["api"])
    with inject_fault("api", FaultType.EMPTY, reply=""):
        assert await use(registry["api"]) == ""
    assert EFFECTS == []
    with inject_fault("api", FaultType.SLOW) as slow:
        assert await use(registry["api"]) == healthy
    assert slow.injected == 1


@simulated
async def test_slots_are_counted_up() -> None:
    """An attribute that is set reaches the client, whatever its class."""
    client = Slotted()
    with inject_fault("api", FaultType.ERROR, allow_unused=True):
        ProviderRegistry(api=client)["api"].count += 1
    assert client.count == 1


@pytest.mark.parametrize(
    ("fault_type", "options", "got", "ending"),
    [
        (FaultType.CUT, {"after_pieces": 2}, ["a", "b"], ConnectionResetError),
        (FaultType.DISCONNECT, {"after_call": True}, ["a", "b", "c"], ConnectionResetError),
        (FaultType.STALL, {"after_pieces": 1}, ["a"], TimeoutError),
        (FaultType.SLOW, {"duration_ms": 1, "per_piece_ms": 40_000}, ["a", "b"], TimeoutError),
    ],
)
@simulated
async def test_a_stream_that_is_awaited_first_breaks_midway(
    fault_type: FaultType, options: dict[str, Any], got: list[str], ending: type[Exception]
) -> None:
    """As a model's answer does with ``stream=True``."""
    read: list[str] = []
    with inject_fault("api", fault_type, **options):
        stream = await ProviderRegistry(api=Api())["api"].chat.completions.create(stream=True)
        with pytest.raises(ending):
            async with asyncio.timeout(100), stream:
                await gathered(stream, read)
    assert read == got
    assert EFFECTS == ["create"]


@simulated
async def test_a_stalled_answer_in_one_piece_hangs() -> None:
    """It has no pieces that could come first."""
    with inject_fault("api", FaultType.STALL, after_pieces=2), pytest.raises(TimeoutError):
        async with asyncio.timeout(100):
            await ProviderRegistry(api=Api())["api"].call()


@simulated
async def test_an_entered_client_meets_the_fault_too() -> None:
    """Entering returns the client itself, and not a way around the fault."""
    registry = ProviderRegistry(api=Api())
    script = {"script": "ok, fail", "fault": FaultType.DISCONNECT}
    with (
        inject_fault("api", FaultType.INTERMITTENT, **script) as injector,
        pytest.raises(ConnectionResetError),
    ):
        async with registry["api"] as api:
            await api.call()
    assert (EFFECTS, injector.calls) == (["opened", "closed"], 2)


@simulated
async def test_a_pipeline_of_commands_meets_the_fault_when_it_is_sent() -> None:
    """Calls on a pipeline that was never created have no effect."""

    class Commands:
        def pipeline(self) -> Commands:
            did("pipeline")
            return self

        def set(self, key: str) -> Commands:
            did("set")
            return self

        async def execute(self) -> None:
            did("execute")

    with inject_fault("db", FaultType.DISCONNECT) as injector, pytest.raises(ConnectionResetError):
        await ProviderRegistry(cache=Commands(), db=FakeDatabase())["db"].get("a", "b")
    with inject_fault("cache", FaultType.DISCONNECT), pytest.raises(ConnectionResetError):
        await ProviderRegistry(cache=Commands())["cache"].pipeline().set("k").execute()
    assert (EFFECTS, injector.injected) == ([], 1)


# ── nothing injected ────────────────────────────────────────────────────────────────────────


async def _nothing(registry: ProviderRegistry) -> None:
    """The block ends as it began."""


@pytest.mark.parametrize(
    ("name", "body", "problem"),
    [
        ("lmm", _nothing, "nothing in the block asked for a provider 'lmm', did you mean 'llm'?"),
        ("serch", _nothing, "nothing in the block asked for a provider 'serch'; if that may be"),
        ("llm", _nothing, "nothing in the block asked for a provider 'llm'; if that may be"),
        ("api", lambda registry: _plain(lambda: registry["api"].n), "asked for, but not called"),
        ("api", lambda registry: _plain(registry["api"].plain), "none of 1 calls can meet it"),
    ],
)
@simulated
async def test_a_block_without_an_injection_raises(
    name: str, body: Callable[[ProviderRegistry], Awaitable[Any]], problem: str
) -> None:
    """It says why, and which option allows it."""
    registry = ProviderRegistry(api=Api())
    with pytest.raises(InvalidConfigError) as raised:
        async with inject_fault(name, FaultType.SLOW):
            await body(registry)
    assert problem in str(raised.value)
    assert "allow_unused=True" in str(raised.value)
    with inject_fault(name, FaultType.SLOW, allow_unused=True):
        await body(registry)


@pytest.mark.parametrize(
    "injector",
    [
        inject_fault("api", FaultType.INTERMITTENT, probability=0),
        inject_fault("api", FaultType.INTERMITTENT, script="ok"),
    ],
)
@simulated
async def test_a_fault_that_comes_by_chance_may_not_come(injector: FaultInjector) -> None:
    """As long as somebody calls."""
    with injector:
        await ProviderRegistry(api=Api())["api"].call()
    with pytest.raises(InvalidConfigError), injector:
        injector.calls = 0


@simulated
async def test_what_a_block_raises_counts_before_what_it_did_not_inject() -> None:
    """An outer fault that an inner one hides is not a mistake either, nor is one of a plan."""
    registry = ProviderRegistry(api=Api())
    with pytest.raises(ZeroDivisionError), inject_fault("api", FaultType.ERROR):
        raise ZeroDivisionError
    with inject_fault("api", FaultType.ERROR), inject_fault("api", FaultType.SLOW):
        await registry["api"].call()
    with FaultPlan((PlannedFault("api", FaultType.ERROR),)).injected() as (injector,):
        pass
    assert injector.injected == 0


def test_the_wrappers_are_what_they_wrap() -> None:
    """Async functions stay async functions, with their names."""
    with inject_fault("api", FaultType.ERROR, allow_unused=True):
        api = ProviderRegistry(api=Api())["api"]
        assert inspect.iscoroutinefunction(api.call)
        assert inspect.isasyncgenfunction(api.stream)
        assert (api.plain.__name__, inspect.iscoroutinefunction(api.plain)) == ("plain", False)
