"""A running pipeline under faults, watched by real Prometheus and Alertmanager."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from stageflow import EventDispatcher, EventSink, PipelineContext, PipelineOrchestrator
from stageflow.interceptors import BreakerInterceptor
from stageflow.kernels import KNOWN_USER, default_providers, streaming_voice
from stageflow.providers import speech_of_text
from stageflow.pulse.alerts import Alerts, Email, Kind, Slack, Tls, prometheus
from stageflow.resilience import BreakerPolicy, BreakerRegistry
from stageflow.telemetry import PrometheusSink, serve_metrics
from stageflow.testing import FaultInjector, FaultType, inject_fault
from tests.utils.alert_cases import our_alerts
from tests.utils.mailbox import USER, Mailbox
from tests.utils.prometheus import Servers, servers
from tests.utils.webhook import Webhook

PASSWORD = "a pass word"
#: How long is waited for what has to come, in seconds; what comes is not waited for.
PATIENCE_S = 120.0
WINDOW_S, FOR_S = 5, 3


class Traffic:
    """Streaming voice turns, ten at once, one set after another, under the fault that is set."""

    def __init__(self, dispatcher: EventDispatcher) -> None:
        self.fault: tuple[str, FaultType, dict[str, Any]] | None = None
        self._dispatcher = dispatcher
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=asyncio.run, args=(self._turns(),))

    def __enter__(self) -> Traffic:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    async def _turns(self) -> None:
        registry = default_providers(scale=0.2)
        breaker = BreakerInterceptor(BreakerRegistry(BreakerPolicy(cooldown_s=0.5)))
        orchestrator = PipelineOrchestrator(
            streaming_voice().build(), interceptors=[breaker], dispatcher=self._dispatcher
        )
        inputs = {"audio": speech_of_text("Hello?"), "user_id": KNOWN_USER}
        while not self._stopped.is_set():
            with self._injector() or nullcontext():
                contexts = [PipelineContext(inputs, providers=registry) for _ in range(10)]
                await asyncio.gather(*(orchestrator.run(context) for context in contexts))

    def _injector(self) -> FaultInjector | None:
        if self.fault is None:
            return None
        provider, kind, options = self.fault
        return inject_fault(provider, kind, allow_unused=True, **options)


def hastened(folder: Path, receiver: Webhook, box: Mailbox) -> Alerts:
    """Our rules with seconds for minutes, and channels on this machine.

    Those that look at hours are left out: they would keep the error rate quiet.
    """
    (folder / "webhook").write_text(receiver.url)
    (folder / "password").write_text(PASSWORD)
    kinds = (Kind.LATENCY, Kind.FIRST_AUDIO, Kind.ERROR_RATE, Kind.BREAKER_OPEN)
    ours = our_alerts()
    return replace(
        ours,
        rules=tuple(
            replace(
                rule,
                window_s=WINDOW_S,
                for_s=FOR_S,
                keep_firing_for_s=FOR_S,
                inhibited_by=None,
            )
            for rule in ours.rules
            if rule.kind in kinds
        ),
        slack=Slack("#alerts", str(folder / "webhook")),
        email=Email("127.0.0.1", box.port, Tls.STARTTLS, USER, "on-call@example.org", USER, None),
    )


@dataclass(frozen=True)
class IdleTimeout:
    """Traffic, and the servers that watch it."""

    traffic: Traffic
    servers: Servers


@contextmanager
def watched(
    folder: Path, alerts: Alerts, ca: Path, more: Sequence[EventSink] = ()
) -> Iterator[IdleTimeout]:
    """Traffic whose metrics Prometheus collects each second, with Alertmanager behind it.

    Args:
        folder: Where files and data of the servers go.
        alerts: The rules and channels.
        ca: Who signed the certificate of the mail server.
        more: Further sinks of the traffic's events.
    """
    config = prometheus.alertmanager_file(alerts)
    config["route"] |= {"group_wait": "1s", "group_interval": "1s"}
    for receiver in config["receivers"]:
        for email in receiver.get("email_configs", ()):
            email["auth_password_file"] = str(folder / "password")
            email["tls_config"] = {"ca_file": str(ca)}
    sink = PrometheusSink()
    with EventDispatcher([sink, *more]) as dispatcher, serve_metrics(sink, port=0) as port:
        collect = yaml.safe_load(prometheus.files(alerts)["prometheus.yml"])
        collect["global"]["scrape_interval"] = "1s"
        collect["scrape_configs"][0]["static_configs"][0]["targets"] = [f"127.0.0.1:{port}"]
        rules = prometheus.rules_file(alerts.rules, alerts.links, interval_s=1)
        with Traffic(dispatcher) as traffic, servers(folder, rules, collect, config) as there:
            yield IdleTimeout(traffic, there)


def titles(receiver: Webhook) -> list[str]:
    """Return the arrived messages, by title."""
    return [payload["attachments"][0]["title"] for payload in receiver.payloads]


def wait_for(receiver: Webhook, title: str) -> str:
    """The text of the payload of that title, once it is there."""
    with receiver.arrived:
        found = receiver.arrived.wait_for(lambda: title in titles(receiver), PATIENCE_S)
        assert found, f"{title!r} has not come, only {titles(receiver)}"
    at = titles(receiver).index(title)
    return str(receiver.payloads[at]["attachments"][0]["text"])
