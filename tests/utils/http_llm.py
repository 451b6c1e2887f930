"""A language model behind an OpenAI-compatible HTTP service, as a provider of the port."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx

from stageflow._utils.closing import AsyncClosing
from stageflow.errors import InvalidReplyError
from stageflow.providers import Message
from tests.utils.llm_server import PATH


class HttpLLM(AsyncClosing):
    """Asks the service at a port of this machine; it sets no time limit of its own."""

    def __init__(self, port: int) -> None:
        self._client = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", timeout=None, trust_env=False
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def complete(self, messages: Sequence[Message]) -> str:
        """The whole answer."""
        response = await self._client.post(PATH, json=_body(messages, stream=False))
        response.raise_for_status()
        return _text(response.text, "message")

    async def stream(self, messages: Sequence[Message]) -> AsyncIterator[str]:
        """The answer piece by piece."""
        body = _body(messages, stream=True)
        done = False
        async with self._client.stream("POST", PATH, json=body) as response:
            if response.is_error:
                await response.aread()  # or the exception would not hold what the service says
            response.raise_for_status()
            async for line in response.aiter_lines():
                # Read on to the very end: only then can the connection serve another call.
                done = done or line == "data: [DONE]"
                if line.startswith("data: ") and not done:
                    yield _text(line.removeprefix("data: "), "delta")
        if not done:
            raise InvalidReplyError("the stream of the language model ended without [DONE]")


def _body(messages: Sequence[Message], *, stream: bool) -> dict[str, Any]:
    said = [message.to_dict() for message in messages]
    return {"model": "echo", "messages": said, "stream": stream}


def _text(reply: str, kind: str) -> str:
    try:
        content = json.loads(reply)["choices"][0][kind]["content"]
    except (ValueError, LookupError, TypeError) as error:
        raise InvalidReplyError(
            f"the language model answered {reply[:60]!r}, which is not a chat completion"
        ) from error
    return str(content)
