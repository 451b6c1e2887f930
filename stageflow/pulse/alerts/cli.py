"""``stageflow pulse alert``: looks, tells, and remembers whom it has told what."""

from __future__ import annotations

import argparse
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from enum import IntEnum
from functools import partial
from pathlib import Path

from stageflow.errors import StageflowError
from stageflow.pulse.alerts.arguments import add_rules
from stageflow.pulse.alerts.benchmarks import HistoryWatch
from stageflow.pulse.alerts.channel import Channel
from stageflow.pulse.alerts.deliver import Delivery
from stageflow.pulse.alerts.evaluator import Evaluator
from stageflow.pulse.alerts.mail import EmailChannel
from stageflow.pulse.alerts.notice import Message, Notice, Status
from stageflow.pulse.alerts.rules import Alerts, load
from stageflow.pulse.alerts.secret import read_secret
from stageflow.pulse.alerts.slack import SlackChannel
from stageflow.pulse.alerts.state import AlertState
from stageflow.pulse.alerts.words import moment
from stageflow.pulse.arguments import add_repository, add_store
from stageflow.pulse.central.alerts import state_of
from stageflow.pulse.errors import PulseError
from stageflow.pulse.project import AsvProject
from stageflow.telemetry.place import Place, open_store

WEBHOOK_VARIABLE = "STAGEFLOW_SLACK_WEBHOOK"
PASSWORD_VARIABLE = "STAGEFLOW_SMTP_PASSWORD"  # noqa: S105 - the name of a variable

#: How long one look waits for messages that have to be tried again, in seconds.
PATIENCE_S = 30.0

Emit = Callable[[str], None]

#: Looks once, at the time that it is given, and returns what there is to tell.
Look = Callable[[float], Message | None]

_ALERT_HELP = """\
Evaluate the rules of benchmarks/alerts.toml on a file of telemetry, on the history of the
benchmarks, or on both, and tell what fires and what is over. What has been told is remembered, so
that nobody is told twice, however often this is started. docs/alerting.md tells how to set it up.

examples:
  stageflow pulse alert --benchmarks                           regressions of this repository
  stageflow pulse alert --store runs.db                        look once, and print
  stageflow pulse alert --store runs.db --every 60 --to slack  keep looking, and tell Slack
  stageflow pulse alert --store runs.db --to slack --test      see whether a message arrives
  stageflow pulse alert --store runs.db --dead                 what could not be delivered

exit codes:
  0    nothing fires
  1    the telemetry, the rules, the state or a secret cannot be read; the last line says the mend
  2    bad arguments
  3    something fires
  4    a message could not be delivered, and was given up: see --dead, and --resend
  130  interrupted
"""


class AlertExit(IntEnum):
    """What ``stageflow pulse alert`` ends with, besides errors and interrupts."""

    QUIET = 0
    FIRING = 3
    UNDELIVERED = 4


def add_command(command: Callable[..., argparse.ArgumentParser], emit: Emit) -> None:
    """Add the command; it sets ``run``, called with the parsed arguments."""
    parser = command("alert", help="what is wrong now; tell somebody", description=_ALERT_HELP)
    add_store(parser, "look at this telemetry")
    parser.add_argument(
        "--benchmarks", action="store_true", help="look at the history of the benchmarks"
    )
    add_repository(parser)
    add_rules(parser)
    parser.add_argument(
        "--state",
        type=Path,
        metavar="FILE",
        help="what has been told (default: the store's name with .alerts before its ending, or"
        " .asv/alerts.db)",
    )
    often = parser.add_mutually_exclusive_group()
    often.add_argument("--once", action="store_true", help="look once (the default)")
    often.add_argument(
        "--every", type=_seconds, metavar="S", help="look each S seconds, until interrupted"
    )
    often.add_argument("--dead", action="store_true", help="print what could not be delivered")
    often.add_argument("--resend", action="store_true", help="deliver that now")
    often.add_argument("--test", action="store_true", help="send a message that says it is a test")
    parser.add_argument(
        "--to",
        action="append",
        choices=("slack", "email"),
        default=[],
        help="tell it there, too; may be repeated",
    )

    def run(arguments: argparse.Namespace) -> int:
        if not (arguments.store or arguments.benchmarks):
            parser.error("say what to look at: --store FILE, --benchmarks, or both")
        return alert(arguments, emit)

    parser.set_defaults(run=run)


def alert(arguments: argparse.Namespace, emit: Emit) -> int:
    """Do what the arguments say; returns the exit code.

    Raises:
        PulseError: The rules, the state or a secret cannot be read.
        TelemetryFileError: The telemetry cannot be read.
    """
    alerts = load(arguments.rules)
    channels = channels_of(alerts, arguments.to)
    stop = _stop_at_signals() if arguments.every else threading.Event()
    with ExitStack() as opened:
        state = opened.enter_context(AlertState(_state_of(arguments)))
        delivery = Delivery(state, channels, clock=time.time, pause=stop.wait, say=emit)
        if arguments.dead:
            return _show_dead(state, emit)
        if arguments.resend:
            emit(f"{state.revive(time.time())} messages wait again")
        elif arguments.test:
            state.put(_test_message(alerts), [channel.name for channel in channels], time.time())
        else:
            looks = _looks(arguments, alerts, state, [c.name for c in channels], opened)
            if arguments.every:
                return _watch(looks, delivery, arguments.every, stop, emit)
            for look in looks:
                _look(look, emit)
        delivery.run(time.time() + PATIENCE_S)
        return _code(state)


def _state_of(arguments: argparse.Namespace) -> Path:
    given: Path | None = arguments.state
    store: Place | None = arguments.store
    if given is not None:
        return given
    if isinstance(store, Path):
        return state_of(store)
    folder: Path = arguments.repository / ".asv"
    if not folder.is_dir():
        raise PulseError(
            f"{folder} does not exist, so nothing has been measured there: run stageflow pulse "
            "bench, or name another clone with --repository"
        )
    return folder / "alerts.db" if store is None else state_of(store, arguments.repository)


def _looks(
    arguments: argparse.Namespace,
    alerts: Alerts,
    state: AlertState,
    channels: Sequence[str],
    opened: ExitStack,
) -> list[Look]:
    """What there is to look at; a store that was opened for it is closed with `opened`."""
    looks: list[Look] = []
    if arguments.store:
        store = opened.enter_context(open_store(arguments.store))
        looks.append(Evaluator(alerts.rules, alerts.links, store, state, channels).evaluate)
    if arguments.benchmarks:
        if alerts.benchmark is None:
            raise PulseError(f"{arguments.rules} has no [[alert]] of kind benchmark: write one")
        project = AsvProject.load(arguments.repository)
        watch = HistoryWatch(alerts.benchmark, alerts.links, project, state, channels)
        looks.append(watch.evaluate)
    return looks


def channels_of(alerts: Alerts, names: Sequence[str]) -> list[Channel]:
    """The channels of those names, with their secrets.

    Raises:
        PulseError: One is not set up, or its secret cannot be read.
    """
    channels: list[Channel] = []
    for name in dict.fromkeys(names):
        if name == "slack" and alerts.slack:
            webhook = read_secret(WEBHOOK_VARIABLE, alerts.slack.webhook_file)
            channels.append(SlackChannel(webhook, alerts.slack.channel))
        elif name == "email" and alerts.email:
            asks = alerts.email.user is not None
            password = read_secret(PASSWORD_VARIABLE, alerts.email.password_file) if asks else None
            channels.append(EmailChannel(alerts.email, password))
        else:
            raise PulseError(f"--to {name}: the file of rules has no table [{name}]; write it")
    return channels


def _watch(
    looks: Sequence[Look],
    delivery: Delivery,
    every_s: float,
    stop: threading.Event,
    emit: Emit,
) -> int:
    """Look again and again; whatever goes wrong is told, and the next look is made all the same."""
    patience_s = min(PATIENCE_S, every_s / 2)
    steps: list[Callable[[], None]] = [partial(_look, look, emit) for look in looks]
    steps.append(lambda: delivery.run(time.time() + patience_s))
    while not stop.is_set():
        next_s = time.monotonic() + every_s
        for step in steps:
            try:
                step()
            except StageflowError as error:
                emit(f"error: {error}")
        stop.wait(max(0.0, next_s - time.monotonic()))
    return AlertExit.QUIET


def _stop_at_signals() -> threading.Event:
    """An event that an interrupt or a termination sets: what is under way ends in good order."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    return stop


def _look(look: Look, emit: Emit) -> None:
    _tell(look(time.time()), emit)


def _tell(message: Message | None, emit: Emit) -> None:
    for notice in message.notices if message else ():
        emit(f"{notice.status.upper()} {notice.rule}: {notice.what}")
        for line in (*notice.lines, f"runbook: {notice.runbook}"):
            emit(f"  {line}")


def _show_dead(state: AlertState, emit: Emit) -> int:
    for dead in state.dead():
        tried = f"{dead.attempts} attempts, the last: {dead.error}"
        emit(f"{moment(dead.created_s)} {dead.channel} {dead.message.title} ({tried})")
    return _code(state)


def _code(state: AlertState) -> int:
    if state.dead():
        return AlertExit.UNDELIVERED
    firing = any(alert.firing_s is not None for alert in state.alerts().values())
    return AlertExit.FIRING if firing else AlertExit.QUIET


def _test_message(alerts: Alerts) -> Message:
    notice = Notice(
        status=Status.FIRING,
        rule="Test",
        severity="warning",
        owner="whoever reads this",
        what="this is a test, nothing is wrong",
        since_s=time.time(),
        until_s=None,
        likely="",
        page=alerts.links.page,
        runbook=alerts.links.runbook,
    )
    return Message((notice,))


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 1 <= seconds <= 86_400:
        raise argparse.ArgumentTypeError(f"{text} is not between 1 and 86,400 seconds")
    return seconds
