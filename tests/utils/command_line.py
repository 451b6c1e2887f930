"""Run `stageflow` in this process, on modules that a user could have written."""

from __future__ import annotations

import json

import pytest

from stageflow.cli import main

Capture = pytest.CaptureFixture[str]

#: A module of a user's own, in the current folder of a test.
PAYMENTS = """\
import asyncio

from stageflow import Pipeline, ProviderRegistry, StageOutput, stage


class Bank:
    async def charge(self, sum_):
        return f"charged {sum_}"


@stage(inputs=["sum"], outputs=["checked"])
async def check(ctx):
    if ctx["sum"] < 0:
        raise ValueError("a negative sum")
    return StageOutput.ok(checked=("ok", ctx["sum"]))


@stage(dependencies=["check"], inputs=["checked"], outputs=["receipt"], provider="bank")
async def charge(ctx):
    return StageOutput.ok(receipt=await ctx.provider("bank").charge(ctx["checked"][1]))


@stage(dependencies=["charge"], inputs=["receipt"])
async def note(ctx):
    if "13" in ctx["receipt"]:
        return StageOutput.fail("unlucky", retryable=True)
    return StageOutput.ok()


pay = Pipeline("pay", [check, charge, note], inputs=["sum"])


def make_pay():
    return pay


real = ProviderRegistry(bank=Bank())


def make_real():
    return real
"""


def run(capsys: Capture, *argv: str) -> tuple[int, str, str]:
    """Return the exit code, the standard output and the standard error."""
    try:
        code = main(argv)
    except SystemExit as end:
        code = int(end.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def failed_turn(capsys: Capture, *options: str) -> str:
    """The id of the letter of a voice turn whose model is out of order."""
    fault = ("--inject", "llm=error", "--scale", "0", "--dlq", "letters.db")
    code, _, complaint = run(capsys, "run", "voice", *fault, *options)
    assert code == 1
    listed = [json.loads(line) for line in run(capsys, "dlq", "list", "--json")[1].splitlines()]
    newest = str(listed[-1]["id"])
    assert f"stored as dead letter {newest}" in complaint
    return newest
