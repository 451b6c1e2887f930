"""From a fault to a person: a running pipeline, Prometheus, Alertmanager, Slack, a mail server."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from stageflow import EventDispatcher, PipelineContext, PipelineOrchestrator
from stageflow.breaker import BreakerPolicy, BreakerRegistry
from stageflow.interceptors import BreakerInterceptor
from stageflow.kernels.defaults import KNOWN_USER, default_providers
from stageflow.kernels.voice import voice
from stageflow.providers.fake import speech_of_text
from stageflow.pulse.alerts import alertmanager, prometheus
from stageflow.pulse.alerts.rules import Alerts, Email, Kind, Slack, Tls
from stageflow.telemetry.prometheus import PrometheusSink, serve
from stageflow.testing.faults import FaultInjector, FaultType, inject_fault
from tests.utils.alert_cases import our_alerts
from tests.utils.mailbox import USER, Mailbox, mailbox
from tests.utils.prometheus import servers
from tests.utils.webhook import Webhook, webhook

PASSWORD = "a pass word"
#: How long a test waits for what has to come, in seconds; what comes is not waited for.
PATIENCE_S = 120.0
WINDOW_S, FOR_S = 5, 3


class Traffic:
    """Voice turns, ten at once, one set after another, under the fault that is set."""

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
            voice().build(), interceptors=[breaker], dispatcher=self._dispatcher
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
        return inject_fault(provider, kind, **options)


def hastened(folder: Path, receiver: Webhook, box: Mailbox) -> Alerts:
    """Our rules with seconds for minutes, and channels on this machine.

    Those that look at hours are left out: they would keep the error rate quiet.
    """
    (folder / "webhook").write_text(receiver.url)
    (folder / "password").write_text(PASSWORD)
    kinds = (Kind.LATENCY, Kind.ERROR_RATE, Kind.BREAKER_OPEN)
    ours = our_alerts()
    return replace(
        ours,
        rules=tuple(
            replace(rule, window_s=WINDOW_S, for_s=FOR_S, inhibited_by=None)
            for rule in ours.rules
            if rule.kind in kinds
        ),
        slack=Slack("#alerts", str(folder / "webhook")),
        email=Email("127.0.0.1", box.port, Tls.STARTTLS, USER, "on-call@example.org", USER, None),
    )


@contextmanager
def watched(folder: Path, alerts: Alerts, ca: Path) -> Iterator[Traffic]:
    """Traffic whose metrics Prometheus collects each second, with Alertmanager behind it."""
    config = alertmanager.config_file(alerts, group_wait_s=1, group_interval_s=1)
    for receiver in config["receivers"]:
        for email in receiver.get("email_configs", ()):
            email["auth_password_file"] = str(folder / "password")
            email["tls_config"] = {"ca_file": str(ca)}
    sink = PrometheusSink()
    with EventDispatcher([sink]) as dispatcher, serve(sink, port=0) as port:
        collect = prometheus.config_file(scrape_s=1)
        collect["scrape_configs"][0]["static_configs"][0]["targets"] = [f"127.0.0.1:{port}"]
        rules = prometheus.rules_file(alerts.rules, alerts.links, interval_s=1)
        with Traffic(dispatcher) as traffic, servers(folder, rules, collect, config):
            yield traffic


def titles(receiver: Webhook) -> list[str]:
    """What has arrived so far, by its title."""
    return [payload["attachments"][0]["title"] for payload in receiver.payloads]


def wait_for(receiver: Webhook, title: str) -> str:
    """The text of the payload of that title, once it is there."""
    with receiver.arrived:
        found = receiver.arrived.wait_for(lambda: title in titles(receiver), PATIENCE_S)
        assert found, f"{title!r} has not come, only {titles(receiver)}"
    at = titles(receiver).index(title)
    return str(receiver.payloads[at]["attachments"][0]["text"])


def test_faults_arrive_as_slack_payload_and_email(tmp_path: Path) -> None:
    """Each fault fires once, says what, where and what to do, and is resolved when it is gone."""
    with webhook() as receiver, mailbox(PASSWORD, starttls=True) as box:
        ca = tmp_path / "ca.pem"
        box.ca.cert_pem.write_to_path(str(ca))
        alerts = hastened(tmp_path, receiver, box)
        with watched(tmp_path, alerts, ca) as traffic:
            traffic.fault = ("llm", FaultType.ERROR, {})
            failing = wait_for(receiver, "FIRING 1: ErrorRateHigh")
            opened = wait_for(receiver, "FIRING 1: BreakerOpen")
            traffic.fault = None
            wait_for(receiver, "RESOLVED: ErrorRateHigh")
            wait_for(receiver, "RESOLVED: BreakerOpen")
            traffic.fault = ("stt", FaultType.SLOW, {"duration_ms": 1200})
            slow = wait_for(receiver, "FIRING 1: VoiceLatencyOverBudget")
            traffic.fault = None
            wait_for(receiver, "RESOLVED: VoiceLatencyOverBudget")
            assert box.arrived_with("FIRING 1: VoiceLatencyOverBudget", PATIENCE_S)
    assert "of the runs of voice failed in 5 s, limit 1 %, for 3 s or longer" in failing
    assert "likely stage llm, " in failing
    assert "|page> · <https://stageflow.example/docs/runbook.md#error-rate|runbook>" in failing
    assert "the circuit breaker of llm is open" in opened
    assert "P99 latency of voice is " in slow
    assert "likely stage stt, P99 " in slow
    for rule in alerts.rules:
        states = [title.split()[0].strip(":") for title in titles(receiver) if rule.name in title]
        assert states[::2] == ["FIRING"] * len(states[::2]), "told twice"
        assert states[1::2] == ["RESOLVED"] * len(states[1::2]), "told twice"
    (letter,) = [found for found in box.letters if "FIRING 1: ErrorRateHigh" in found["Subject"]]
    assert letter["To"] == "on-call@example.org"
    part = letter.get_body(("plain",))
    assert part is not None
    body = part.get_content()
    assert "of the runs of voice failed in 5 s, limit 1 %" in body
    assert "runbook: https://stageflow.example/docs/runbook.md#error-rate" in body
    shown = [path.read_text() for path in tmp_path.glob("*.log")]
    assert not [text for text in shown if "sEcReT" in text or PASSWORD in text]
