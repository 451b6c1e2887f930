"""Stages that follow a script."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from stageflow.engine import StageContext, StageOutput


async def do_nothing(ctx: StageContext) -> StageOutput:
    """Run as a stage without outputs."""
    return StageOutput.ok()


def never(ctx: object) -> bool:
    """Return False, as the condition of a stage that is always skipped."""
    return False


class ScriptedError(Exception):
    """A scripted stage has raised."""


@dataclass(frozen=True)
class ScriptedStage:
    """A runner that follows a script, and equals any other one with the same script."""

    outputs: tuple[str, ...] = ()  # keys; each value names its writer
    pauses_s: tuple[float, ...] = ()  # seconds of each sleep; 0 only yields to the loop
    ending: str = "ok"  # or "raise", "fail", "skip"

    async def execute(self, ctx: StageContext, /) -> StageOutput:
        """Sleep, and end as the script says; raise `ScriptedError` if that is "raise"."""
        for pause_s in self.pauses_s:
            await asyncio.sleep(pause_s)
        if self.ending == "raise":
            raise ScriptedError(f"{ctx.name} raises as its script says")
        if self.ending in ("fail", "skip"):
            end = StageOutput.fail if self.ending == "fail" else StageOutput.skip
            return end("as its script says")
        return StageOutput.ok({key: f"{key} by {ctx.name}" for key in self.outputs})
