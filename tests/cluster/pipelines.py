"""The pipelines of these tests' workers: payments into a PostgreSQL of the test's own."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import LiteralString

import psycopg

from stageflow import Pipeline, ProviderRegistry, StageContext, StageOutput, StageSpec, stage

#: The variable that tells a worker where its ledger is.
LEDGER = "STAGEFLOW_TEST_LEDGER"

SCHEMA = """
CREATE TABLE attempts (key text NOT NULL, run_id text NOT NULL);
CREATE TABLE paid (key text PRIMARY KEY, run_id text NOT NULL);
"""


class Ledger:
    """Notes each attempt at a payment, and each payment once."""

    def __init__(self, url: str) -> None:
        """Choose the database; each call opens a connection, of which few are open at once."""
        self._url = url
        self._slots = asyncio.Semaphore(4)

    async def execute(self, statement: LiteralString, *values: object) -> None:
        """Run one statement."""
        async with (
            self._slots,
            await psycopg.AsyncConnection.connect(self._url, autocommit=True) as connection,
        ):
            await connection.execute(statement, values)


def providers() -> ProviderRegistry:
    """The ledger of the database that the environment names."""
    return ProviderRegistry(ledger=Ledger(os.environ[LEDGER]))


@stage(inputs=["number"], outputs=["amount"])
async def check(ctx: StageContext) -> StageOutput:
    """Refuse every tenth payment."""
    if ctx["number"] % 10 == 0:
        return StageOutput.fail("no credit")
    return StageOutput.ok(amount=ctx["number"] * 100)


@stage(dependencies=["check"], inputs=["amount", "pause_ms"], outputs=["receipt"])
async def pay(ctx: StageContext) -> StageOutput:
    """Take a moment, note the attempt, and pay under the key of the job."""
    ledger, key = ctx.provider("ledger"), ctx.correlation_id
    await ledger.execute("INSERT INTO attempts VALUES (%s, %s)", key, ctx.pipeline_run_id)
    await asyncio.sleep(ctx["pause_ms"] / 1000)
    await ledger.execute(
        "INSERT INTO paid VALUES (%s, %s) ON CONFLICT DO NOTHING", key, ctx.pipeline_run_id
    )
    return StageOutput.ok(receipt=f"{key}: {ctx['amount']}")


payments = Pipeline("payments", [check, pay], inputs=["number", "pause_ms"])


@stage(inputs=["n"], outputs=["m"])
async def add_one(ctx: StageContext) -> StageOutput:
    """As little as a stage can do, for what a hop costs."""
    return StageOutput.ok(m=ctx["n"] + 1)


one = Pipeline("one", [add_one], inputs=["n"])


def busy() -> Pipeline:
    """Ten stages of a bit of computing each: a job that a processor has to work for."""

    async def compute(ctx: StageContext) -> StageOutput:
        total = 0
        for number in range(20_000):
            total += number * number
        return StageOutput.ok(**{ctx.name: total})

    names = [f"s{number}" for number in range(10)]
    before = [(), *((name,) for name in names)]
    specs = [
        StageSpec(name, compute, dependencies=after, outputs=(name,))
        for name, after in zip(names, before, strict=False)
    ]
    return Pipeline("busy", specs)


@stage
async def answer_comes(ctx: StageContext) -> StageOutput:
    """Wait for 50 ms, as for a service."""
    await asyncio.sleep(0.05)
    return StageOutput.ok()


waiting = Pipeline("waiting", [answer_comes])


@stage
async def never_ends() -> None:
    """Say that the job runs, and go on for ever."""
    print("it runs", file=sys.stderr, flush=True)
    await asyncio.Event().wait()


endless = Pipeline("endless", [never_ends])
