"""The fault matrix of a tool: what is heard when it fails, by what is chosen for it."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stageflow import Message, PipelineOrchestrator
from stageflow.interceptors import RetryPolicy
from stageflow.kernels import streaming_voice
from stageflow.providers import FakeLLM, FakeSpeaker, Tool, calling, text_of_speech
from stageflow.testing import FaultType, ToolFaultInjector, inject_fault
from tests.fault.turns import context, providers
from tests.utils.virtual_time import run_virtual

TABLE = Path(__file__).with_suffix(".toml")
CHOICES: Mapping[str, Mapping[str, Any]] = {
    "report": {},
    "retry": {"retry": RetryPolicy(attempts=2)},
    "fail": {"on_error": "fail"},
}
KEYS = [(kind, choice) for kind in ToolFaultInjector.kinds for choice in CHOICES]

Key = tuple[FaultType, str]


async def find_order(number: str) -> dict[str, str]:
    """Return where an order is."""
    return {number: "on its way"}


def _answered(messages: Sequence[Message]) -> str:
    if messages[-1].role != "tool":
        return calling("find_order", number="A7")
    return "It is on its way." if "on its way" in messages[-1].content else "I cannot see it now."


def played(kind: FaultType, choice: str) -> tuple[str, str, str]:
    """Take one turn: its error code, that of the call, and what is heard."""
    first = {"script": "fail", "fault": kind} if choice == "retry" else {}
    fault = inject_fault("tools", FaultType.INTERMITTENT if first else kind, **first)

    async def main() -> tuple[str, str, str]:
        registry, speaker = providers(), FakeSpeaker()
        registry.register("llm", FakeLLM(_answered))
        registry.register("speaker", speaker)
        pipeline = streaming_voice(tools=[Tool(find_order, **CHOICES[choice])])
        with fault:
            result = await PipelineOrchestrator(pipeline.build()).run(context(registry))
        failed = [e.data["error_code"] for e in result.events if e.what == "tool_failed"]
        heard = "".join(map(text_of_speech, speaker.heard))
        return "" if result.failure is None else result.failure.code, "".join(failed), heard

    return run_virtual(main)


def decided() -> dict[str, Any]:
    """By fault and choice: the codes of turn and call, and what is heard."""
    return tomllib.loads(TABLE.read_text(encoding="utf-8"))


def section() -> str:
    """The table, as a part of the page of the fault matrix."""
    lines = [
        "## A turn that calls a tool\n",
        "One streaming turn each, whose tool fails. Its failure is reported to the model, or the",
        "call is made again and the fault is over, or it fails the turn. A cell has the error code",
        "of the turn, that of the call, and what is heard.\n",
        f"| fault | {' | '.join(CHOICES)} |",
        f"|---|{'---|' * len(CHOICES)}",
    ]
    for kind in ToolFaultInjector.kinds:
        cells = [played(kind, choice) for choice in CHOICES]
        row = ("<br>".join(filter(None, (*map(_code, c[:2]), c[2]))) for c in cells)
        lines.append(f"| {kind} | {' | '.join(row)} |")
    return "\n".join([*lines, ""])


def _code(code: str) -> str:
    return f"`{code}`" if code else ""
