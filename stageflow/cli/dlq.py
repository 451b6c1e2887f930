"""``stageflow dlq``: the dead letters of failed runs: list, show, replay, export."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from stageflow.cli.errors import UsageError
from stageflow.cli.load import KERNELS, load, load_pipeline
from stageflow.cli.options import (
    Commands,
    add_color,
    add_scale,
    complain,
    described,
    say,
    terminal_width,
    wants_color,
    write_text,
)
from stageflow.cli.providers import own_providers
from stageflow.cli.run import as_json, report
from stageflow.cli.stores import letter_store
from stageflow.cli.telemetry import add_telemetry, recorded
from stageflow.dlq.codec import DEFAULT_CODEC
from stageflow.dlq.export import pytest_file
from stageflow.dlq.replay import replay
from stageflow.dlq.store import DeadLetterStore
from stageflow.kernels.defaults import default_providers
from stageflow.letter import DeadLetter, LetterState
from stageflow.orchestrator import PipelineOrchestrator
from stageflow.postgres_url import is_postgres
from stageflow.telemetry.letters import ObservedLetterStore
from stageflow.timeline import timeline_text

T = TypeVar("T")

STORE_VARIABLE = "STAGEFLOW_DLQ"

_LIST_EXAMPLES = """\
  stageflow run voice --deadline-s 0.2 --dlq letters.db     a run that fails, and is kept
  stageflow dlq list --store letters.db
  STAGEFLOW_DLQ=letters.db stageflow dlq list --state waiting --json
"""
_SHOW_EXAMPLES = """\
  stageflow dlq show 3f0c6b --store letters.db      the first digits of an id will do
  stageflow dlq show 3f0c6b --store letters.db --json
"""
_REPLAY_EXAMPLES = """\
  stageflow dlq replay 3f0c6b --store letters.db
  stageflow dlq replay 3f0c6b --pipeline shop.turns:order --providers shop.services:real
"""
_EXPORT_EXAMPLES = """\
  stageflow dlq export 3f0c6b --store letters.db > test_3f0c6b.py && pytest test_3f0c6b.py
  stageflow dlq export 3f0c6b --store letters.db --pipeline shop.turns:order -o test_order.py
"""


def add_commands(commands: Commands) -> None:
    """Add the command ``dlq`` with its own commands."""
    dlq = described(
        commands,
        "dlq",
        "the dead letters of runs that failed for good: list, show, replay, export",
        _LIST_EXAMPLES + _SHOW_EXAMPLES + _REPLAY_EXAMPLES + _EXPORT_EXAMPLES,
    )
    inner = dlq.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_list(inner)
    parser = _about_one(inner, "show", "show a dead letter and its timeline", _SHOW_EXAMPLES)
    parser.add_argument("--json", action="store_true", help="print all of it as JSON instead")
    add_color(parser)
    parser.set_defaults(run=_show)
    _add_replay(inner)
    parser = _about_one(
        inner, "export", "write a pytest file that reproduces the failure", _EXPORT_EXAMPLES
    )
    _add_pipeline_option(parser)
    parser.add_argument("-o", "--output", metavar="FILE", help="write to a file instead")
    parser.set_defaults(run=_export)


def _add_list(commands: Commands) -> None:
    parser = described(commands, "list", "list dead letters, the oldest first", _LIST_EXAMPLES)
    _add_store(parser)
    parser.add_argument(
        "--state", choices=[str(state) for state in LetterState], help="only those in this state"
    )
    parser.add_argument("--json", action="store_true", help="print them as JSON, one a line")
    parser.set_defaults(run=_list)


def _add_replay(commands: Commands) -> None:
    parser = _about_one(
        commands,
        "replay",
        "resume the run of a dead letter at the stage that failed, once",
        _REPLAY_EXAMPLES,
    )
    _add_pipeline_option(parser)
    parser.add_argument(
        "--providers",
        metavar="MODULE:ATTRIBUTE",
        help="a ProviderRegistry, or a function that returns one (default: the fake providers)",
    )
    add_scale(parser)
    add_telemetry(parser)
    parser.add_argument("--json", action="store_true", help="print the result as JSON instead")
    add_color(parser)
    parser.set_defaults(run=_replay)


def _about_one(
    commands: Commands, name: str, summary: str, examples: str
) -> argparse.ArgumentParser:
    parser = described(commands, name, summary, examples)
    parser.add_argument("id", metavar="ID", help="id of the letter, or how it begins")
    _add_store(parser)
    return parser


def _add_store(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--store",
        metavar="STORE",
        default=os.environ.get(STORE_VARIABLE),
        help="the file with the dead letters, or postgresql://user@host/database (default: the"
        f" variable {STORE_VARIABLE})",
    )


def _add_pipeline_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--pipeline",
        metavar="PIPELINE",
        help="voice, chat, or module:attribute; needed unless the letter is of voice or chat",
    )


# ── what they do ────────────────────────────────────────────────────────────────────────────


def _with_store(
    arguments: argparse.Namespace, work: Callable[[DeadLetterStore], Awaitable[T]]
) -> T:
    if not arguments.store:
        raise UsageError(f"no store is given; add --store FILE, or set {STORE_VARIABLE}")
    if not is_postgres(arguments.store) and not Path(arguments.store).is_file():
        raise UsageError(f"there is no file {arguments.store}; stageflow run --dlq FILE makes one")

    async def main() -> T:
        async with letter_store(arguments.store, create=False) as store:
            return await work(store)

    return asyncio.run(main())


async def _find(store: DeadLetterStore, beginning: str) -> DeadLetter:
    found = [letter for letter in await store.letters() if letter.id.startswith(beginning)]
    if len(found) > 1:
        raise UsageError(f"{len(found)} ids begin with {beginning!r}; give more of it")
    return found[0] if found else await store.get(beginning)


def _list(arguments: argparse.Namespace) -> int:
    state = None if arguments.state is None else LetterState(arguments.state)
    letters = _with_store(arguments, lambda store: store.letters(state))
    for letter in letters:
        say(json.dumps(_summary(letter)) if arguments.json else _line(letter))
    if not letters and not arguments.json:
        say("no dead letters")
    return 0


def _summary(letter: DeadLetter) -> dict[str, Any]:
    return {
        "id": letter.id,
        "created_at": letter.created_at.isoformat(),
        "state": str(letter.state),
        "attempts": letter.attempts,
        "pipeline": letter.pipeline,
        "pipeline_run_id": letter.pipeline_run_id,
        "failed_stage": letter.failed_stage,
        "error_code": letter.error.code,
        "error_message": letter.error.message,
    }


def _line(letter: DeadLetter) -> str:
    where = letter.failed_stage or "the deadline"
    return (
        f"{letter.id}  {letter.created_at:%Y-%m-%d %H:%M:%S}Z  {letter.state:<9}"
        f"  {letter.attempts} tried  {letter.pipeline}: {where} ({letter.error.code})"
    )


def _show(arguments: argparse.Namespace) -> int:
    letter = _with_store(arguments, lambda store: _find(store, arguments.id))
    if arguments.json:
        say(json.dumps(DEFAULT_CODEC.describe(letter), indent=2, ensure_ascii=False))
        return 0
    say(_line(letter))
    say(f"error:         {letter.error.message}")
    say(f"user was told: {letter.error.user_message}")
    say(f"run:           {letter.pipeline_run_id} (correlation id {letter.correlation_id})")
    if letter.replay_run_id is not None:
        say(f"replayed by:   {letter.replay_run_id}")
    say(f"inputs:        {', '.join(letter.inputs) or 'none'}")
    say(f"kept outputs:  {', '.join(letter.outputs) or 'none'}")
    for path, lost in letter.unstorable().items():
        complain(f"not stored:    {path} (of type {lost.type_name}), so it cannot be replayed")
    color = wants_color(arguments.color)
    for run_id in dict.fromkeys(event.pipeline_run_id for event in letter.events):
        events = [event for event in letter.events if event.pipeline_run_id == run_id]
        say("\n" + timeline_text(events, terminal_width(), color=color).rstrip("\n"))
    return 0


def _replay(arguments: argparse.Namespace) -> int:
    async def work(store: DeadLetterStore) -> int:
        letter = await _find(store, arguments.id)
        pipeline = load_pipeline(_pipeline_name(letter, arguments.pipeline))
        providers = (
            default_providers(seed=letter.seed or 0, scale=arguments.scale)
            if arguments.providers is None
            else own_providers(arguments.providers)
        )
        with recorded(arguments.telemetry) as dispatcher:
            orchestrator = PipelineOrchestrator(pipeline.build(), dispatcher=dispatcher)
            observed = ObservedLetterStore(store, dispatcher)
            result = await replay(letter, orchestrator, observed, providers=providers)
        if arguments.json:
            say(json.dumps(as_json(result), indent=2, ensure_ascii=False))
        else:
            report(result, wants_color(arguments.color))
        return 0 if result.failure is None else 1

    return _with_store(arguments, work)


def _export(arguments: argparse.Namespace) -> int:
    letter = _with_store(arguments, lambda store: _find(store, arguments.id))
    name = _pipeline_name(letter, arguments.pipeline)
    load_pipeline(name)
    module, _, attribute = name.partition(":")
    if name in KERNELS:
        line, expression = f"from stageflow.kernels.{name} import {name}", f"{name}()"
    else:
        call = "()" if callable(load(name)) else ""
        line, expression = f"import {module}", f"{module}.{attribute}{call}"
    text = pytest_file(letter, import_line=line, pipeline=expression)
    if arguments.output is not None:
        write_text(arguments.output, text)
    else:
        say(text.rstrip("\n"))
    return 0


def _pipeline_name(letter: DeadLetter, given: str | None) -> str:
    if given is None and letter.pipeline not in KERNELS:
        raise UsageError(
            f"the letter is of pipeline {letter.pipeline!r}; say where it is, with"
            " --pipeline module:attribute"
        )
    return given if given is not None else letter.pipeline
