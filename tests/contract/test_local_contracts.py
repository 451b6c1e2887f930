"""The providers of this machine keep the contracts of their ports: native code, real processes."""

from __future__ import annotations

from typing import Any

import pytest

from stageflow import Audio
from stageflow.providers.local import EspeakTTS, LlamaServer, LocalLLM, PocketsphinxSTT, grammar_of
from stageflow.testing import LlmContractTest, SttContractTest, TtsContractTest
from tests.utils.local import spoken

pytestmark = pytest.mark.slow


class TestLocalLLM(LlmContractTest):
    """One server for all tests, as it is for all callers; a client for each loop."""

    @pytest.fixture(autouse=True)
    def shared(self, llama: LlamaServer) -> None:
        self.server = llama

    async def make_llm(self) -> Any:
        brief = {"temperature": 0, "max_tokens": 4}
        return await self.resources.enter_async_context(LocalLLM(self.server, options=brief))


class TestPocketsphinxSTT(SttContractTest):
    async def make_stt(self) -> Any:
        return await self.resources.enter_async_context(PocketsphinxSTT())

    def make_audio(self) -> Audio:
        return spoken("good morning")


class TestPocketsphinxSTTWithCommands(SttContractTest):
    async def make_stt(self) -> Any:
        commands = grammar_of(["good morning", "good night"])
        return await self.resources.enter_async_context(PocketsphinxSTT(commands))

    def make_audio(self) -> Audio:
        return spoken("good morning")


class TestEspeakTTS(TtsContractTest):
    async def make_tts(self) -> Any:
        return await self.resources.enter_async_context(EspeakTTS())
