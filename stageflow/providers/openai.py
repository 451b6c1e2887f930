"""Models and speech of any service that speaks OpenAI's protocol (needs the extra ``openai``).

A service is a connection; what stages call is made from it::

    async with OpenAIService() as service:  # the key is taken from OPENAI_API_KEY
        providers = ProviderRegistry(
            llm=service.llm("gpt-4o-mini"),
            stt=service.stt("whisper-1"),
            tts=service.tts("tts-1", voice="alloy"),
        )

A call is made once: retries are the interceptors', which know the deadline. A call that is
cancelled, and a stream that is left, closes its connection, so that the service stops working.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from stageflow.classification import classify
from stageflow.closing import AsyncClosing
from stageflow.durations import is_duration
from stageflow.errors import (
    ConnectionFailedError,
    CredentialsRejectedError,
    InvalidConfigError,
    InvalidReplyError,
    RequestRejectedError,
    StageflowError,
)
from stageflow.providers.audio import InvalidAudioError, wav_audio, wav_bytes
from stageflow.providers.extras import MissingExtraError
from stageflow.providers.ports import Audio, Message
from stageflow.providers.replies import valid_answer, valid_sound, valid_transcript

try:
    import openai
except ModuleNotFoundError as error:
    raise MissingExtraError("openai", "openai", "a service of OpenAI's kind") from error

DEFAULT_URL = "https://api.openai.com/v1"
KEY_VARIABLE = "OPENAI_API_KEY"
#: What a model's ``pcm`` is, as OpenAI defines it: samples a second.
PCM_RATE_HZ = 24_000

_NOTHING: Mapping[str, Any] = MappingProxyType({})
_SHOWN_CHARS = 300
_TURNS_TO_SETTLE = 16


class OpenAIService(AsyncClosing):
    """A connection to a service, shared by all that is made from it; it belongs to one event loop.

    Attributes:
        base_url: Where the service is.
    """

    def __init__(
        self,
        base_url: str = DEFAULT_URL,
        *,
        api_key: str | None = None,
        timeout_s: float = 30.0,
        trust_env: bool = True,
    ) -> None:
        """Choose the service; nothing is opened before the first call.

        Args:
            base_url: Up to and with the version, such as ``http://127.0.0.1:8080/v1``.
            api_key: The key; None takes it from the environment variable ``OPENAI_API_KEY``.
            timeout_s: How long the service may take to accept a connection, and then may say
                nothing, in seconds. A whole call is limited by its stage.
            trust_env: Whether the proxies that the environment names are used.

        Raises:
            InvalidConfigError: The URL is none of HTTP, there is no key, the key cannot stand in
                a header, or the time is no positive number.
        """
        if not is_duration(timeout_s):
            raise _misfit("timeout_s", timeout_s, "give a positive number of seconds")
        self.base_url = _checked_url(base_url)
        self._key = _checked_key(api_key)
        self._client = openai.AsyncOpenAI(
            base_url=self.base_url,
            api_key=self._key,
            max_retries=0,
            timeout=timeout_s,
            http_client=openai.DefaultAsyncHttpxClient(trust_env=trust_env),
        )

    def llm(self, model: str, **options: Any) -> OpenAILLM:
        """A language model of this service; see `OpenAILLM`."""
        return OpenAILLM(self, model, options)

    def stt(self, model: str, **options: Any) -> OpenAISTT:
        """Speech to text of this service; see `OpenAISTT`."""
        return OpenAISTT(self, model, options)

    def tts(self, model: str, voice: str, **options: Any) -> OpenAITTS:
        """Text to speech of this service; see `OpenAITTS`."""
        return OpenAITTS(self, model, voice, options)

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()
        # The client drops the generators of a stream, one inside of the other, for the loop to
        # close: each in a task of its own, two turns after the one around it.
        for _ in range(_TURNS_TO_SETTLE):
            await asyncio.sleep(0)

    def __repr__(self) -> str:
        return f"OpenAIService({self.base_url!r})"

    @contextmanager
    def _asked(self, model: str) -> Iterator[openai.AsyncOpenAI]:
        """The client; what goes wrong in the block is told with the service, model and mend."""
        try:
            yield self._client
        except StageflowError:
            raise
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise InvalidReplyError(
                f"{self.base_url} answered with something that is no reply: {_cut(str(error))}"
            ) from error
        except openai.APIError as error:
            failure = self._explained(classify(error), model)
            if self._key in str(error):  # a service that repeats the key: it must not be logged
                failure.message = failure.message.replace(self._key, "…")
                failure.__cause__ = None
                raise failure from None
            raise failure from error

    def _explained(self, failure: StageflowError, model: str) -> StageflowError:
        mend = ""
        if isinstance(failure, ConnectionFailedError):
            mend = "; see that it is up and the URL is right"
        elif isinstance(failure, CredentialsRejectedError):
            mend = f"; see the key in {KEY_VARIABLE}"
        elif isinstance(failure, RequestRejectedError):
            mend = "; see that it has this model, and what it says of the request"
        failure.message = f"{_cut(failure.message)} ({self.base_url}, model {model!r}{mend})"
        return failure


class OpenAILLM:
    """A language model, by ``chat/completions``."""

    def __init__(
        self, service: OpenAIService, model: str, options: Mapping[str, Any] = _NOTHING
    ) -> None:
        """Choose the model.

        Args:
            service: Where it is.
            model: What it is called there.
            options: More of the request, such as ``temperature`` or ``max_completion_tokens``.
        """
        self._service = service
        self._model = model
        self._options = dict(options)

    async def complete(self, messages: Sequence[Message]) -> str:
        """The whole answer.

        Raises:
            InvalidReplyError: The service answered with something else.
            StageflowError: It could not be asked, or refused; as `classify` has it.
        """
        with self._service._asked(self._model) as client:
            reply = await client.chat.completions.create(
                model=self._model, messages=_as_params(messages), extra_body=self._options
            )
            return valid_answer(_found(reply, "choices", 0, "message", "content"))

    async def stream(self, messages: Sequence[Message]) -> AsyncIterator[str]:
        """The answer piece by piece; raises as `complete`, also in the middle."""
        finished = False
        with self._service._asked(self._model) as client:
            chunks = await client.chat.completions.create(
                model=self._model,
                messages=_as_params(messages),
                extra_body=self._options,
                stream=True,
            )
            async with chunks:
                async for chunk in chunks:
                    if not _found(chunk, "choices"):
                        continue  # how many tokens were used, or that the connection is alive
                    finished = finished or bool(_found(chunk, "choices", 0, "finish_reason"))
                    if piece := _found(chunk, "choices", 0, "delta", "content"):
                        yield _text(piece)
        if not finished:
            raise InvalidReplyError(
                f"the stream of {self._service.base_url} ended before the answer did"
            )

    def __repr__(self) -> str:
        return f"OpenAILLM({self._service!r}, {self._model!r})"


class OpenAISTT:
    """Speech to text, by ``audio/transcriptions``."""

    def __init__(
        self, service: OpenAIService, model: str, options: Mapping[str, Any] = _NOTHING
    ) -> None:
        """Choose the model; `options` is more of the request, such as ``language``."""
        self._service = service
        self._model = model
        self._options = dict(options)

    async def transcribe(self, audio: Audio) -> str:
        """What is said in `audio`; empty if nothing is. Raises as `OpenAILLM.complete`."""
        with self._service._asked(self._model) as client:
            reply = await client.audio.transcriptions.create(
                model=self._model,
                file=("speech.wav", wav_bytes(audio), "audio/wav"),
                response_format="json",
                extra_body=self._options,
            )
            return valid_transcript(_found(reply, "text")).strip()

    def __repr__(self) -> str:
        return f"OpenAISTT({self._service!r}, {self._model!r})"


class OpenAITTS:
    """Text to speech, by ``audio/speech``, as PCM or, if the service sends one, from a WAV."""

    def __init__(
        self,
        service: OpenAIService,
        model: str,
        voice: str,
        options: Mapping[str, Any] = _NOTHING,
    ) -> None:
        """Choose model and voice; `options` is more of the request, such as ``speed``."""
        self._service = service
        self._model = model
        self._voice = voice
        self._options = dict(options)

    async def synthesize(self, text: str) -> Audio:
        """`text` as sound. Raises as `OpenAILLM.complete`."""
        with self._service._asked(self._model) as client:
            reply = await client.audio.speech.create(
                model=self._model,
                voice=self._voice,
                input=_sendable(text),
                response_format="pcm",
                extra_body=self._options,
            )
            kind = reply.response.headers.get("content-type", "")
            return _sound(reply.content, kind)

    def __repr__(self) -> str:
        return f"OpenAITTS({self._service!r}, {self._model!r}, {self._voice!r})"


# ── what goes out, and what comes back ──────────────────────────────────────────────────────


def _as_params(messages: Sequence[Message]) -> Any:
    return [{"role": message.role, "content": _sendable(message.content)} for message in messages]


def _sendable(text: str) -> str:
    """The text with "?" for half of a surrogate pair, which UTF-8 does not have."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _found(reply: Any, *path: str | int) -> Any:
    """What stands at a path of a reply; the client hands out whatever the service sent."""
    found = reply
    for step in path:
        try:
            found = found[step] if isinstance(step, int) else getattr(found, step)
        except (AttributeError, LookupError, TypeError):
            raise InvalidReplyError(
                f"the service answered with {_cut(repr(reply))}, which has no"
                f" {'.'.join(map(str, path))}"
            ) from None
    return found


def _text(piece: object) -> str:
    if isinstance(piece, str):
        return piece
    raise InvalidReplyError(f"the service sent {_cut(repr(piece))} in place of text")


def _sound(content: bytes, kind: str) -> Audio:
    if content[:4] == b"RIFF":
        try:
            return wav_audio(content, "the sound of the service")
        except InvalidAudioError as error:
            raise InvalidReplyError(str(error)) from error
    if re.match(r"text/|application/(json|xml|.*html)", kind):
        raise InvalidReplyError(
            f"text to speech answered with {kind} in place of sound: {_cut(repr(content[:300]))}"
        )
    return valid_sound(Audio(content, PCM_RATE_HZ))


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}…"


# ── setting up ──────────────────────────────────────────────────────────────────────────────


def _checked_url(url: str) -> str:
    mend = "give http:// or https://, host and version, such as http://127.0.0.1:8080/v1"
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        parts, valid = None, False
    if parts is not None and parts.username is not None:
        raise _misfit("base_url", "one with a user or password in it", "give the key as api_key")
    if not valid:
        raise _misfit("base_url", url, mend)
    return url.rstrip("/")


def _checked_key(given: str | None) -> str:
    key = os.environ.get(KEY_VARIABLE) if given is None else given
    if not key:
        raise _misfit("api_key", key, f"set the environment variable {KEY_VARIABLE} to the key")
    if not re.fullmatch(r"[!-~]+", key):
        # Not shown, whatever it is.
        raise _misfit(
            "api_key",
            "one with a space, a line's end or another sign that no key has",
            f"correct the environment variable {KEY_VARIABLE}",
        )
    return key


def _misfit(field: str, found: object, mend: str) -> InvalidConfigError:
    return InvalidConfigError("OpenAIService", field, found, mend)
