"""The fault matrix of a turn that streams: what is heard and kept when a provider fails midway.

Each cell is one turn of the streaming kernel in virtual time, whose answer has two sentences. The
fault strikes at once, or in the middle: behind the first sentence. The page of the fault matrix
holds the table; `tests/fault/streaming_matrix.toml` what a person has decided that it has to say.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stageflow import PipelineOrchestrator, ProviderRegistry
from stageflow.dlq import InMemoryDeadLetterStore
from stageflow.kernels import first_audio_ms, streaming_voice
from stageflow.providers import FakeLLM, FakeSpeaker, LatencyProfile, text_of_speech
from stageflow.testing import FaultInjector, FaultType, inject_fault
from stageflow.testing.faults import OF_PORTS
from tests.fault.turns import LLM_MS, context, providers
from tests.utils.virtual_time import run_virtual

TABLE = Path(__file__).with_suffix(".toml")
SENTENCES = ("One two. ", "Three four.")
ANSWER = "".join(SENTENCES)

#: In the order of the table.
PROVIDERS = ("stt", "llm", "tts", "db", "speaker")
AT_ONCE, MIDWAY = "at once", "midway"
#: What can happen to the model's stream behind the third of its four words.
_MIDWAY_OPTIONS: Mapping[FaultType, Mapping[str, Any]] = {
    FaultType.STALL: {"after_pieces": 3},
    FaultType.CUT: {"after_pieces": 3},
    FaultType.SLOW: {"duration_ms": 0, "per_piece_ms": 500},
    FaultType.DISCONNECT: {"after_call": True},
}

Key = tuple[str, FaultType, str]


@dataclass(frozen=True)
class Cell:
    """The outcome of a turn.

    Attributes:
        code: Why it failed; empty if it did not.
        heard: The sentences that sounded to their end.
        kept: What the conversation holds as the assistant's words; empty for no record.
        letter: Whether a dead letter was left.
        first_ms: When the first sound was made, in milliseconds; None for never.
        took_ms: How long the turn took.
    """

    code: str
    heard: str
    kept: str
    letter: bool
    first_ms: float | None
    took_ms: float


def keys() -> Iterator[Key]:
    """Every cell: a provider that is called once cannot fail midway."""
    for provider in PROVIDERS:
        for kind in OF_PORTS[provider].kinds:
            yield provider, kind, AT_ONCE
    for kind in _MIDWAY_OPTIONS:
        yield "llm", kind, MIDWAY
    for provider in ("tts", "speaker"):
        for kind in OF_PORTS[provider].kinds:
            yield provider, kind, MIDWAY


def _injector(provider: str, kind: FaultType, when: str) -> FaultInjector:
    if when == AT_ONCE:
        return inject_fault(provider, kind)
    if provider == "llm":
        return inject_fault(provider, kind, **_MIDWAY_OPTIONS[kind])
    script = ["ok", *["fail"] * 20]
    return inject_fault(provider, FaultType.INTERMITTENT, fault=kind, script=script)


def played(provider: str, kind: FaultType, when: str) -> Cell:
    """Take one turn under one fault."""

    async def main() -> Cell:
        registry, store = _registry(), InMemoryDeadLetterStore()
        orchestrator = PipelineOrchestrator(streaming_voice().build(), dead_letters=store)
        with _injector(provider, kind, when):
            result = await orchestrator.run(context(registry))
        record = await registry.db.get("conversations", "ada")
        turns = [] if record is None else record["turns"]
        speaker: Any = registry.speaker
        return Cell(
            code="" if result.failure is None else result.failure.code,
            heard="".join(map(text_of_speech, speaker.heard)),
            kept="".join(turn["assistant"] for turn in turns),
            letter=bool(await store.letters()),
            first_ms=first_audio_ms(result.events),
            took_ms=result.duration_ms,
        )

    return run_virtual(main)


def _registry() -> ProviderRegistry:
    registry = providers()
    registry.register("llm", FakeLLM(ANSWER, latency=LatencyProfile.fixed(LLM_MS)))
    registry.register("speaker", FakeSpeaker())
    return registry


def decided() -> dict[str, Any]:
    """By provider, moment and fault: the code, what is heard, and what is kept."""
    return tomllib.loads(TABLE.read_text(encoding="utf-8"))


_INTRODUCTION = f"""\
## A turn that streams

One turn of the streaming kernel each, without any protection; its answer is *{ANSWER}*
The fault strikes at once, or midway: behind the first sentence. What is *kept* is what the
conversation holds as the assistant's words. While a sentence sounds, the clock tells how much of it
was heard: a speaker that hangs in silence is taken to have spoken.
"""


def section(cells: Mapping[Key, Cell]) -> str:
    """The table, as a part of the page of the fault matrix."""
    lines = [
        _INTRODUCTION,
        "| provider | fault | strikes | error code | heard | kept | first sound | turn |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (provider, kind, when), cell in cells.items():
        first = "never" if cell.first_ms is None else f"{cell.first_ms:,.0f} ms"
        code = f"`{cell.code}`" if cell.code else "-"
        if cell.letter:
            code += ", dead letter"
        said = " | ".join(text.strip() or "-" for text in (cell.heard, cell.kept))
        lines.append(
            f"| {provider} | {kind} | {when} | {code} | {said} | {first} | {cell.took_ms:,.0f} ms |"
        )
    return "\n".join(lines) + "\n"


def all_cells() -> dict[Key, Cell]:
    """Every turn played."""
    return {key: played(*key) for key in keys()}
