"""Refusals of a simulation: real I/O, deadlocks, livelocks and tasks left behind."""

from __future__ import annotations

import _thread
import asyncio
import atexit
import contextlib
import gc
import itertools
import os
import random
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from typing import Any

import pytest

from stageflow import Pipeline, StageContext, StageOutput, StageSpec
from stageflow.testing import (
    DeadlockError,
    LeftBehindError,
    LivelockError,
    RealIOError,
    Scenario,
    Simulation,
    SimulationLoop,
    run_in,
    simulate,
    simulate_pipeline,
)
from stageflow.testing.simulation import loop as loop_module
from tests.utils.commands import run_command


@pytest.fixture(autouse=True)
def frozen() -> Iterator[None]:
    """Let long simulations collect their own garbage only, and not look at all that pytest has."""
    gc.freeze()
    yield
    gc.unfreeze()


async def busy_callbacks(seed: int) -> list[str]:
    """Callbacks, tasks and timers that are due at once, and that schedule one another."""
    order: list[str] = []
    loop, draw = asyncio.get_running_loop(), random.Random(seed)
    pending, idle = 0, asyncio.Event()

    def called(name: str) -> None:
        nonlocal pending
        order.append(name)
        if len(name) < 5:
            for letter in draw.sample("abct", draw.randrange(1, 4)):
                schedule(name + letter)
        pending -= 1
        if pending == 0:
            idle.set()

    def schedule(name: str) -> None:
        nonlocal pending
        pending += 1
        if name.endswith("t"):
            loop.create_task(yields(name))
        elif name.endswith("a"):
            loop.call_soon(called, name)
        else:
            loop.call_later(0, called, name)

    async def yields(name: str) -> None:
        await asyncio.sleep(0)
        called(name)

    for letter in "abct":
        schedule(letter)
    await idle.wait()
    return order


@pytest.mark.parametrize(
    ("operation", "ask"),
    [
        ("getnameinfo", lambda: asyncio.get_running_loop().getnameinfo(("192.0.2.1", 9))),
        ("sock_connect", lambda: asyncio.open_connection("192.0.2.1", 9)),
        ("subprocess_exec", lambda: asyncio.create_subprocess_exec("true")),
        ("getaddrinfo", lambda: asyncio.get_running_loop().getaddrinfo("example.com", 80)),
    ],
)
def test_real_io_is_refused(operation: str, ask: Callable[[], Coroutine[Any, Any, Any]]) -> None:
    """With an error that names what was asked for, such as a host that is not simulated."""

    async def asks(sim: Simulation) -> None:
        await ask()

    with pytest.raises(RealIOError, match=rf"loop\.{operation}\(\) is real I/O") as caught:
        simulate(asks)
    assert caught.value.operation == operation


#: A socket that is there before the simulation.
OUTSIDE = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
atexit.register(OUTSIDE.close)


def in_a_pool(pool: Callable[[int], Executor]) -> Callable[[], object]:
    def submit() -> None:
        with pool(1) as executor:
            executor.submit(int)

    return submit


REAL: dict[str, Callable[[], object]] = {
    "threading.Thread.start": lambda: threading.Thread(target=int).start(),
    "_thread.start_new_thread": lambda: _thread.start_new_thread(int, ()),
    "concurrent.futures.thread.ThreadPoolExecutor.submit": in_a_pool(ThreadPoolExecutor),
    "concurrent.futures.process.ProcessPoolExecutor.submit": in_a_pool(ProcessPoolExecutor),
    "multiprocessing.process.BaseProcess.start": lambda: get_context("spawn").Process().start(),
    "subprocess.Popen": lambda: subprocess.run(["true"], check=True),
    "os.fork": os.fork,
    "os.system": lambda: os.system("true"),
    "os.posix_spawn": lambda: os.posix_spawn("/bin/true", ["true"], {}),
    "socket.accept": lambda: socket.create_server(("127.0.0.1", 0)).accept(),
    "socket.getaddrinfo": lambda: socket.create_connection(("localhost", 9)),
    "socket.gethostbyname": lambda: socket.gethostbyname("localhost"),
    "socket.connect": lambda: OUTSIDE.connect(("127.0.0.1", 9)),
    "socket.bind": lambda: OUTSIDE.bind(("127.0.0.1", 0)),
    "socket.sendto": lambda: OUTSIDE.sendto(b"", ("127.0.0.1", 9)),
}


@pytest.mark.parametrize("operation", REAL)
def test_whatever_else_is_real_is_refused(operation: str) -> None:
    """Threads, processes and sockets, by every module of Python that makes them."""

    async def asks(sim: Simulation) -> None:
        REAL[operation]()

    with pytest.raises(RealIOError, match=rf"{operation}\(\) is real I/O") as caught:
        simulate(asks)
    assert caught.value.operation == operation


def test_work_for_threads_that_are_there_already_is_refused() -> None:
    """A pool that was warm before the simulation starts no thread in it."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(int).result()

        async def asks(sim: Simulation) -> None:
            pool.submit(int).result()

        with pytest.raises(RealIOError, match=r"submit\(\) is real I/O"):
            simulate(asks)
        assert pool.submit(int).result() == 0


def test_what_is_real_works_outside_of_a_simulation() -> None:
    """After one, and in another thread while one runs."""
    seen: list[str] = []

    def real() -> None:
        thread = threading.Thread(target=seen.append, args=("thread",))
        thread.start()
        thread.join()
        child = subprocess.run(["echo", "child"], capture_output=True, check=True, text=True)
        seen.append(child.stdout.strip())
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))

    async def runs(sim: Simulation) -> None:
        go.set()
        assert gone.wait(30)

    def beside() -> None:
        assert go.wait(30)
        real()
        gone.set()

    go, gone = threading.Event(), threading.Event()
    thread = threading.Thread(target=beside)
    thread.start()
    simulate(runs)
    thread.join()
    real()
    assert seen == ["thread", "child"] * 2


def test_no_method_of_a_loop_is_left_undone() -> None:
    """Each of asyncio's methods is simulated or refused, except those without I/O and time."""
    inherited = {
        name
        for name in {**vars(asyncio.AbstractEventLoop), **vars(asyncio.BaseEventLoop)}
        if not name.startswith("_") and name not in vars(SimulationLoop)
    }
    assert inherited == {
        *("run_until_complete", "stop", "is_running", "is_closed", "call_later"),
        *("set_task_factory", "get_task_factory", "shutdown_default_executor"),
        *("set_exception_handler", "get_exception_handler", "call_exception_handler"),
        *("get_debug", "set_debug"),
        # By sockets of the simulation.
        *("create_connection", "create_server", "create_datagram_endpoint", "start_tls"),
        *("connect_accepted_socket", "sendfile", "getaddrinfo", "getnameinfo"),
        *("add_reader", "remove_reader", "add_writer", "remove_writer"),
        *("sock_connect", "sock_accept", "sock_recv", "sock_recv_into", "sock_recvfrom"),
        *("sock_recvfrom_into", "sock_sendall", "sock_sendto", "sock_sendfile"),
    }


def test_what_is_left_behind_cleans_up() -> None:
    """A task that is cancelled at the end can wait in its clean-up, in virtual time."""
    ended: list[float] = []

    async def slow_to_end() -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            await asyncio.sleep(5)
            ended.append(asyncio.get_running_loop().time())

    async def leaves(sim: Simulation) -> None:
        left.append(asyncio.create_task(slow_to_end()))
        await asyncio.sleep(1)

    left: list[asyncio.Task[None]] = []
    with pytest.raises(LeftBehindError):
        simulate(leaves)
    assert set(ended) == {6.0}


@pytest.mark.parametrize("seed", range(10))
def test_without_a_seed_the_order_is_that_of_asyncio(seed: int) -> None:
    """Callbacks, tasks and timers without a delay take turns as in asyncio's own loop."""
    with asyncio.Runner() as runner:
        expected = runner.run(busy_callbacks(seed))
    loop = SimulationLoop()
    assert loop.run_until_complete(busy_callbacks(seed)) == expected
    loop.close()


def test_a_deadlock_is_named() -> None:
    """With each task that waits, and the line where it does."""

    async def stuck(sim: Simulation) -> None:
        await asyncio.Event().wait()

    async def waits(sim: Simulation) -> None:
        await asyncio.create_task(stuck(sim), name="the stuck one")

    with pytest.raises(DeadlockError, match=r"the stuck one: .*test_simulation_limits\.py:\d+ in"):
        simulate(waits)


def test_the_place_where_a_stage_waits_for_ever_is_named() -> None:
    """The stage's own line, behind what the engine and asyncio put around it."""

    async def listens(ctx: StageContext) -> StageOutput:
        await asyncio.wait_for(asyncio.shield(asyncio.get_running_loop().create_future()), None)
        return StageOutput.ok()

    with pytest.raises(DeadlockError, match=r"test_simulation_limits\.py:\d+ in .*listens"):
        simulate_pipeline(Pipeline("p", [StageSpec("s", listens)]))


def test_a_livelock_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop around sleep(0) ends in an error, not in an endless test."""
    monkeypatch.setattr(loop_module, "MOST_STEPS_AT_ONCE", loop_module.MOST_STEPS_AT_ONCE // 20)

    async def spins(sim: Simulation) -> None:
        for _ in itertools.count():
            await asyncio.sleep(0)

    with pytest.raises(LivelockError, match="sleep"):
        simulate(spins)


def test_a_task_that_is_left_behind_is_named() -> None:
    """A task that goes on when the simulated function has returned is an error."""

    async def forgets(sim: Simulation) -> None:
        sim.task = asyncio.create_task(asyncio.sleep(1), name="forgotten")  # type: ignore[attr-defined]

    with pytest.raises(LeftBehindError, match="forgotten"):
        simulate(forgets)


def test_what_callbacks_raise_is_raised() -> None:
    """An exception that nobody handles fails the simulation."""

    async def breaks(sim: Simulation) -> None:
        def broken() -> None:
            raise KeyError("unheard")

        sim.loop.call_soon(broken)
        await asyncio.sleep(1)

    with pytest.raises(ExceptionGroup) as caught:
        simulate(breaks)
    assert caught.group_contains(KeyError, match="unheard")


def test_a_simulation_within_a_loop_is_refused() -> None:
    """One loop cannot run inside of another; the coroutine is not lost silently."""

    async def outer(sim: Simulation) -> None:
        loop = SimulationLoop()
        with pytest.raises(RuntimeError, match="running already"):
            loop.run_forever()
        loop.close()

    simulate(outer)


def test_a_closed_loop_takes_nothing_more() -> None:
    """As asyncio's own loop."""
    loop = SimulationLoop()
    run_in(loop, asyncio.sleep(1))
    assert loop.is_closed()
    with pytest.raises(RuntimeError, match="closed"):
        loop.call_soon(print)


def test_asynchronous_generators_are_closed_at_the_end() -> None:
    """One that was read halfway still runs its clean-up."""
    closed: list[str] = []

    async def pieces() -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
        finally:
            closed.append("closed")

    async def reads(sim: Simulation) -> None:
        sim.generator = pieces()  # type: ignore[attr-defined]
        async for _ in sim.generator:  # type: ignore[attr-defined]
            break

    simulate(reads)
    assert closed == ["closed"]


#: While something holds modules, Python sets their globals to None. What `sys` holds goes after
#: that, and what it does then is still reported to audit hooks.
LAST = """
import sys
from stageflow.testing import simulate

class Last:
    def __del__(self, audit=sys.audit, write=sys.stderr.write):
        try:
            audit("socket.connect")
        except Exception as error:
            write(repr(error))

async def nothing(sim):
    pass

simulate(nothing)
sys.last = [Last(), *(m for name, m in sys.modules.items() if name.startswith("stageflow."))]
"""


def test_the_interpreter_shuts_down_in_silence() -> None:
    """The end of an interpreter, when globals of modules are gone, raises nothing."""
    ended = run_command([sys.executable, "-c", LAST], check=True)
    assert ended.stderr == ""


async def ticks() -> None:
    for _ in itertools.count():
        await asyncio.sleep(1)


async def polls(queue: asyncio.Queue[int]) -> None:
    while True:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(queue.get(), 1)


def ticks_by_callbacks() -> None:
    asyncio.get_running_loop().call_later(1, ticks_by_callbacks)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [None, 0])
@pytest.mark.parametrize(
    "beside",
    [lambda: asyncio.ensure_future(ticks()), lambda: asyncio.ensure_future(polls(asyncio.Queue()))],
)
def test_a_deadlock_beside_a_heartbeat_is_found(
    beside: Callable[[], object], seed: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Timers that repeat keep time passing, and nothing else happens."""
    monkeypatch.setattr(loop_module, "STEPS_A_LOOK", 200)

    async def main() -> None:
        task = beside()
        ticks_by_callbacks()
        await asyncio.Event().wait()
        del task

    with pytest.raises(DeadlockError, match="what is simulated waits") as caught:
        run_in(SimulationLoop(Scenario(seed)), main())
    assert any("in test_a_deadlock" in where for where in caught.value.waiting)


@pytest.mark.slow
def test_a_long_wait_beside_a_heartbeat_is_not_a_deadlock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last wake-up may come after very many ticks."""
    monkeypatch.setattr(loop_module, "STEPS_A_LOOK", 200)

    async def main(sim: Simulation) -> float:
        task = asyncio.ensure_future(ticks())
        late = asyncio.ensure_future(asyncio.sleep(5_000))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(4_400):
                await asyncio.Event().wait()
        await late
        task.cancel()
        await asyncio.wait([task])
        return sim.loop.time()

    assert simulate(main, seed=None).value == 5_000


@pytest.mark.parametrize("keeps", [True, False])
def test_a_failed_task_that_nobody_looked_at_is_reported(keeps: bool) -> None:
    """Whether something still refers to it, or not."""

    async def fails() -> None:
        raise KeyError("lost")

    async def main(sim: Simulation) -> None:
        task = asyncio.ensure_future(fails())
        if keeps:
            kept.append(task)
        await asyncio.sleep(1)

    kept: list[asyncio.Future[None]] = []
    with pytest.raises(ExceptionGroup, match="nobody handled") as caught:
        simulate(main)
    assert caught.group_contains(KeyError, match="lost")


def test_a_failed_task_that_somebody_looked_at_is_not_reported() -> None:
    """A task's exception is seen by awaiting it, by gathering it, or by asking for it."""

    async def fails() -> None:
        raise KeyError("seen")

    async def main(sim: Simulation) -> list[object]:
        kept.extend(asyncio.ensure_future(fails()) for _ in range(3))
        found = await asyncio.gather(kept[0], return_exceptions=True)
        with contextlib.suppress(KeyError):
            await kept[1]
        await asyncio.wait([kept[2]])
        return [*found, kept[2].exception()]

    kept: list[asyncio.Future[None]] = []
    assert len(simulate(main).value) == 2


def test_the_own_thread_may_schedule_as_others_do() -> None:
    """Code for several threads that runs in one; another thread is refused."""

    async def main(sim: Simulation) -> list[int]:
        called: list[int] = []
        sim.loop.call_soon_threadsafe(called.append, 1)
        loops.append(sim.loop)
        go.set()
        assert gone.wait(30)
        await asyncio.sleep(0)
        return called

    def beside() -> None:
        assert go.wait(30)
        try:
            loops[0].call_soon_threadsafe(print)
        except RealIOError as error:
            refused.append(error.operation)
        gone.set()

    loops: list[SimulationLoop] = []
    refused: list[str] = []
    go, gone = threading.Event(), threading.Event()
    thread = threading.Thread(target=beside)
    thread.start()
    assert simulate(main).value == [1]
    thread.join()
    assert refused == ["call_soon_threadsafe"]
