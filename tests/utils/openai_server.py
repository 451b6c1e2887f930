"""A service of OpenAI's kind on this machine: chat, transcriptions and speech, with a key."""

from __future__ import annotations

import asyncio
from typing import Any

from stageflow import Audio
from stageflow.providers import speech_of_text, text_of_speech
from tests.utils.llm_server import PATH, LlmServer, Reply, Request, send

KEY = "sk-of-the-tests"
MODELS = frozenset({"echo", "ears", "mouth"})


class OpenAIServer(LlmServer):
    """Repeats a chat, recognises its own speech, and refuses other keys and models.

    Attributes:
        seen: Path and headers of each request.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Request] = []

    @property
    def url(self) -> str:
        """Where it is, as clients take it."""
        return f"http://127.0.0.1:{self.port}/v1"

    async def answer(
        self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Answer one request as the script says, or well."""
        self.seen.append(request)
        refusal = self._refusal(request)
        if refusal is not None:
            await send(writer, refusal, {})
        elif request.path == PATH:
            await super().answer(request, reader, writer)
        else:
            reply = self.script.popleft() if self.script else Reply()
            await send(writer, reply, _answer(request))

    def _refusal(self, request: Request) -> Reply | None:
        if request.headers["authorization"] != f"Bearer {KEY}":
            return Reply(401)
        if not any(_names(request, model) for model in MODELS):
            return Reply(404)
        return None


def _names(request: Request, model: str) -> bool:
    if request.headers["content-type"] == "application/json":
        found: Any = request.body["model"]
        return bool(found == model)
    return b'name="model"\r\n\r\n' + model.encode() + b"\r\n" in request.content


def _answer(request: Request) -> dict[str, Any] | bytes:
    if request.path == "/v1/audio/speech":
        return speech_of_text(request.body["input"]).pcm
    assert request.path == "/v1/audio/transcriptions", request.path
    return {"text": _heard(request.content)}


def _heard(form: bytes) -> str:
    """Return the text of a form's WAV: after 44 bytes of header, up to the form's end."""
    _, _, wav = form.partition(b"RIFF")
    size = int.from_bytes(wav[36:40], "little")
    return text_of_speech(Audio(wav[40 : 40 + size]))
