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

_REASONS = {200: "OK", 404: "Not Found", 429: "Too Many Requests", 500: "Internal Server Error"}


@dataclass(frozen=True, slots=True)
class Reply:
    """How one request is answered.

    Attributes:
        status: HTTP status; above 200, an error is sent in place of an answer.
        headers: Headers besides the usual ones.
        body: Sent as it is in place of an answer, if given.
        stall_after_pieces: A stream says nothing more after as many pieces, and stays open.
        piece_pause_s: Pause before each piece of a stream, in seconds.
    """

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: str | None = None
    stall_after_pieces: int | None = None
    piece_pause_s: float = 0.0


class LlmServer(Listener):
    """Answers each conversation by repeating its last message.

    Attributes:
        script: How the next requests are answered, before all others are answered well.
        requests: The body of each request.
        port: Where it listens, on 127.0.0.1.
    """

    def __init__(self) -> None:
        super().__init__()
        self.script: deque[Reply] = deque()
        self.requests: list[dict[str, Any]] = []

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
                await self._answer(await _request(reader), writer)
        except (asyncio.CancelledError, asyncio.IncompleteReadError, ConnectionError):
            # The server closes, or the client has gone.
            pass
        finally:
            self.tasks.discard(task)
            writer.transport.abort()

    async def _answer(self, request: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        self.requests.append(request)
        reply = self.script.popleft() if self.script else Reply()
        said: str = request["messages"][-1]["content"]
        if reply.status == 200 and reply.body is None and request.get("stream"):
            await _send_stream(writer, said, reply)
            return
        message = {"role": "assistant", "content": said}
        answer: dict[str, Any] = {"object": "chat.completion", "choices": [{"message": message}]}
        if reply.status != 200:
            answer = {"error": {"message": _REASONS[reply.status], "type": "server_error"}}
        body = (json.dumps(answer) if reply.body is None else reply.body).encode()
        headers = {
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            **reply.headers,
        }
        writer.write(_head(reply.status, headers) + body)
        await writer.drain()


async def _request(reader: asyncio.StreamReader) -> dict[str, Any]:
    """The next request's body."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    assert head.startswith(f"POST {PATH} HTTP/1.1\r\n"), head
    length = re.search(r"^content-length: *(\d+)", head, re.IGNORECASE | re.MULTILINE)
    assert length is not None, head
    body: dict[str, Any] = json.loads(await reader.readexactly(int(length[1])))
    return body


def _head(status: int, headers: dict[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} {_REASONS[status]}", *(f"{k}: {v}" for k, v in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


async def _send_stream(writer: asyncio.StreamWriter, said: str, reply: Reply) -> None:
    """Server-sent events, one for each word, in HTTP chunks."""
    headers = {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"}
    writer.write(_head(200, {**headers, **reply.headers}))
    for number, piece in enumerate(re.findall(r"\S+\s*", said)):
        if number == reply.stall_after_pieces:
            await asyncio.get_running_loop().create_future()
        await asyncio.sleep(reply.piece_pause_s)
        chunk = {"object": "chat.completion.chunk", "choices": [{"delta": {"content": piece}}]}
        await _send_chunk(writer, f"data: {json.dumps(chunk)}\n\n")
    await _send_chunk(writer, "data: [DONE]\n\n")
    await _send_chunk(writer, "")


async def _send_chunk(writer: asyncio.StreamWriter, text: str) -> None:
    data = text.encode()
    writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
    await writer.drain()
