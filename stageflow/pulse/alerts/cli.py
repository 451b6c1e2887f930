"""``stageflow pulse alert`` evaluates rules and notifies; ``rules`` writes Prometheus' files."""

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

from stageflow._utils.arguments import flag, option
from stageflow.errors import StageflowError
from stageflow.pulse.alerts import channels as delivery
from stageflow.pulse.alerts.channels import Channel, deliver
from stageflow.pulse.alerts.evaluator import Evaluator
from stageflow.pulse.alerts.notice import Message, Notice, Status
from stageflow.pulse.alerts.prometheus import files
from stageflow.pulse.alerts.regressions import HistoryWatch
from stageflow.pulse.alerts.rules import ALERTS_FILE, DEFAULT, Alerts, load_alerts, moment
from stageflow.pulse.alerts.state import AlertState, state_of
from stageflow.pulse.arguments import Add, add_store, emit
from stageflow.pulse.errors import PulseError
from stageflow.pulse.history import AsvProject
from stageflow.telemetry import Place, TelemetryStore

WEBHOOK_VARIABLE = "STAGEFLOW_SLACK_WEBHOOK"
PASSWORD_VARIABLE = "STAGEFLOW_SMTP_PASSWORD"  # noqa: S105 - the name of a variable
#: How long to wait for messages that have to be tried again, in seconds.
PATIENCE_S = 30.0
#: Evaluates rules at a time in seconds since the epoch, and returns the message that follows.
Look = Callable[[float], Message | None]


class AlertExit(IntEnum):
    """The exit codes of ``stageflow pulse alert``, besides errors and interrupts."""

    QUIET = 0
    FIRING = 3
    UNDELIVERED = 4


def add_commands(add: Add) -> None:
    """Add the commands."""
    rules = f"the rules (default: benchmarks/{ALERTS_FILE}, or else rules for every pipeline)"
    parser = add("rules", "write Prometheus' files", _generate, in_repository=False)
    option(parser, "--rules FILE", rules, type=Path)
    text = "where to write (default: %(default)s)"
    option(parser, "--into FOLDER", text, type=Path, default=Path("docs/ops"))
    flag(parser, "--check", "only compare, write nothing")

    def run(arguments: argparse.Namespace) -> int:
        if not (arguments.store or arguments.benchmarks):
            parser.error("name what to evaluate: --store FILE, --benchmarks, or both")
        if arguments.test and not arguments.to:
            parser.error("--test sends a message: add --to email or --to slack")
        return _alert(arguments)

    parser = add("alert", "evaluate alert rules and notify", run)
    add_store(parser, "evaluate this telemetry")
    flag(parser, "--benchmarks", "evaluate the history of the benchmarks")
    option(parser, "--rules FILE", rules, type=Path)
    text = "the state (default: the store's name with .alerts before its ending, or .asv/alerts.db)"
    option(parser, "--state FILE", text, type=Path)
    often = parser.add_mutually_exclusive_group()
    flag(often, "--once", "evaluate once (the default)")
    option(often, "--every S", "evaluate every S seconds, until interrupted", type=_seconds)
    flag(often, "--dead", "print messages that were given up")
    flag(often, "--resend", "deliver the messages that were given up")
    flag(often, "--test", "send one test message")
    channels, text = ("slack", "email"), "also notify there; may be repeated"
    option(parser, "--to", text, action="append", choices=channels, default=[])


def _alert(arguments: argparse.Namespace) -> int:
    alerts = load_alerts(_rules_of(arguments))
    channels = _channels(alerts, arguments.to)
    if arguments.test:
        return _test(alerts, channels)
    stop = threading.Event()
    if arguments.every:
        for number in (signal.SIGINT, signal.SIGTERM):
            # What is under way is completed first.
            signal.signal(number, lambda *_: stop.set())
    manages = arguments.dead or arguments.resend
    with ExitStack() as opened:
        store = None
        if arguments.store and not manages:
            # Before the state: nothing is created beside a store that does not exist.
            store = opened.enter_context(TelemetryStore(arguments.store))
        state = opened.enter_context(AlertState(_state_of(arguments)))
        send = partial(deliver, state, channels, clock=time.time, pause=stop.wait, emit=emit)
        if arguments.dead:
            for dead in state.dead():
                tried = f"{dead.attempts} attempts, the last: {dead.error}"
                emit(f"{moment(dead.created_s)} {dead.channel} {dead.message.title} ({tried})")
            return _code(state)
        if arguments.resend:
            emit(f"{state.revive(time.time())} messages wait again")
        else:
            for rule in (alerts.benchmark, *alerts.rules):
                if rule is not None and time.time() < rule.silent_until_s:
                    until = moment(rule.silent_until_s)
                    emit(f"silent until {until}: {rule.name} ({rule.silent_because})")
            looks = _looks(arguments, alerts, state, [c.name for c in channels], store)
            _watch(looks, send, arguments.every, stop)
            return AlertExit.QUIET if arguments.every else _code(state)
        send(time.time() + PATIENCE_S)
        return _code(state)


def _test(alerts: Alerts, channels: Sequence[Channel]) -> int:
    """Send a test message by each channel, without the state: a failure is not tried again."""
    about = "Test", "warning", "you", "this is a test, nothing is wrong", time.time(), None
    links = alerts.links.page, alerts.links.runbook
    message = Message((Notice(Status.FIRING, *about, "", *links),))
    code = AlertExit.QUIET
    for channel in channels:
        try:
            channel.send(message, 0, delivery.DeliveryPolicy().step_s)
        except delivery.DeliveryError as error:
            emit(f"not delivered by {channel.name} ({error})")
            code = AlertExit.UNDELIVERED
        else:
            emit(f"delivered by {channel.name}: {message.title}")
    return code


def _rules_of(arguments: argparse.Namespace) -> Path:
    given = arguments.rules or Path("benchmarks", ALERTS_FILE)
    return given if arguments.rules or given.exists() else DEFAULT


def _state_of(arguments: argparse.Namespace) -> Path:
    store: Place | None = arguments.store
    if arguments.state is not None:
        return Path(arguments.state)
    if isinstance(store, Path):
        return state_of(store)
    folder: Path = arguments.repository / ".asv"
    if store is None and not folder.is_dir():
        raise PulseError(
            f"{folder} does not exist, so nothing has been measured there: run stageflow pulse "
            "bench, or name another clone with --repository"
        )
    folder.mkdir(exist_ok=True)
    return folder / "alerts.db" if store is None else state_of(store, arguments.repository)


def _looks(
    arguments: argparse.Namespace,
    alerts: Alerts,
    state: AlertState,
    channels: Sequence[str],
    store: TelemetryStore | None,
) -> list[Look]:
    looks: list[Look] = []
    if store:
        looks.append(Evaluator(alerts.rules, alerts.links, store, state, channels).evaluate)
    if arguments.benchmarks:
        if alerts.benchmark is None:
            raise PulseError(f"{arguments.rules} has no [[alert]] of kind benchmark: write one")
        project = AsvProject.load(arguments.repository, reads_only=True)
        if not project.branch:
            raise PulseError(f"{project.root} has no asv.conf.json: run this in a clone")
        watch = HistoryWatch(alerts.benchmark, alerts.links, project, state, channels)
        looks.append(watch.evaluate)
    return looks


def _channels(alerts: Alerts, names: Sequence[str]) -> list[Channel]:
    channels: list[Channel] = []
    for name in dict.fromkeys(names):
        if name == "slack" and alerts.slack:
            webhook = delivery.read_secret(WEBHOOK_VARIABLE, alerts.slack.webhook_file)
            channels.append(delivery.SlackChannel(webhook, alerts.slack.channel))
        elif name == "email" and alerts.email:
            password = None
            if alerts.email.user is not None:
                password = delivery.read_secret(PASSWORD_VARIABLE, alerts.email.password_file)
            channels.append(delivery.EmailChannel(alerts.email, password))
        else:
            raise PulseError(f"--to {name}: add a table [{name}] to your {ALERTS_FILE} (--rules)")
    return channels


def _watch(
    looks: Sequence[Look],
    send: Callable[[float], None],
    every_s: float | None,
    stop: threading.Event,
) -> None:
    """Evaluate and deliver once, or until `stop` is set; a failure does not end the other steps."""
    patience_s = min(PATIENCE_S, every_s / 2) if every_s else PATIENCE_S
    steps: list[Callable[[], None]] = [partial(_look, look) for look in looks]
    steps.append(lambda: send(time.time() + patience_s))
    while not stop.is_set():
        next_s = time.monotonic() + (every_s or 0.0)
        failure: Exception | None = None
        for step in steps:
            try:
                step()
            except Exception as error:
                failure = error
                if every_s:
                    kind = "" if isinstance(error, StageflowError) else f"{type(error).__name__}: "
                    emit(f"error: {kind}{error}")
        if not every_s:
            if failure:
                raise failure
            return
        stop.wait(max(0.0, next_s - time.monotonic()))


def _look(look: Look) -> None:
    message = look(time.time())
    for notice in message.notices if message else ():
        emit(f"{notice.status.upper()} {notice.rule}: {notice.what}")
        for line in (*notice.lines, f"runbook: {notice.runbook}"):
            emit(f"  {line}")


def _code(state: AlertState) -> int:
    if state.dead():
        return AlertExit.UNDELIVERED
    firing = any(alert.firing_s is not None for alert in state.alerts().values())
    return AlertExit.FIRING if firing else AlertExit.QUIET


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 1 <= seconds <= 86_400:
        raise argparse.ArgumentTypeError(f"{text} is not between 1 and 86,400 seconds")
    return seconds


def _generate(arguments: argparse.Namespace) -> None:
    made = files(load_alerts(_rules_of(arguments))).items()
    texts = {arguments.into / name: text for name, text in made}
    if arguments.check:
        outdated = [
            path.name
            for path, text in texts.items()
            if not path.exists() or path.read_text("utf-8") != text
        ]
        if outdated:
            raise PulseError(
                f"missing or outdated in {arguments.into}: {', '.join(outdated)}; "
                "write them again with stageflow pulse rules"
            )
        return
    arguments.into.mkdir(parents=True, exist_ok=True)
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")
        emit(f"wrote {path}")
