"""From a fault to a person: a running pipeline, Prometheus, Alertmanager, Slack, a mail server."""

from __future__ import annotations

from pathlib import Path

import pytest

from stageflow.testing import FaultType
from tests.utils.mailbox import mailbox
from tests.utils.watched import PASSWORD, PATIENCE_S, hastened, titles, wait_for, watched
from tests.utils.webhook import webhook

pytestmark = pytest.mark.slow


def test_a_fault_arrives_as_slack_payload_and_email(tmp_path: Path) -> None:
    """A fault fires once, says what, where and what to do, and is resolved when it is gone.

    That of a slow recognizer is followed by test_pulse_demo.py.
    """
    with webhook() as receiver, mailbox(PASSWORD, starttls=True) as box:
        ca = tmp_path / "ca.pem"
        box.ca.cert_pem.write_to_path(str(ca))
        alerts = hastened(tmp_path, receiver, box)
        with watched(tmp_path, alerts, ca) as there:
            there.traffic.fault = ("llm", FaultType.ERROR, {})
            failing = wait_for(receiver, "FIRING 1: ErrorRateHigh")
            opened = wait_for(receiver, "FIRING 1: BreakerOpen")
            there.traffic.fault = None
            wait_for(receiver, "RESOLVED: ErrorRateHigh")
            wait_for(receiver, "RESOLVED: BreakerOpen")
            assert box.arrived_with("FIRING 1: ErrorRateHigh", PATIENCE_S)
    assert "of the runs of streaming_voice failed in 5 s, limit 1 %, for 3 s or longer" in failing
    assert "likely stage llm, " in failing
    assert "|page> · <http://127.0.0.1:8765/runbook.html#error-rate|runbook>" in failing
    assert "the circuit breaker of llm is open" in opened
    for rule in alerts.rules:
        states = [title.split()[0].strip(":") for title in titles(receiver) if rule.name in title]
        assert states[::2] == ["FIRING"] * len(states[::2]), "reported twice"
        assert states[1::2] == ["RESOLVED"] * len(states[1::2]), "reported twice"
    (letter,) = [found for found in box.letters if "FIRING 1: ErrorRateHigh" in found["Subject"]]
    assert letter["To"] == "on-call@example.org"
    part = letter.get_body(("plain",))
    assert part is not None
    body = part.get_content()
    assert "of the runs of streaming_voice failed in 5 s, limit 1 %" in body
    assert "runbook: http://127.0.0.1:8765/runbook.html#error-rate" in body
    shown = [path.read_text() for path in tmp_path.glob("*.log")]
    assert not [text for text in shown if "sEcReT" in text or PASSWORD in text]
