"""The fault matrix: every fitting fault of every provider against every protection, played out.

Each cell is an outage of 90 s in virtual time, in which a user takes a turn of the voice kernel,
waits 5 s, and takes the next. Then the fault is gone, and the user goes on until a turn is as it
was before, with the answer of the first provider.

``python -m tests.fault.matrix --write`` writes the page ``docs/fault-matrix.md``.
"""

from __future__ import annotations

import asyncio
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from stageflow import Interceptor, PipelineOrchestrator, ProviderRegistry, RunResult, RunStatus
from stageflow.dlq import InMemoryDeadLetterStore
from stageflow.interceptors import BreakerInterceptor, RetryInterceptor, RetryPolicy
from stageflow.kernels import voice
from stageflow.providers import Checked, Fallback, IdleTimeout
from stageflow.resilience import BreakerPolicy, BreakerRegistry
from stageflow.testing import FaultInjector, FaultType
from stageflow.testing.faults import OF_PORTS
from tests.fault import streaming_matrix, tool_matrix
from tests.fault.turns import HEALTHY_MS, context, providers
from tests.utils.virtual_time import run_virtual

TABLE = Path(__file__).with_name("matrix.toml")
PAGE = Path(__file__).parents[2] / "docs" / "fault-matrix.md"

OUTAGE_S, PAUSE_S = 90.0, 5.0
POLICY = BreakerPolicy(failures=3, cooldown_s=30.0)
#: After which time without progress the fallback takes over; below the kernel's own limits.
PATIENCE_S = {"stt": 2.0, "llm": 2.0, "tts": 2.0, "db": 0.8}

PROVIDERS = ("stt", "llm", "tts", "db")
PROTECTIONS = ("plain", "retry", "breaker", "fallback")
STAGES = {
    "stt": {"stt"},
    "llm": {"llm"},
    "tts": {"tts"},
    "db": {"profile", "memory", "persist"},
}

#: From worst to best.
OUTCOMES = ("failed", "degraded", "completed")
_ORDINARY = {"started", "completed", "skipped", "first_audio"}


@dataclass(frozen=True)
class Cell:
    """The outcome of one outage for a user.

    Attributes:
        outcome: Of the worst turn: failed; degraded (answered, but without memory, or without
            having been understood); or completed.
        code: Error code of most turns that were not completed; empty if they had none.
        says: The message that the user got for it; empty if these turns were answered.
        answered: Turns that were answered, degraded ones included.
        turns: All turns of the outage.
        dead_letter: Whether turns that failed left dead letters, one each.
        wait_ms: How long a turn of the outage took, on average.
        recovery_ms: From the end of the fault to the end of the first turn that was as before.
        events: What was put on record beside the ordinary, in the order of first appearance.
    """

    outcome: str
    code: str
    says: str
    answered: int
    turns: int
    dead_letter: bool
    wait_ms: float
    recovery_ms: float
    events: tuple[str, ...]

    @property
    def share(self) -> str:
        """How many turns were answered, in a word."""
        if self.answered == self.turns:
            return "all"
        return "some" if self.answered else "none"


def fitting(provider: str) -> list[FaultType]:
    """The faults that fit a port."""
    return [t for t in FaultType if t in OF_PORTS[provider].kinds or t is FaultType.INTERMITTENT]


def keys() -> Iterator[tuple[str, FaultType, str]]:
    """Every cell of the matrix."""
    for provider in PROVIDERS:
        for fault_type in fitting(provider):
            for protection in PROTECTIONS:
                yield provider, fault_type, protection


def injector_of(provider: str, fault_type: FaultType, name: str) -> FaultInjector:
    """The fault in its default form; INTERMITTENT strikes every second call, a database's fifth."""
    options: dict[str, Any] = {}
    if fault_type is FaultType.INTERMITTENT:
        rhythm = ["fail", "ok", "ok", "ok", "ok"] if provider == "db" else ["fail", "ok"]
        options["script"] = rhythm * 200
    return OF_PORTS[provider](fault_type, provider=name, **options)


def protected(
    provider: str, fault_type: FaultType, protection: str, registry: ProviderRegistry
) -> tuple[FaultInjector, list[Interceptor]]:
    """Set up one of the four: nothing, a retry, a breaker, or a second provider to fall back on."""
    if protection == "fallback":
        # The fault is for the first provider alone, so it goes by a name of its own.
        injector = injector_of(provider, fault_type, f"first {provider}")
        first = Checked(injector.around(registry[provider]))
        second = providers()[provider]
        watched = IdleTimeout(first, PATIENCE_S[provider], name=provider)
        registry.register(provider, Fallback(watched, second, policy=POLICY))
        return injector, []
    injector = injector_of(provider, fault_type, provider)
    interceptors: dict[str, list[Interceptor]] = {
        "plain": [],
        "retry": [RetryInterceptor(RetryPolicy(attempts=3, base_delay_s=0.1))],
        "breaker": [BreakerInterceptor(BreakerRegistry(POLICY))],
    }
    return injector, interceptors[protection]


def outcome_of(result: RunResult) -> str:
    """How a turn was for its user."""
    if result.status is not RunStatus.COMPLETED:
        return "failed"
    whole = {str(stage.status) for stage in result.stages.values()} == {"completed"}
    heard = str(result.outputs["answer"]).startswith("You said: Hello?")
    return "completed" if whole and heard else "degraded"


def code_of(result: RunResult) -> str:
    """The error code of a turn: the run's own, or that of a stage that it went on without."""
    if result.failure is not None:
        return result.failure.code
    codes = [s.detail["error_code"] for s in result.stages.values() if s.status == "failed"]
    return codes[0] if codes else ""


def played(provider: str, fault_type: FaultType, protection: str) -> Cell:
    """Play one outage and the recovery from it."""

    async def main() -> Cell:
        registry, store = providers(), InMemoryDeadLetterStore()
        first: Any = registry[provider]
        injector, interceptors = protected(provider, fault_type, protection, registry)
        orchestrator = PipelineOrchestrator(
            voice().build(), interceptors=interceptors, dead_letters=store
        )
        clock = asyncio.get_running_loop().time

        async def turn() -> RunResult:
            return await orchestrator.run(context(registry))

        results: list[RunResult] = []
        with injector:
            while clock() < OUTAGE_S:
                results.append(await turn())
                await asyncio.sleep(PAUSE_S)
        over_at, after = clock(), []
        while True:
            calls = first.calls
            after.append(await turn())
            if outcome_of(after[-1]) == "completed" and first.calls > calls:
                break
            await asyncio.sleep(PAUSE_S)
        recovery_ms = (clock() - over_at) * 1000.0
        failures = [r for r in (*results, *after) if r.failure is not None]
        letters = await store.letters()
        assert len(letters) in {0, len(failures)}, "some failures left a letter, some did not"
        return _summed_up(provider, results, [*results, *after], bool(letters), recovery_ms)

    return run_virtual(main)


def _summed_up(
    provider: str,
    results: list[RunResult],
    everything: list[RunResult],
    dead_letter: bool,
    recovery_ms: float,
) -> Cell:
    outcomes = [outcome_of(result) for result in results]
    troubled = [r for r, outcome in zip(results, outcomes, strict=True) if outcome != "completed"]
    special = [
        event
        for result in everything
        for event in result.events
        if event.stage is not None and event.what not in _ORDINARY
    ]
    assert {event.stage for event in special} <= STAGES[provider]
    codes = Counter(code_of(result) for result in troubled)
    code = codes.most_common(1)[0][0] if codes else ""
    told = {r.user_message or "" for r in troubled if code_of(r) == code} or {""}
    (says,) = told
    return Cell(
        outcome=min(outcomes, key=OUTCOMES.index),
        code=code,
        says=says,
        answered=len(outcomes) - outcomes.count("failed"),
        turns=len(outcomes),
        dead_letter=dead_letter,
        wait_ms=round(fmean(result.duration_ms for result in results), 3),
        recovery_ms=round(recovery_ms, 3),
        events=tuple(dict.fromkeys(event.what for event in special)),
    )


_NAMES = {
    "stt": "Speech to text",
    "llm": "Language model",
    "tts": "Text to speech",
    "db": "Database",
}

_INTRODUCTION = f"""\
# What the user of a voice agent meets when a provider fails

This page is written by `python -m tests.fault.matrix --write`, from runs in virtual time; a test
keeps it equal to what runs. What has to stand in it was decided beforehand, by a person, in
`tests/fault/matrix.toml`.

Each cell is an outage of {OUTAGE_S:g} s, in which a user takes a turn of the voice kernel, waits
{PAUSE_S:g} s, and takes the next. It tells the outcome of the worst turn; how many turns were
answered; the most frequent error code, and whether failed turns left dead letters; the events on
record beside the ordinary; how long a turn took on average; and when, after the fault was gone, the
first turn was over that was as before. A healthy turn takes {HEALTHY_MS:g} ms.

- *plain*: the kernel alone, with its own limits a stage.
- *retry*: up to 3 attempts, delays of up to 0.1 and 0.2 s, or what Retry-After says.
- *breaker*: opens after {POLICY.failures} failures in a row, for {POLICY.cooldown_s:g} s.
- *fallback*: a second provider stands by, behind the same breaker; replies are checked, and no
  progress for {PATIENCE_S["llm"]:g} s ({PATIENCE_S["db"]:g} s for the database) is a failure.

*degraded* means: the user is answered, but without memory, or is asked to say it again.
"""


def described(cell: Cell) -> str:
    """A cell as text; never empty."""
    parts = [f"**{cell.outcome}**", f"{cell.answered}/{cell.turns} answered"]
    if cell.code:
        parts.append(f"`{cell.code}`")
    if cell.dead_letter:
        parts.append("dead letter")
    parts.extend(f"*{event}*" for event in cell.events if event != "failed")
    parts.append(f"turn {cell.wait_ms:,.0f} ms")
    parts.append(f"well after {cell.recovery_ms:,.0f} ms")
    return "<br>".join(parts)


def page(cells: Mapping[tuple[str, FaultType, str], Cell]) -> str:
    """The matrix as a document page."""
    lines = [_INTRODUCTION]
    for provider in PROVIDERS:
        lines.append(f"## {_NAMES[provider]}\n")
        lines.append(f"| fault | {' | '.join(PROTECTIONS)} |")
        lines.append(f"|---|{'---|' * len(PROTECTIONS)}")
        for fault_type in fitting(provider):
            row = (described(cells[provider, fault_type, p]) for p in PROTECTIONS)
            lines.append(f"| {fault_type} | {' | '.join(row)} |")
        lines.append("")
    lines.append("## Messages to the user\n")
    lines.append("| code | message |")
    lines.append("|---|---|")
    told = {cell.code: cell.says for cell in cells.values() if cell.says}
    lines.extend(f"| `{code}` | {says} |" for code, says in sorted(told.items()))
    lines.append(f"\n{streaming_matrix.section(streaming_matrix.all_cells())}")
    lines.append(tool_matrix.section())
    return "\n".join(lines)


def all_cells() -> dict[tuple[str, FaultType, str], Cell]:
    """Every outage played."""
    return {key: played(*key) for key in keys()}


def decided() -> dict[str, Any]:
    """Return the decisions of a person, which have to hold."""
    return tomllib.loads(TABLE.read_text(encoding="utf-8"))


if __name__ == "__main__":
    text = page(all_cells())
    if "--write" in sys.argv[1:]:
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(text, encoding="utf-8")
    else:
        print(text)
