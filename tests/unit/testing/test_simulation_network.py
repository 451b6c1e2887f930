"""Programs that talk over a simulated network, and hosts that crash."""

from __future__ import annotations

import asyncio
import gc
import socket
from asyncio import StreamReader, StreamWriter, open_connection
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import closing
from typing import Any

import pytest

from stageflow.errors import InvalidConfigError
from stageflow.testing import (
    DeadlockError,
    NetworkPlan,
    RealIOError,
    Scenario,
    Simulation,
    Token,
    explore,
    simulate,
)

Program = Callable[[Any], Coroutine[Any, Any, None]]
ADDRESS = "127.0.0.1", 80


async def echo(reader: StreamReader, writer: StreamWriter) -> None:
    while line := await reader.readline():
        writer.write(line)
        await writer.drain()
    writer.close()


async def serve() -> None:
    """Run a server of echoes until it is ended."""
    async with await asyncio.start_server(echo, None, 80) as server:
        await server.serve_forever()


async def concurrent(reader: StreamReader, writer: StreamWriter) -> None:
    """Answer each request in a task of its own."""

    async def answer(line: bytes) -> None:
        await asyncio.sleep(0)
        writer.write(line)

    async with asyncio.TaskGroup() as tasks:
        while line := await reader.readline():
            tasks.create_task(answer(line))
    writer.close()


async def client(
    handle: Callable[[StreamReader, StreamWriter], Awaitable[None]],
    talk: Callable[[StreamReader, StreamWriter], Awaitable[None]],
) -> None:
    async with await asyncio.start_server(handle, *ADDRESS):
        reader, writer = await open_connection(*ADDRESS)
        with closing(writer):
            await talk(reader, writer)
        await writer.wait_closed()


async def crosswise(numbered: bool) -> None:
    """Two requests are under way, and the first answer is taken for that of the first."""
    waiting: dict[int, asyncio.Future[bytes]] = {}

    async def talk(reader: StreamReader, writer: StreamWriter) -> None:
        async def ask(number: int) -> None:
            waiting[number] = asyncio.get_running_loop().create_future()
            writer.write(b"%d\n" % number)
            assert int(await waiting[number]) == number

        async def read() -> None:
            for _ in range(2):
                line = await reader.readline()
                waiting.pop(int(line) if numbered else next(iter(waiting))).set_result(line)

        await asyncio.gather(ask(1), ask(2), read())

    await client(concurrent, talk)


async def late_reply(again: bool) -> None:
    """An answer that came after the time limit is taken for that of the next request."""

    async def talk(reader: StreamReader, writer: StreamWriter) -> None:
        for number in range(3):
            writer.write(b"%d\n" % number)
            try:
                answer = await asyncio.wait_for(reader.readline(), 0.1)
            except TimeoutError:
                if again:
                    writer.close()
                    reader, writer = await open_connection(*ADDRESS)
                continue
            assert int(answer) == number
        writer.close()

    await client(echo, talk)


async def half_read(whole: bool) -> None:
    """The client takes the first piece for the whole answer."""

    async def greet(_: StreamReader, writer: StreamWriter) -> None:
        writer.write(b"hello world")
        writer.close()

    async def talk(reader: StreamReader, _: StreamWriter) -> None:
        assert await reader.read(-1 if whole else 100) == b"hello world"

    await client(greet, talk)


async def lost_update(locked: bool) -> None:
    """Two clients read a number, and write it increased."""
    stored, lock = b"0", asyncio.Lock()

    async def store(reader: StreamReader, writer: StreamWriter) -> None:
        nonlocal stored
        while line := (await reader.readline()).strip():
            stored = stored if line == b"get" else line
            writer.write(stored + b"\n")
        writer.close()

    async def add(begins_s: float) -> None:
        await asyncio.sleep(begins_s)
        reader, writer = await open_connection(*ADDRESS)
        with closing(writer):
            async with lock if locked else asyncio.Lock():
                writer.write(b"get\n")
                writer.write(b"%d\n" % (int(await reader.readline()) + 1))
                await reader.readline()

    async with await asyncio.start_server(store, *ADDRESS):
        await asyncio.gather(add(0), add(0.1))
    assert stored == b"2"


class Answers(asyncio.DatagramProtocol):
    """Sends each datagram back."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.transport.sendto(data, addr)


async def datagrams(patient: bool) -> None:
    """Each datagram is expected to arrive, and in the order in which it was sent."""
    loop, found, arrived = asyncio.get_running_loop(), list[bytes](), asyncio.Event()

    class Receives(asyncio.DatagramProtocol):
        def datagram_received(self, data: bytes, _: Any) -> None:
            found.append(data)
            arrived.set()

    at, _ = await loop.create_datagram_endpoint(Answers, ("0.0.0.0", 53))
    one, _ = await loop.create_datagram_endpoint(Receives, remote_addr=("127.0.0.1", 53))
    for number in (b"1", b"2"):
        one.sendto(number)
        while patient and number not in found:
            arrived.clear()
            try:
                await asyncio.wait_for(arrived.wait(), 0.3)
            except TimeoutError:
                one.sendto(number)
    await asyncio.sleep(0 if patient else 2)
    at.close()
    one.close()
    assert list(dict.fromkeys(found)) == [b"1", b"2"]


BUGS = [crosswise, late_reply, half_read, lost_update, datagrams]


@pytest.mark.parametrize("buggy", BUGS)
def test_a_bug_of_a_networked_program_is_found(buggy: Program) -> None:
    """Within few runs, by each of five seeds."""
    for seed in range(5):
        with pytest.raises(AssertionError, match="=="):
            explore(buggy, False, runs=100, scenario=Scenario(1_000 * seed))


@pytest.mark.parametrize("correct", BUGS)
@pytest.mark.parametrize("plan", [NetworkPlan(), NetworkPlan(cuts=0.01, cut_s=0.5)])
def test_a_correct_program_never_alarms(correct: Program, plan: NetworkPlan) -> None:
    """Each of the programs above, with its bug fixed."""
    assert len(explore(correct, True, runs=150, scenario=Scenario(network=plan))) == 150


async def until_answered(sim: Simulation) -> int:
    """Connect again until five requests are answered; return how often that was."""
    connections, writer = 0, None
    sim.host("server", serve)
    await asyncio.sleep(1)
    for number in range(5):
        while True:
            try:
                if writer is None:
                    connections += 1
                    reader, writer = await open_connection("server", 80)
                writer.write(b"%d\n" % number)
                if answer := await asyncio.wait_for(reader.readline(), 5):
                    assert int(answer) == number
                    break
            except (ConnectionError, TimeoutError):
                pass
            if writer is not None:
                writer.close()
            writer = None
            await asyncio.sleep(0.1)
    assert writer is not None
    writer.close()
    return connections


@pytest.mark.parametrize(
    "plan", [NetworkPlan(resets=0.1), NetworkPlan(cuts=0.1, cut_s=20), NetworkPlan(split=1)]
)
def test_faults_come_from_the_plan_and_repeat(plan: NetworkPlan) -> None:
    """The token holds the plan."""
    scenario = Scenario(network=plan)
    assert Token.parse(str(Token(scenario))).scenario == scenario
    found = explore(until_answered, runs=50, scenario=scenario)
    assert ({outcome.value for outcome in found} == {1}) == (plan.split == 1)
    token = found[-1].token
    for _ in range(2):
        again = simulate(until_answered, token=token)
        assert (again.value, again.elapsed_s) == (found[-1].value, found[-1].elapsed_s)


@pytest.mark.parametrize("problem", [{"loss": 1.5}, {"cut_s": -1}, {"latency_ms": (2, 1)}])
def test_a_plan_that_cannot_be_is_refused(problem: dict[str, Any]) -> None:
    """When it is made."""
    with pytest.raises((ValueError, InvalidConfigError)):
        NetworkPlan(**problem)


async def large(sim: Simulation) -> None:
    """A megabyte there and back, with half of the connection closed."""

    async def back(reader: StreamReader, writer: StreamWriter) -> None:
        writer.write(await reader.read())
        await writer.drain()
        writer.write_eof()
        writer.close()

    async def talk(reader: StreamReader, writer: StreamWriter) -> None:
        data = bytes(range(256)) * 4_000
        writer.write(data)
        assert writer.transport.get_write_buffer_size() > 900_000
        writer.write_eof()
        assert await reader.read() == data

    await client(back, talk)


async def by_sockets(sim: Simulation) -> None:
    """The methods of the loop that take sockets."""
    loop = asyncio.get_running_loop()
    listener, one = socket.create_server(("localhost", 0)), socket.socket()
    for made in (listener, one):
        made.setblocking(False)

    async def accept() -> None:
        other, address = await loop.sock_accept(listener)
        assert address == one.getsockname()
        while data := await loop.sock_recv(other, 5):
            await loop.sock_sendall(other, data)
        other.close()

    accepting = asyncio.create_task(accept())
    await loop.sock_connect(one, listener.getsockname())
    await loop.sock_sendall(one, b"x" * 12)
    received, buffer = 0, bytearray(100)
    while received < 12:
        received += await loop.sock_recv_into(one, buffer)
    one.close()
    await accepting
    listener.close()


async def names(sim: Simulation) -> None:
    """Names are those of hosts, with one address each."""
    loop, server = asyncio.get_running_loop(), sim.host("server")
    found = await loop.getaddrinfo("server", 80, type=socket.SOCK_STREAM)
    assert found[0][4] == (server.address, 80) != (await loop.getaddrinfo(None, 80))[0][4]
    assert await loop.getnameinfo((server.address, 80)) == ("server", "80")
    with pytest.raises(RealIOError, match=r"sim\.host\('elsewhere', serve\)"):
        await open_connection("elsewhere", 80)
    with pytest.raises(ConnectionRefusedError):
        await open_connection("server", 80)
    server.start(serve)
    await asyncio.sleep(1)
    with pytest.raises(OSError, match="in use"):
        await server.task(serve())


async def cut_off(sim: Simulation) -> None:
    """Data that is sent meanwhile arrives afterwards; two hosts, or one and all others."""
    sim.host("server", serve)
    await asyncio.sleep(1)
    reader, writer = await open_connection("server", 80)
    for other, waits in (("main", True), ("elsewhere", False), (None, True)):
        began_s = sim.loop.time()
        sim.network.cut("server", other, for_s=30)
        writer.write(b"x\n")
        await reader.readline()
        assert (sim.loop.time() - began_s >= 30) == waits
    writer.close()


async def quits(sim: Simulation) -> None:
    """A server whose client has gone does not fail the simulation."""

    async def slow(reader: StreamReader, writer: StreamWriter) -> None:
        while line := await reader.readline():
            await asyncio.sleep(0.05)
            writer.write(line)
            await writer.drain()

    await asyncio.start_server(slow, *ADDRESS)
    for _ in range(3):
        reader, writer = await open_connection(*ADDRESS)
        writer.write(b"1\n2\n3\n")
        await reader.readline()
        writer.transport.abort()
    await asyncio.sleep(1)


@pytest.mark.parametrize("program", [large, by_sockets, names, cut_off, quits])
def test_a_networked_program_is_simulated(program: Program) -> None:
    """In any order, and with any latency."""
    explore(program, runs=20)


async def kept(log: list[str]) -> None:
    """Serve, with a clean-up in a task, in a generator, in a connection and around all."""

    async def ticks() -> Any:
        try:
            while True:
                await asyncio.sleep(1)
                yield None
        finally:
            log.append("generator")

    async def ticking() -> None:
        try:
            async for _ in ticks():
                pass
        finally:
            log.append("task")

    async def handle(reader: StreamReader, writer: StreamWriter) -> None:
        try:
            await echo(reader, writer)
        finally:
            log.append("connection")

    log.append("start")
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(ticking())
            server = await asyncio.start_server(handle, "0.0.0.0", 80)
            await server.serve_forever()
    finally:
        log.append("host")


async def killed(sim: Simulation, log: list[str]) -> None:
    host = sim.host("server", kept, log)
    await asyncio.sleep(1.5)
    reader, writer = await open_connection("server", 80)
    writer.write(b"one\n")
    assert await reader.readline() == b"one\n"
    host.kill()
    with pytest.raises(ConnectionResetError):
        await reader.readline()
    with pytest.raises(ConnectionRefusedError):
        await open_connection("server", 80)
    await asyncio.sleep(10)
    gc.collect()
    assert log == ["start"]
    host.restart()
    await asyncio.sleep(1)
    for one in (writer, (await open_connection("server", 80))[1]):
        one.close()


def test_a_killed_host_ends_without_clean_up_and_starts_again() -> None:
    """Until the simulation ends, which cancels what was started again."""
    log: list[str] = []
    simulate(killed, log)
    gc.collect()
    assert log[:2] == ["start", "start"]
    assert sorted(log[2:]) == ["connection", "generator", "host", "task"]


def test_a_deadlock_says_what_had_failed_before() -> None:
    """Such as a server, for whose answer a client waits."""

    async def fails(reader: StreamReader, writer: StreamWriter) -> None:
        raise LookupError("no such key")

    async def main() -> None:
        await asyncio.start_server(fails, *ADDRESS)
        reader, writer = await open_connection(*ADDRESS)
        with closing(writer):
            await reader.read()

    with pytest.raises((DeadlockError, ExceptionGroup)) as caught:
        simulate(main)
    assert "LookupError" in str(getattr(caught.value, "__notes__", "")) + repr(caught.value)
