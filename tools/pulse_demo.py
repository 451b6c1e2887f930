"""Show Central Pulse on a running system, with real Prometheus and Alertmanager.

Voice turns run while one provider after another fails. The addresses of Central Pulse, Prometheus
and Alertmanager are printed. Each alert is printed when it arrives at a Slack receiver and at a
mail server on this machine. The rules are those of this repository, with seconds for minutes. The
built-in evaluator runs beside them, minute by minute; Central Pulse shows its alerts.

exit codes: 0, each alert arrived and was resolved; 1, one did not; 2, bad arguments; 130,
interrupted.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stageflow.pulse.alerts import Alerts, AlertState, Evaluator, Links, state_of
from stageflow.pulse.dashboard import PAGE, live_site
from stageflow.pulse.history import AsvProject, address_of, make_server
from stageflow.telemetry import SQLiteSink, TelemetryStore
from stageflow.testing import FaultType
from tests.utils.mailbox import Mailbox, mailbox
from tests.utils.watched import (
    PASSWORD,
    PATIENCE_S,
    IdleTimeout,
    hastened,
    titles,
    wait_for,
    watched,
)
from tests.utils.webhook import Webhook, webhook
from tests.utils.working_copy import working_copy

#: Of the telemetry, so much of the newest end is shown, in seconds.
SHOWN_S = 3600.0


@dataclass(frozen=True)
class Trouble:
    """A fault, and the alert that it has to cause."""

    provider: str
    fault: FaultType
    options: dict[str, Any]
    alert: str


TROUBLES = (
    Trouble("llm", FaultType.ERROR, {}, "ErrorRateHigh"),
    Trouble("stt", FaultType.SLOW, {"duration_ms": 1200}, "FirstAudioOverBudget"),
)


def main() -> int:
    """Run the demonstration; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.pulse_demo",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--port", type=int, default=8766, help="of Central Pulse; 0: a free one")
    parser.add_argument("--once", action="store_true", help="end when each alert has been resolved")
    providers = [trouble.provider for trouble in TROUBLES]
    parser.add_argument("--only", choices=providers, help="let this provider fail, and no other")
    arguments = parser.parse_args()
    # The mail server's library warns of a name of its own.
    logging.getLogger("mail.log").setLevel(logging.ERROR)
    try:
        with tempfile.TemporaryDirectory(prefix="pulse-demo-") as scratch, ExitStack() as opened:
            _demonstrate(Path(scratch), arguments, opened)
    except KeyboardInterrupt:
        _say("Interrupted.")
        return 130
    except AssertionError as error:
        _say(f"✗ {error}")
        return 1
    return 0


def _demonstrate(folder: Path, arguments: argparse.Namespace, opened: ExitStack) -> None:
    receiver = opened.enter_context(webhook())
    box = opened.enter_context(mailbox(PASSWORD, starttls=True))
    ca, store = folder / "ca.pem", folder / "telemetry.db"
    box.ca.cert_pem.write_to_path(str(ca))
    sink = SQLiteSink(store, source="the demonstration")
    page = opened.enter_context(_page(store, arguments.port, folder))
    links = Links(page, page.replace(PAGE, "runbook.html"))
    alerts = replace(hastened(folder, receiver, box), links=links)
    there = opened.enter_context(watched(folder, alerts, ca, [sink]))
    opened.enter_context(_evaluated(store, alerts))
    _say(f"Central Pulse   {page}")
    _say(f"Prometheus      {there.servers.prometheus}/alerts")
    _say(f"Alertmanager    {there.servers.alertmanager}")
    _say("Ten streaming voice turns at once go on all the time. Ctrl-C ends.")
    while True:
        for trouble in TROUBLES:
            if arguments.only not in (None, trouble.provider):
                continue
            _bring_about(trouble, there, receiver, box)
            receiver.payloads.clear()
            box.letters.clear()
        if arguments.once:
            return


@contextmanager
def _page(store: Path, port: int, folder: Path) -> Iterator[str]:
    # What was measured in this clone stays out of it.
    project = AsvProject.load(working_copy(folder / "pulse-demo"))
    site_dir, live = live_site(project, store, SHOWN_S, folder, lambda _: None)
    with make_server(site_dir, port, live) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"{address_of(server)}{PAGE}"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def _evaluated(store: Path, alerts: Alerts) -> Iterator[None]:
    """Evaluate each minute that has passed, for the page."""
    rules = [replace(rule, window_s=60, for_s=0, keep_firing_for_s=0) for rule in alerts.rules]
    stop = threading.Event()

    def evaluate() -> None:
        with TelemetryStore(store) as telemetry, AlertState(state_of(store)) as state:
            evaluator = Evaluator(rules, alerts.links, telemetry, state, ())
            while not stop.wait(1.0):
                evaluator.evaluate(time.time())

    thread = threading.Thread(target=evaluate)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _bring_about(trouble: Trouble, there: IdleTimeout, receiver: Webhook, box: Mailbox) -> None:
    began = time.monotonic()

    def tell(line: str) -> None:
        _say(f"{time.monotonic() - began:6.1f} s  {line}")

    _say("")
    tell(f"trouble: {trouble.provider} {trouble.fault} {trouble.options or ''}".rstrip())
    there.traffic.fault = (trouble.provider, trouble.fault, trouble.options)
    firing = f"FIRING 1: {trouble.alert}"
    text = wait_for(receiver, firing)
    tell(f"✓ arrived at Slack: {firing}")
    for line in text.splitlines():
        _say(f"            {line}")
    assert box.arrived_with(firing, PATIENCE_S), f"no e-mail {firing!r} has come"
    tell(f"✓ arrived by e-mail: {firing}")
    there.traffic.fault = None
    tell(f"the trouble is over: {trouble.provider} answers again")
    wait_for(receiver, f"RESOLVED: {trouble.alert}")
    tell(f"✓ arrived at Slack: RESOLVED: {trouble.alert}")
    others = sorted(set(titles(receiver)) - {firing, f"RESOLVED: {trouble.alert}"})
    if others:
        tell(f"besides: {', '.join(others)}")


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
