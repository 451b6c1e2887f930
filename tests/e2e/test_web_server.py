"""The listing of the web server guide, behind uvicorn, with clients of which half leave."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import re
import socket
import sqlite3
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
import websockets

from stageflow import Message

pytestmark = pytest.mark.slow

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "web-server.md"
CLIENTS = 200


class Model:
    """A model that fails at "fail", and never ends the answer to what begins with "leave".

    Attributes:
        asked: Set when a question has arrived.
        answering: How many answers it gives at the moment.
    """

    def __init__(self) -> None:
        self.asked: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self.answering = 0

    async def complete(self, messages: Sequence[Message]) -> str:
        return "".join([token async for token in self.stream(messages)])

    async def stream(self, messages: Sequence[Message]) -> AsyncIterator[str]:
        question = messages[-1].content
        self.answering += 1
        try:
            yield "At "
            self.asked[question].set()
            if question.startswith("leave"):
                await asyncio.Event().wait()
            if question == "fail":
                raise ConnectionError
            yield "100 °C."
        finally:
            self.answering -= 1


class Served:
    """The listing in a real server.

    Attributes:
        model: What the pipeline calls.
        server: The server.
        address: Its host and port.
    """

    def __init__(self, module: Any, listener: socket.socket) -> None:
        self.model = Model()
        module.providers.register("llm", self.model)
        config = uvicorn.Config(module.app, timeout_graceful_shutdown=1, log_level="critical")
        self.server = uvicorn.Server(config)
        host, port = listener.getsockname()
        self.address = f"{host}:{port}"

    async def whole(self, client: httpx.AsyncClient, question: str, leave: bool) -> Any:
        """Ask for a whole turn; leave once the model is asked."""
        asking = asyncio.ensure_future(client.get("/turn", params={"question": question}))
        if leave:
            await self.model.asked[question].wait()
            asking.cancel()
            await asyncio.wait((asking,))
            return None
        return (await asking).json()

    async def events(self, client: httpx.AsyncClient, question: str, leave: bool) -> Any:
        """Read events; leave after the first."""
        told: list[str] = []
        async with client.stream("GET", "/events", params={"question": question}) as reply:
            async for line in reply.aiter_lines():
                told += re.findall("data: (.*)", line)
                if told and leave:
                    return None
        *tokens, end = map(json.loads, told)
        assert tokens == ["At ", "100 °C."][: len(tokens)]
        return end

    async def talk(self, _client: httpx.AsyncClient, question: str, leave: bool) -> Any:
        """Ask by a websocket, interrupt the answer, and ask again; leave after a token."""
        async with websockets.connect(f"ws://{self.address}/talk") as connection:
            await connection.send(f"leave {question}, no:")
            await connection.recv()
            await connection.send(question)
            told = [json.loads(await connection.recv())]
            while not leave and "answer" not in told[-1]:
                told.append(json.loads(await connection.recv()))
        return None if leave else told[-1]


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The listing as a module, in a folder of its own."""
    text = GUIDE.read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n# app.py\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    path = tmp_path / "app.py"
    path.write_text(code, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    spec = importlib.util.spec_from_file_location("app_of_the_guide", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        yield listener


@asynccontextmanager
async def serving(module: Any, listener: socket.socket) -> AsyncIterator[Served]:
    """Serve; afterwards nothing is left of it."""
    before = asyncio.all_tasks()
    served = Served(module, listener)
    running = asyncio.ensure_future(served.server.serve([listener]))
    yield served
    served.server.should_exit = True
    await running
    left = asyncio.all_tasks() - before
    assert not left, f"tasks go on: {left}"
    assert not served.server.server_state.connections
    assert served.model.answering == 0


def ends() -> dict[str, int]:
    """How many runs ended in which way."""
    with closing(sqlite3.connect("runs.db")) as connection:
        return dict(connection.execute("SELECT status, count(*) FROM runs GROUP BY status"))


async def test_clients_that_leave_cancel_their_runs(module: Any, listener: socket.socket) -> None:
    """Of 200, half leave; the others get their answers, and nothing is left."""
    async with serving(module, listener) as served:
        kinds = (served.whole, served.events, served.talk)
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        async with httpx.AsyncClient(
            base_url=f"http://{served.address}", limits=limits, timeout=30.0, trust_env=False
        ) as client:
            visits = [
                kinds[n // 2 % 3](client, f"leave {n}" if n % 2 else f"stay {n}", n % 2 == 1)
                for n in range(CLIENTS)
            ]
            answers = await asyncio.gather(*visits)
        if served.server.server_state.tasks:
            _, hanging = await asyncio.wait(served.server.server_state.tasks, timeout=10.0)
            assert not hanging
    assert answers[::2] == [{"answer": "At 100 °C.", "message": None}] * (CLIENTS // 2)
    interrupted = sum(kind % 3 == 2 for kind in (n // 2 for n in range(CLIENTS)))
    assert ends() == {"completed": CLIENTS // 2, "cancelled": CLIENTS // 2 + interrupted}


async def test_a_failure_is_an_answer(module: Any, listener: socket.socket) -> None:
    """The client gets a sentence, and the engineer a dead letter."""
    async with serving(module, listener) as served:
        base = f"http://{served.address}"
        async with httpx.AsyncClient(base_url=base, timeout=30.0, trust_env=False) as client:
            for kind in (served.whole, served.events, served.talk):
                told = await kind(client, "fail", False)
                assert told["answer"] is None
                assert told["message"].endswith("cannot be reached right now. Please try again.")
    assert ends() == {"failed": 3, "cancelled": 1}
    with closing(sqlite3.connect("letters.db")) as letters:
        assert letters.execute("SELECT count(*) FROM dead_letters").fetchone() == (3,)


async def test_shutdown_ends_every_run(module: Any, listener: socket.socket) -> None:
    """Requests that outlast the grace period are cancelled, and the sink has their ends."""
    async with serving(module, listener) as served:
        base = f"http://{served.address}"
        async with httpx.AsyncClient(base_url=base, timeout=30.0, trust_env=False) as client:
            visits = [
                asyncio.ensure_future(kind(client, f"leave {n}", False))
                for n, kind in enumerate((served.whole, served.events, served.talk))
            ]
            questions = ("leave 0", "leave 1", "leave leave 2, no:", "leave 2")
            for question in questions:
                await served.model.asked[question].wait()
            served.server.should_exit = True
            await asyncio.wait(visits)
            for visit in visits:
                visit.exception()
    assert ends() == {"cancelled": len(questions)}
