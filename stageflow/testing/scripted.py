"""Stages that do as they are told."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from stageflow.context import StageContext
from stageflow.stage import StageOutput


async def do_nothing(ctx: StageContext) -> StageOutput:
    """Run as a stage without outputs."""
    return StageOutput.ok()


class ScriptedError(Exception):
    """What a scripted stage raises."""


@dataclass(frozen=True)
class ScriptedStage:
    """A runner that does as it is told, and equals every other one with the same script.

    Attributes:
        outputs: Keys that it writes; each value names its writer.
        pauses_s: Seconds that it sleeps, one after another; 0 only lets others go on.
        ending: How it ends: "ok", "raise", "fail" or "skip".
    """

    outputs: tuple[str, ...] = ()
    pauses_s: tuple[float, ...] = ()
    ending: str = "ok"

    async def execute(self, ctx: StageContext, /) -> StageOutput:
        """Sleep, and end as the script says.

        Raises:
            ScriptedError: The ending is "raise".
        """
        for pause_s in self.pauses_s:
            await asyncio.sleep(pause_s)
        if self.ending == "raise":
            raise ScriptedError(f"{ctx.name} raises as its script says")
        if self.ending == "fail":
            return StageOutput.fail("as its script says")
        if self.ending == "skip":
            return StageOutput.skip("as its script says")
        return StageOutput.ok({key: f"{key} by {ctx.name}" for key in self.outputs})
