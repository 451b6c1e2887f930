"""A server of chat completions as OpenAI defined them, on this machine, that fails on command."""

from __future__ import annotations

import asyncio
import json
import re
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from tests.utils.listener import Listener

PATH = "/v1/chat/completions"

_REASONS = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    404: "Not Found",
    413: "Content Too Large",
    429: "Too Many Requests",
    500: "Internal Server Error",
}


@dataclass(frozen=True, slots=True)
class Reply:
    """How one request is answered.

    Attributes:
        status: HTTP status; above 200, an error is sent in place of an answer.
        headers: Headers besides the usual ones.
        body: Sent as it is in place of an answer, if given.
        stall_after_pieces: A stream says nothing more after as many pieces, and stays open; an
            answer at once does not come.
        cut_after_pieces: A stream breaks off after as many pieces, in the middle of a chunk.
        piece_pause_s: Pause before each piece of a stream, in seconds.
    """

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: str | bytes | None = None
    stall_after_pieces: int | None = None
    cut_after_pieces: int | None = None
    piece_pause_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Request:
    """One request, as it came."""

    path: str
    headers: dict[str, str]
    content: bytes

    @property
    def body(self) -> dict[str, Any]:
        """Its body as JSON."""
        body: dict[str, Any] = json.loads(self.content)
        return body


class LlmServer(Listener):
    """Answers each conversation by repeating its last message.

    Attributes:
        script: How the next requests are answered, before all others are answered well.
        requests: The body of each request.
        stalled: Set once it says nothing more, as the script has it.
        left: Set once the client then has closed the connection.
        port: Where it listens, on 127.0.0.1.
    """

    def __init__(self) -> None:
        super().__init__()
        self.script: deque[Reply] = deque()
        self.requests: list[dict[str, Any]] = []
        self.stalled = asyncio.Event()
        self.left = asyncio.Event()

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to it, for a proxy."""
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        try:
            while True:
                await self.answer(await _request(reader), reader, writer)
        except (asyncio.CancelledError, asyncio.IncompleteReadError, ConnectionError):
            # The server closes, or the client has gone.
            pass
        finally:
            self.tasks.discard(task)
            writer.transport.abort()

    async def answer(
        self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Answer one request as the script says, or well."""
        assert request.path == PATH, request.path
        body = request.body
        self.requests.append(body)
        reply = self.script.popleft() if self.script else Reply()
        said: str = body["messages"][-1]["content"]
        if reply.status == 200 and reply.body is None and body.get("stream"):
            await self._send_stream(reader, writer, said, reply)
            return
        if reply.stall_after_pieces is not None:
            await self._stall(reader)
        message = {"role": "assistant", "content": said}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        await send(writer, reply, {"object": "chat.completion", "choices": [choice]})

    async def _send_stream(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        said: str,
        reply: Reply,
    ) -> None:
        """Server-sent events, one for each word, in HTTP chunks."""
        headers = {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"}
        writer.write(_head(200, {**headers, **reply.headers}))
        pieces = re.findall(r"\S+\s*", said)
        for number, piece in enumerate(pieces):
            if number == reply.stall_after_pieces:
                await self._stall(reader)
            if number == reply.cut_after_pieces:
                writer.write(b"ff\r\ndata: {")
                await writer.drain()
                raise ConnectionResetError("as the script has it")
            await asyncio.sleep(reply.piece_pause_s)
            end = "stop" if number == len(pieces) - 1 else None
            choice = {"index": 0, "delta": {"content": piece}, "finish_reason": end}
            chunk = {"object": "chat.completion.chunk", "choices": [choice]}
            await _send_chunk(writer, f"data: {json.dumps(chunk)}\n\n")
        await _send_chunk(writer, "data: [DONE]\n\n")
        await _send_chunk(writer, "")

    async def _stall(self, reader: asyncio.StreamReader) -> None:
        """Say nothing more until the client hangs up."""
        self.stalled.set()
        await reader.read()
        self.left.set()
        raise ConnectionResetError("the client has gone")


async def send(writer: asyncio.StreamWriter, reply: Reply, answer: dict[str, Any] | bytes) -> None:
    """Send an answer as JSON or as it is, or what the reply has in its place."""
    if reply.status != 200:
        answer = {"error": {"message": _REASONS[reply.status], "type": "server_error"}}
    found = reply.body if reply.body is not None else answer
    as_it_is = found.encode() if isinstance(found, str) else found
    content = as_it_is if isinstance(as_it_is, bytes) else json.dumps(as_it_is).encode()
    kind = "audio/pcm" if isinstance(answer, bytes) else "application/json"
    headers = {"Content-Type": kind, "Content-Length": str(len(content)), **reply.headers}
    writer.write(_head(reply.status, headers) + content)
    await writer.drain()


async def _request(reader: asyncio.StreamReader) -> Request:
    """The next request."""
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    method, path, version = first.split(" ")
    assert (method, version) == ("POST", "HTTP/1.1"), first
    pairs = (line.split(": ", 1) for line in lines if line)
    headers = {name.lower(): value for name, value in pairs}
    content = await reader.readexactly(int(headers["content-length"]))
    return Request(path, headers, content)


def _head(status: int, headers: dict[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} {_REASONS[status]}", *(f"{k}: {v}" for k, v in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


async def _send_chunk(writer: asyncio.StreamWriter, text: str) -> None:
    data = text.encode()
    writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
    await writer.drain()
