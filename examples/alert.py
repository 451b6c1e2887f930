"""Telemetry in a file, and an alert on it: the model fails for three minutes of an hour at noon.

In production these are two programs: the service writes its telemetry, and
``stageflow pulse alert --store runs.db --every 60 --to slack`` evaluates it each minute.

    60 turns in runs.db, 3 of them failed
    12:04 FIRING: TurnsFail, likely stage reply, service_unavailable
          100 % of the runs of turn failed in 2 min, limit 20 %, for 1 min or longer
    12:07 RESOLVED: TurnsFail, likely stage reply, service_unavailable
          50 % of the runs of turn failed in 2 min, limit 20 %, for 1 min or longer
"""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import gmtime, strftime

from stageflow import Message, Pipeline, PipelineContext, ProviderRegistry, StageContext, stage
from stageflow.providers import FakeLLM
from stageflow.pulse.alerts import SETTLE_S, AlertState, Evaluator, Kind, Links, Rule, Severity
from stageflow.telemetry import SQLiteSink, TelemetryStore
from stageflow.testing import FaultType, inject_fault

NOON_S = 1_700_000_000 // 86_400 * 86_400 + 43_200
MINUTE_S = 60
BROKEN = range(2, 5)

RULE = Rule(
    name="TurnsFail",
    kind=Kind.ERROR_RATE,
    limit=0.2,
    window_s=2 * MINUTE_S,
    for_s=MINUTE_S,
    severity=Severity.CRITICAL,
    owner="you",
    runbook="turns-fail",
    least_runs=1,  # there is a turn a minute
)


@stage(outputs=["answer"], timeout_s=10.0, provider="llm")
async def reply(ctx: StageContext, text: str) -> str:
    """Return the model's answer."""
    return await ctx.llm.complete([Message("user", text)])


turn = Pipeline("turn", [reply])


async def serve(file: Path) -> None:
    """Run a turn a minute, for an hour, and write the events to the file."""
    providers = ProviderRegistry(llm=FakeLLM("Hello!"))
    with turn.bind(sinks=[SQLiteSink(file)], providers=providers) as bound:
        failed = 0
        for minute in range(60):
            clock = partial(float, NOON_S + minute * MINUTE_S)
            context = PipelineContext({"text": "Hi"}, wall_clock=clock)
            if minute in BROKEN:
                with inject_fault("llm", FaultType.ERROR, allow_unused=True):
                    failed += (await bound.run(context)).failure is not None
            else:
                await bound.run(context)
    print(f"60 turns in {file.name}, {failed} of them failed")


def watch(file: Path) -> None:
    """Evaluate the rule each minute, as the command does, and print the alerts."""
    with TelemetryStore(file) as store, AlertState(file.with_suffix(".alerts.db")) as state:
        links = Links(page="https://pulse.example", runbook="https://runbook.example")
        evaluator = Evaluator([RULE], links, store, state, channels=())
        for at_s in range(NOON_S, NOON_S + 60 * MINUTE_S, MINUTE_S):
            message = evaluator.evaluate(at_s + SETTLE_S)
            for notice in message.notices if message else ():
                print(f"{strftime('%H:%M', gmtime(at_s))} ", end="")
                print(f"{notice.status.upper()}: {notice.rule}, likely {notice.likely}")
                print(f"      {notice.what}")


def main() -> None:
    """Run an hour of turns, and then an hour of evaluations."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "runs.db"
        asyncio.run(serve(file))
        watch(file)


if __name__ == "__main__":
    main()
