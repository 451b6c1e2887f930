"""The default providers of kernels: fakes."""

from __future__ import annotations

from typing import Any

from stageflow.kernels.conversation import PROFILES
from stageflow.providers import fake
from stageflow.providers.registry import ProviderRegistry

# Latencies of fast services in one region. At P50 a voice turn takes
# 120 + 20 + 180 + 90 + 20 + 10 = 440 ms, a chat turn 20 + 180 + 20 + 10 = 230 ms.
STT = fake.LatencyProfile.percentiles(p50_ms=120, p99_ms=220)
LLM = fake.LatencyProfile.percentiles(p50_ms=180, p99_ms=340)
LLM_FIRST_PIECE = fake.LatencyProfile.percentiles(p50_ms=60, p99_ms=120)
TTS = fake.LatencyProfile.percentiles(p50_ms=90, p99_ms=160)
DATABASE_READ = fake.LatencyProfile.percentiles(p50_ms=20, p99_ms=45)
DATABASE_WRITE = fake.LatencyProfile.percentiles(p50_ms=10, p99_ms=25)

KNOWN_USER = "ada"
"""The only user with a profile in the default database."""


def default_providers(seed: int = 0, scale: float = 1.0) -> ProviderRegistry:
    """Return fakes of all ports, whose model echoes and whose latencies repeat for a `seed`.

    `scale` multiplies every latency and the duration of sound; 0 does not suspend.
    """
    profiles: dict[str, dict[str, dict[str, Any]]] = {PROFILES: {KNOWN_USER: {"name": "Ada"}}}
    read, write = DATABASE_READ.scaled(scale), DATABASE_WRITE.scaled(scale)
    first_piece = LLM_FIRST_PIECE.scaled(scale)
    return ProviderRegistry(
        llm=fake.FakeLLM(latency=LLM.scaled(scale), first_piece=first_piece, seed=seed),
        stt=fake.FakeSTT(latency=STT.scaled(scale), seed=seed),
        tts=fake.FakeTTS(latency=TTS.scaled(scale), seed=seed),
        db=fake.FakeDatabase(profiles, read=read, write=write, seed=seed),
        speaker=fake.FakeSpeaker(scale=scale),
    )
