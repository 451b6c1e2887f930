"""``stageflow dlq``: list, show, replay, export and delete the dead letters of failed runs."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from stageflow._utils.arguments import flag, not_negative, option
from stageflow._utils.postgres import is_postgres
from stageflow._utils.text import printable, shown_address
from stageflow.cli import common
from stageflow.cli.common import UsageError, complain, say
from stageflow.cli.providers import KERNELS, chosen_providers, load, load_pipeline
from stageflow.cli.run import as_json, report
from stageflow.cli.stores import add_telemetry, letter_store, recorded
from stageflow.codec import DEFAULT_CODEC
from stageflow.dlq import DeadLetterStore, UnreadableDeadLetter, pytest_file, replay
from stageflow.engine import DeadLetter, DeadLetterState, PipelineOrchestrator
from stageflow.errors import DeadLetterClaimedError, DeadLetterError
from stageflow.events.dispatcher import EventDispatcher
from stageflow.telemetry.dead_letters import ObservedDeadLetterStore
from stageflow.timeline import timeline_text

T = TypeVar("T")
STORE_VARIABLE = "STAGEFLOW_DLQ"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the commands of ``stageflow dlq``."""
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(
        name: str, summary: str, run: Callable[[argparse.Namespace], int | None]
    ) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=summary)
        if name in {"show", "export"}:
            added.add_argument("id", metavar="ID", help="id of the dead letter, or its start")
        elif name in {"replay", "delete"}:
            number = "*" if name == "replay" else "+"
            added.add_argument("ids", metavar="ID", nargs=number, help="ids, or their starts")
        text = "the SQLite file, or postgresql://user@host/database (default: the variable"
        default = os.environ.get(STORE_VARIABLE)
        option(added, "--store STORE", f"{text} {STORE_VARIABLE})", default=default)
        if name in {"replay", "export"}:
            text = "voice, chat, or module:attribute; required unless the run was of a kernel"
            option(added, "--pipeline PIPELINE", text)
        added.set_defaults(run=run)
        return added

    added = command("list", "list dead letters, oldest first", _list)
    states = [str(state) for state in DeadLetterState]
    option(added, "--state", "list only those in this state", choices=states)
    common.add_json(added, "one object a line")
    added = command("show", "show a dead letter and its timeline", _show)
    common.add_json(added, "the whole dead letter")
    common.add_color(added)
    summary = "resume the runs of dead letters once each, at the stage that failed"
    added = command("replay", summary, _replay)
    flag(added, "--all", "replay each waiting letter of the pipeline, in order")
    common.add_own_providers(added)
    common.add_scale(added)
    add_telemetry(added)
    common.add_json(added)
    common.add_color(added)
    summary = "write a pytest file that reproduces the failure, or what an unreadable letter holds"
    added = command("export", summary, _export)
    option(added, "-o --output FILE", "write to this file")
    command("delete", "remove dead letters, also unreadable ones", _delete)
    summary = "remove all dead letters of a state, or all that cannot be read"
    added = command("purge", summary, _purge)
    what = added.add_mutually_exclusive_group()
    option(what, "--state", "default: replayed", choices=states, default="replayed")
    flag(what, "--unreadable", "remove those that cannot be read")
    option(added, "--older-than DAYS", "keep younger letters", type=not_negative, default=0.0)
    flag(added, "--dry-run", "only print the ids")


def _with_store(
    arguments: argparse.Namespace, work: Callable[[DeadLetterStore], Awaitable[T]]
) -> T:
    where = arguments.store
    if not where:
        raise UsageError(f"no store is given: add --store FILE or set {STORE_VARIABLE}")
    if not is_postgres(where) and not Path(where).is_file():
        raise UsageError(
            f"there is no file {shown_address(where)}: a run or worker with --dlq FILE creates it"
        )

    async def main() -> T:
        async with letter_store(where, create=False) as store:
            return await work(store)

    log = logging.getLogger("stageflow.dlq")
    level = log.level
    log.setLevel(logging.ERROR)  # the commands name unreadable letters themselves
    try:
        return asyncio.run(main())
    finally:
        log.setLevel(level)


async def _find(beginning: str, store: DeadLetterStore) -> DeadLetter | UnreadableDeadLetter:
    everything: list[DeadLetter | UnreadableDeadLetter] = [*await store.letters()]
    everything += await store.unreadable()
    found = [letter for letter in everything if letter.id.startswith(beginning)]
    if len(found) > 1:
        raise UsageError(f"{len(found)} ids begin with {beginning!r}; give more characters")
    return found[0] if found else await store.get(beginning)


async def _find_readable(beginning: str, store: DeadLetterStore) -> DeadLetter:
    found = await _find(beginning, store)
    return found if isinstance(found, DeadLetter) else await store.get(found.id)


def _list(arguments: argparse.Namespace) -> None:
    state = None if arguments.state is None else DeadLetterState(arguments.state)

    async def work(store: DeadLetterStore) -> tuple[Sequence[Any], Sequence[Any]]:
        return await store.letters(state), await store.unreadable()

    letters, unreadable = _with_store(arguments, work)
    for letter in letters:
        if arguments.json:
            names = ("id", "attempts", "pipeline", "pipeline_run_id", "failed_stage")
            more = {
                "created_at": letter.created_at.isoformat(),
                "state": str(letter.state),
                "error_code": letter.error.code,
                "error_message": letter.error.message,
            }
            common.say_json({name: getattr(letter, name) for name in names} | more, indent=None)
        else:
            say(_line(letter))
    if not letters and not arguments.json:
        say("no dead letters")
    for lost in unreadable:
        complain(printable(f"error: {lost.problem}"))
    if unreadable:
        complain("`stageflow dlq export ID` writes what is stored, `dlq delete ID` removes it")


def _line(letter: DeadLetter) -> str:
    where = letter.failed_stage or "the deadline"
    return printable(
        f"{letter.id}  {letter.created_at:%Y-%m-%d %H:%M:%S}Z  {letter.state:<9}"
        f"  replays: {letter.attempts}  {letter.pipeline}: {where} ({letter.error.code})"
    )


def _show(arguments: argparse.Namespace) -> None:
    letter = _with_store(arguments, partial(_find_readable, arguments.id))
    if arguments.json:
        common.say_json(DEFAULT_CODEC.describe(letter))
        return
    say(_line(letter))
    rows = {
        "error": letter.error.message,
        "user message": letter.error.user_message,
        "run": f"{letter.pipeline_run_id} (correlation id {letter.correlation_id})",
        "replayed by": letter.replay_run_id,
        "inputs": ", ".join(letter.inputs) or "none",
        "outputs": ", ".join(letter.outputs) or "none",
    }
    for name, value in rows.items():
        if value is not None:
            say(f"{name + ':':<15}{printable(value)}")
    for path, lost in letter.unstorable().items():
        why = "so it cannot be replayed" if lost.plain is None else lost.description
        complain(printable(f"{'not stored:':<15}{path} (type {lost.type_name}), {why}"))
    color = common.wants_color(arguments.color)
    for run_id in dict.fromkeys(event.pipeline_run_id for event in letter.events):
        events = [event for event in letter.events if event.pipeline_run_id == run_id]
        say("\n" + timeline_text(events, common.terminal_width(), color=color).rstrip("\n"))


def _replay(arguments: argparse.Namespace) -> int:
    if arguments.all == bool(arguments.ids):
        raise UsageError("give the ids of dead letters, or --all")
    wanted = _imported(arguments)

    async def work(store: DeadLetterStore) -> int:
        letters = [await _find_readable(beginning, store) for beginning in arguments.ids]
        if arguments.all:
            waiting = await store.letters(DeadLetterState.WAITING)
            letters = [letter for letter in waiting if letter.pipeline in wanted]
        failed = 0
        with recorded(arguments.telemetry) as dispatcher:
            observed = ObservedDeadLetterStore(store, dispatcher)
            for letter in letters:
                failed += not await _replay_one(letter, observed, dispatcher, arguments)
        if arguments.all and not arguments.json:
            say(f"{len(letters)} replayed, {failed} of them failed")
        return 1 if failed else 0

    return _with_store(arguments, work)


def _imported(arguments: argparse.Namespace) -> Collection[str]:
    """Import the pipeline, and so the classes of values of letters; return its name."""
    return KERNELS if arguments.pipeline is None else {load_pipeline(arguments.pipeline).name}


async def _replay_one(
    letter: DeadLetter,
    store: DeadLetterStore,
    dispatcher: EventDispatcher,
    arguments: argparse.Namespace,
) -> bool:
    """Replay a letter and report it; return whether its run has completed."""
    pipeline = load_pipeline(_pipeline_name(letter, arguments.pipeline))
    providers = chosen_providers(arguments, letter.seed or 0)
    orchestrator = PipelineOrchestrator(pipeline.build(), dispatcher=dispatcher)
    single = len(arguments.ids) == 1
    try:
        result = await replay(letter, orchestrator, store, providers=providers)
    except DeadLetterError as error:
        if single:
            raise
        complain(printable(f"error: {error}"))
        return False
    if arguments.json:
        common.say_json(as_json(result), indent=2 if single else None)
    elif single:
        report(result, common.wants_color(arguments.color))
    else:
        say(printable(f"{letter.id}  {result.status}  {result.error or ''}".rstrip()))
    return result.failure is None


def _export(arguments: argparse.Namespace) -> None:
    _imported(arguments)
    letter = _with_store(arguments, partial(_find, arguments.id))
    if isinstance(letter, UnreadableDeadLetter):
        complain(printable(f"error: {letter.problem}; this is what is stored"))
        text = letter.body
    else:
        name = _pipeline_name(letter, arguments.pipeline)
        module, _, attribute = name.partition(":")
        line, expression = f"import {module}", f"{module}.{attribute}"
        if name in KERNELS:
            line, expression = f"from stageflow.kernels.{name} import {name}", f"{name}()"
        elif callable(load(name)):
            expression += "()"
        text = pytest_file(letter, import_line=line, pipeline=expression)
    if arguments.output is not None:
        common.write_text(arguments.output, text)
    else:
        say(text.rstrip("\n"))


def _delete(arguments: argparse.Namespace) -> None:
    async def work(store: DeadLetterStore) -> None:
        for found in [await _find(beginning, store) for beginning in arguments.ids]:
            await store.delete(found.id)
            say(printable(f"deleted {found.id}"))

    _with_store(arguments, work)


def _purge(arguments: argparse.Namespace) -> int:
    async def work(store: DeadLetterStore) -> int:
        if arguments.unreadable:
            ids = [letter.id for letter in await store.unreadable()]
        else:
            now, age_s = datetime.now(UTC), arguments.older_than * 86_400
            letters = await store.letters(DeadLetterState(arguments.state))
            ids = [one.id for one in letters if (now - one.created_at).total_seconds() >= age_s]
        if arguments.dry_run:
            say("\n".join([*map(printable, ids), f"{len(ids)} dead letters would be deleted"]))
            return 0
        left = 0
        for dead_letter_id in ids:
            try:
                await store.delete(dead_letter_id)
            except DeadLetterClaimedError as error:
                left += 1
                complain(f"error: {error}")
        say(f"{len(ids) - left} dead letters deleted")
        return 1 if left else 0

    return _with_store(arguments, work)


def _pipeline_name(letter: DeadLetter, given: str | None) -> str:
    if given is None and letter.pipeline not in KERNELS:
        raise UsageError(
            f"the dead letter is of pipeline {letter.pipeline!r}: add --pipeline module:attribute"
        )
    return given if given is not None else letter.pipeline
