"""Ready pipelines: a turn of a voice conversation, whole or streaming, and a turn of a chat."""

from stageflow.kernels.agent import Agent
from stageflow.kernels.chat import chat
from stageflow.kernels.conversation import INTERRUPTED, PROFILES, SYSTEM_PROMPT
from stageflow.kernels.defaults import KNOWN_USER, default_providers
from stageflow.kernels.limiter import TurnLimiter, TurnLimitError
from stageflow.kernels.sentences import SentenceSplitter
from stageflow.kernels.speech import ShownText, SpokenForm
from stageflow.kernels.streaming_voice import KEEPING_S, first_audio_ms, streaming_voice
from stageflow.kernels.voice import NOTHING_HEARD, voice

__all__ = [
    "INTERRUPTED",
    "KEEPING_S",
    "KNOWN_USER",
    "NOTHING_HEARD",
    "PROFILES",
    "SYSTEM_PROMPT",
    "Agent",
    "SentenceSplitter",
    "ShownText",
    "SpokenForm",
    "TurnLimitError",
    "TurnLimiter",
    "chat",
    "default_providers",
    "first_audio_ms",
    "streaming_voice",
    "voice",
]
