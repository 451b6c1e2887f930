"""Providers that stages call: ports, the registry, fakes, and real providers."""

from typing import TYPE_CHECKING

from stageflow._utils.lazy import lazy_names
from stageflow.providers.ports import (
    LLM,
    STT,
    TTS,
    Answer,
    Audio,
    Database,
    Message,
    Speaker,
    ToolCall,
    ToolResult,
    Usage,
)
from stageflow.providers.registry import PORTS, Adapter, ProviderRegistry, adapted

if TYPE_CHECKING:
    from stageflow.providers.audio import read_wav, resampled, wav_bytes, write_wav
    from stageflow.providers.database import SqlDatabase
    from stageflow.providers.fake import (
        INSTANT,
        FakeDatabase,
        FakeLLM,
        FakeSpeaker,
        FakeSTT,
        FakeTTS,
        LatencyProfile,
        calling,
        echo,
        speech_of_text,
        text_of_speech,
    )
    from stageflow.providers.fallback import Checked, Fallback, IdleTimeout, Retry
    from stageflow.providers.openai import PCM_RATE_HZ, OpenAIService
    from stageflow.providers.ports import valid_answer
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
    ports: valid_answer
    tools: Tool Toolbox
    """,
)
