"""A service of OpenAI's kind keeps the contracts of the ports, over real HTTP."""

from __future__ import annotations

from typing import Any

from stageflow import Audio
from stageflow.providers import OpenAIService, speech_of_text
from stageflow.testing import (
    LlmContractTest,
    ProviderContractTest,
    SttContractTest,
    TtsContractTest,
)
from tests.utils.openai_server import KEY, OpenAIServer


class OpenAI(ProviderContractTest):
    """A server and a connection to it, for all three contracts."""

    async def service(self) -> OpenAIService:
        """A connection to a server of this test's own."""
        server = await self.resources.enter_async_context(OpenAIServer())
        connection = OpenAIService(server.url, api_key=KEY, trust_env=False)
        return await self.resources.enter_async_context(connection)


class TestOpenAILLM(OpenAI, LlmContractTest):
    async def make_llm(self) -> Any:
        return (await self.service()).llm("echo")


class TestOpenAISTT(OpenAI, SttContractTest):
    async def make_stt(self) -> Any:
        return (await self.service()).stt("ears")

    def make_audio(self) -> Audio:
        return speech_of_text("hello")


class TestOpenAITTS(OpenAI, TtsContractTest):
    async def make_tts(self) -> Any:
        return (await self.service()).tts("mouth", "alloy")
