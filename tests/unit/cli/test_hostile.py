"""Printed data neither controls the terminal nor adds lines, and no password is printed."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from stageflow import RunStatus
from stageflow.cli import cluster as cluster_commands
from stageflow.cli import main
from stageflow.cli import run as run_commands
from stageflow.cluster import JobResult
from stageflow.dlq import DeadLetter, FailureRecord, SQLiteDeadLetterStore
from stageflow.errors import RecordedError
from tests.utils.dead_letters import make_letter

#: Clears the screen, sets the title, reverses the text, and begins a line that looks like ours.
HOSTILE = "\x1b[2J\x1b]0;owned\x07\x9b1m\u202e\x85\u2028\r\nforged: line"

PIPELINES = f"""\
from stageflow import Pipeline, StageOutput, stage

EVIL = {HOSTILE!r}

@stage(outputs=["answer"])
async def talks(ctx):
    return StageOutput.ok(answer=EVIL)

@stage(outputs=[EVIL])
async def writes(ctx):
    return StageOutput.ok(**{{EVIL: EVIL}})

@stage
async def fails(ctx):
    return StageOutput.fail(EVIL)

talking, writing, failing = (Pipeline("p", [s]) for s in (talks, writes, fails))

def broken():
    raise ValueError(EVIL)
"""


def check(capsys: pytest.CaptureFixture[str], *, lines: bool = False) -> str:
    """Assert that the output is harmless, and return it; `lines` allows line breaks of data."""
    captured = capsys.readouterr()
    text = captured.out + captured.err
    assert "forged: line" in text, "the data was printed"
    assert text.replace("\n", "").isprintable(), repr(text)
    assert lines or not [line for line in text.split("\n") if line.startswith("forged: line")]
    return text


@pytest.fixture
def pipelines(module_of: Callable[[str, str], str]) -> str:
    """The name of a module in the current folder with pipelines that print hostile text."""
    return module_of("hostile_pipelines_of_a_test", PIPELINES)


@pytest.fixture
def letters(tmp_path: Path) -> str:
    """A store with one dead letter whose texts are hostile."""
    file = str(tmp_path / "letters.db")
    letter: DeadLetter = replace(
        make_letter(),
        id="3f0c6b",
        pipeline=HOSTILE,
        pipeline_run_id=HOSTILE,
        correlation_id=HOSTILE,
        failed_stage=HOSTILE,
        error=FailureRecord(HOSTILE, "logic", HOSTILE, HOSTILE),
        inputs={HOSTILE: object()},
    )

    async def put() -> None:
        async with SQLiteDeadLetterStore(file) as store:
            await store.put(letter)

    asyncio.run(put())
    return file


@pytest.mark.parametrize("attribute", ["talking", "writing", "failing", "broken"])
@pytest.mark.parametrize("options", [[], ["--json"], ["--live"]])
def test_run(
    attribute: str, options: list[str], pipelines: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Answers, outputs, timelines and errors are harmless; only an answer keeps line breaks."""
    main(["run", f"{pipelines}:{attribute}", *options])
    check(capsys, lines=attribute == "talking")


@pytest.mark.parametrize("form", ["mermaid", "text"])
def test_graph(form: str, pipelines: str, capsys: pytest.CaptureFixture[str]) -> None:
    """So are the names of a graph."""
    assert main(["graph", f"{pipelines}:writing", "--format", form]) == 0
    captured = capsys.readouterr().out
    assert captured.replace("\n", "").isprintable()


@pytest.mark.parametrize(
    "argv",
    [
        ["list"],
        ["list", "--json"],
        ["show", "3f0c6b"],
        ["show", "3f0c6b", "--json"],
        ["replay", "3f0c6b"],
        ["export", "3f0c6b"],
        ["export", "3f0c6b", "--pipeline", "chat"],
    ],
)
def test_dlq(argv: list[str], letters: str, capsys: pytest.CaptureFixture[str]) -> None:
    """So is a dead letter, in every command that prints it."""
    main(["dlq", *argv, "--store", letters])
    check(capsys)


def test_timeline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """So are the events of a file."""
    events = [event.to_dict() for event in make_letter().events]
    events[0]["data"] = {"pipeline": HOSTILE}
    file = tmp_path / "events.jsonl"
    file.write_text("\n".join(map(json.dumps, events)), encoding="utf-8")
    assert main(["timeline", str(file)]) == 0
    check(capsys)


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_dispatch(
    options: list[str],
    pipelines: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So is the result that a worker sends."""
    failure = RecordedError(HOSTILE, "logic", HOSTILE, HOSTILE)
    failed = JobResult(HOSTILE, "p", RunStatus.FAILED, {HOSTILE: HOSTILE}, failure, worker=HOSTILE)

    async def sent(*_: object) -> JobResult:
        return failed

    monkeypatch.setattr(cluster_commands, "_sent", sent)
    main(["dispatch", f"{pipelines}:failing", "--broker", "redis://localhost", *options])
    check(capsys)


def test_the_log_of_a_worker() -> None:
    """A record is one line; the lines of a traceback are harmless."""
    try:
        raise ValueError(HOSTILE)
    except ValueError as error:
        record = logging.LogRecord("n", 30, "", 1, "job %s", (HOSTILE,), (ValueError, error, None))
    first, *rest = (
        cluster_commands.LogFormatter("%(levelname)s %(message)s").format(record).split("\n")
    )
    assert first.startswith("WARNING job ")
    assert "forged: line" in first
    assert all(line.isprintable() for line in [first, *rest])


SECRET = "s3cretpw"


@pytest.mark.parametrize(
    "broker",
    [
        f"redis//:{SECRET}@host:6379/0",
        f"http://me:{SECRET}@host",
        f"redis://:{SECRET}@host:port",
        f"redis://host:6379/0?password={SECRET}&odd=1",
        f"redis://me:{SECRET}#@host",
    ],
)
@pytest.mark.parametrize("command", ["worker", "dispatch"])
def test_the_password_of_a_broker(
    command: str, broker: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """An address that is not valid is reported without its password."""
    assert main([command, "chat", "--broker", broker]) == 1
    captured = capsys.readouterr()
    assert "url is" in captured.err
    assert SECRET not in captured.out + captured.err


@pytest.mark.parametrize(
    "argv",
    [
        ["run", "chat", "--telemetry", f"postgresql//me:{SECRET}@host/runs"],
        ["dlq", "list", "--store", f"postgres:/me:{SECRET}@host/letters"],
    ],
)
def test_the_password_of_a_database(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A mistyped address that is taken for a file is shown without its password."""
    assert main(argv) == 2
    assert SECRET not in capsys.readouterr().err


def test_the_password_of_a_store_of_dead_letters(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command that resumes a stored run names its store without the password."""
    store = SQLiteDeadLetterStore(tmp_path / "letters.db")
    monkeypatch.setattr(run_commands, "letter_store", lambda where: store)
    url = f"postgresql://me:{SECRET}@host/letters"
    assert main(["run", "chat", "--scale", "0", "--inject", "llm=error", "--dlq", url]) == 1
    complaint = capsys.readouterr().err
    assert "--store postgresql://host/letters" in complaint
    assert SECRET not in complaint
