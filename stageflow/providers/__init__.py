"""Providers that stages call: ports, the registry, fakes, and real providers."""

# ruff: noqa: F403, F405 - the list below says which names are public

from typing import TYPE_CHECKING

from stageflow._utils.lazy import lazy_names
from stageflow.providers.ports import *
from stageflow.providers.registry import PORTS, Adapter, ProviderRegistry, adapted

if TYPE_CHECKING:
    from stageflow.providers.audio import read_wav, resampled, wav_bytes, write_wav
    from stageflow.providers.database import SqlDatabase
    from stageflow.providers.fake import *
    from stageflow.providers.fallback import Checked, Fallback, IdleTimeout, Retry
    from stageflow.providers.openai import PCM_RATE_HZ, OpenAIService
    from stageflow.providers.tools import Tool, Toolbox

__all__ = [
    "INSTANT",
    "LLM",
    "PCM_RATE_HZ",
    "PORTS",
    "STT",
    "TTS",
    "Adapter",
    "Answer",
    "Audio",
    "Checked",
    "Database",
    "FakeDatabase",
    "FakeLLM",
    "FakeSTT",
    "FakeSpeaker",
    "FakeTTS",
    "Fallback",
    "IdleTimeout",
    "LatencyProfile",
    "Message",
    "OpenAIService",
    "ProviderRegistry",
    "Retry",
    "Speaker",
    "SqlDatabase",
    "Tool",
    "ToolCall",
    "ToolResult",
    "Toolbox",
    "Usage",
    "adapted",
    "calling",
    "echo",
    "read_wav",
    "resampled",
    "speech_of_text",
    "text_of_speech",
    "valid_answer",
    "wav_bytes",
    "write_wav",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    """
    audio: read_wav resampled wav_bytes write_wav
    database: SqlDatabase
    fake: INSTANT FakeDatabase FakeLLM FakeSTT FakeSpeaker FakeTTS LatencyProfile calling echo
    fake: speech_of_text text_of_speech
    fallback: Checked Fallback IdleTimeout Retry
    openai: PCM_RATE_HZ OpenAIService
    tools: Tool Toolbox
    """,
)
