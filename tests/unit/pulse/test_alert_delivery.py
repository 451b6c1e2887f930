"""Messages on their way: real receivers, retries, limits of time, and secrets that never show."""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import replace
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest

from stageflow.pulse.alerts import AlertState, DeliveryError, Email, Tls
from stageflow.pulse.alerts.channels import (
    Channel,
    DeliveryPolicy,
    EmailChannel,
    Secret,
    SlackChannel,
    composed,
    deliver,
    in_time,
    payload,
    read_secret,
)
from stageflow.pulse.alerts.conditions import Alert
from stageflow.pulse.alerts.notice import Message, Notice, Status, notice_of
from tests.utils.alert_cases import our_alerts
from tests.utils.errors import raises_code
from tests.utils.mailbox import USER, Mailbox, mailbox
from tests.utils.server import free_port
from tests.utils.webhook import SECRET_PATH, Webhook, webhook

NOTICE = Notice(
    status=Status.FIRING,
    rule="VoiceLatencyOverBudget",
    severity="critical",
    owner="kernels",
    what="P99 latency of voice is 2,030 ms, limit 1,000 ms, for 5 min or longer",
    since_s=1_767_268_800.0,
    until_s=None,
    likely="stage <llm>, P99 2,030 ms",
    page="https://example.org/pulse/",
    runbook="https://example.org/runbook.md#live-latency",
)
MESSAGE = Message((NOTICE,))
PASSWORD = "pÄss-w0rd-sEcReT".replace("Ä", "a")
EMAIL = Email("127.0.0.1", 0, Tls.STARTTLS, USER, "on-call@example.org", USER, "unused")


@pytest.fixture
def receiver() -> Iterator[Webhook]:
    """A receiver of webhooks."""
    with webhook() as running:
        yield running


@pytest.fixture
def box() -> Iterator[Mailbox]:
    """A mail server with STARTTLS."""
    with mailbox(PASSWORD, starttls=True) as running:
        yield running


def email_channel(box: Mailbox, password: str = PASSWORD, tls: Tls = Tls.STARTTLS) -> EmailChannel:
    """A channel to a mail server."""
    settings = replace(EMAIL, port=box.port, tls=tls)
    return EmailChannel(settings, Secret(password), box.context)


class Clock:
    """A clock that only goes on while somebody pauses."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.pauses: list[float] = []

    def __call__(self) -> float:
        return self.now_s

    def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now_s += seconds


def delivered(
    folder: Path, channel: Channel, *, until_s: float = 1e9, policy: DeliveryPolicy | None = None
) -> tuple[Clock, list[str], AlertState]:
    """Put a message for a channel into a new state, and deliver it."""
    clock, said, state = Clock(), list[str](), AlertState(folder / "state.db")
    state.put(MESSAGE, [channel.name], clock())
    how = policy or DeliveryPolicy()
    deliver(
        *(state, [channel], until_s), clock=clock, pause=clock.pause, emit=said.append, policy=how
    )
    return clock, said, state


def test_slack_payload_says_everything(receiver: Webhook, tmp_path: Path) -> None:
    """Cause, value, start, the likely stage and both links arrive, each in its field."""
    channel = SlackChannel(Secret(receiver.url), "#alerts")
    _, said, state = delivered(tmp_path, channel)
    state.close()
    (sent,) = receiver.payloads
    assert sent["channel"] == "#alerts"
    assert sent["text"] == "FIRING 1: VoiceLatencyOverBudget"
    assert sent["attachments"][0]["text"] == (
        "P99 latency of voice is 2,030 ms, limit 1,000 ms, for 5 min or longer\n"
        "since 2026-01-01 12:00 UTC\n"
        "likely stage &lt;llm&gt;, P99 2,030 ms\n"
        "critical, owner kernels\n"
        "<https://example.org/pulse/|page> · <https://example.org/runbook.md#live-latency|runbook>"
    )
    assert said == ["delivered by slack: FIRING 1: VoiceLatencyOverBudget"]


def test_slack_payload_has_bounds() -> None:
    """A storm of alerts is one message that Slack still takes, and says how many it left out."""
    sent = payload(Message((NOTICE,) * 33), "#alerts")
    assert len(sent["attachments"]) == 20
    assert sent["text"].endswith("(and 13 more)")


def test_failed_deliveries_are_tried_again(receiver: Webhook, tmp_path: Path) -> None:
    """Pauses double, a wish of the receiver is granted, and the message arrives once."""
    page = {"Answer": " <!doctype html><title>Log in to the network</title>"}
    receiver.answers = [(500, {}), (200, page), (429, {"Retry-After": "30"})]
    clock, said, state = delivered(tmp_path, SlackChannel(Secret(receiver.url), "#alerts"))
    assert clock.pauses == [2.0, 4.0, 30.0]
    assert said[0].startswith("not delivered by slack (HTTP 500), is tried again:")
    assert said[1].startswith("not delivered by slack (a web page answered, not a webhook), is")
    assert said[-1] == "delivered by slack: FIRING 1: VoiceLatencyOverBudget"
    assert state.next_due(["slack"]) is None
    assert state.dead() == ()
    state.close()
    assert len(receiver.payloads) == 4


def test_undeliverable_messages_are_given_up(receiver: Webhook, tmp_path: Path) -> None:
    """After the limit of time a message is a dead letter, with the reason of its last attempt."""
    receiver.answers = [(500, {})] * 99
    policy = DeliveryPolicy(give_up_s=100.0)
    clock, said, state = delivered(
        tmp_path, SlackChannel(Secret(receiver.url), "#alerts"), policy=policy
    )
    # 2 + 4 + 8 + 16 + 32 are 62 seconds, and 64 more would be too many.
    assert clock.pauses == [2.0, 4.0, 8.0, 16.0, 32.0]
    (dead,) = state.dead()
    assert (dead.message, dead.error, dead.attempts) == (MESSAGE, "HTTP 500", 6)
    assert "given up" in said[-1]
    state.close()


@pytest.mark.parametrize("code", [301, 400, 403, 404, 410])
def test_final_answers_are_not_tried_again(receiver: Webhook, tmp_path: Path, code: int) -> None:
    """A webhook that is gone, refuses or points elsewhere is asked once, and nowhere else."""
    receiver.answers = [(code, {"Location": receiver.url})]
    _, _, state = delivered(tmp_path, SlackChannel(Secret(receiver.url), "#alerts"))
    assert [dead.error for dead in state.dead()] == [f"HTTP {code}"]
    state.close()
    assert len(receiver.payloads) == 1


def test_a_stop_ends_a_delivery_in_its_pause(receiver: Webhook, tmp_path: Path) -> None:
    """Messages that are not delivered by then stay in the state, to be tried when they are due."""
    receiver.answers = [(500, {})]
    clock, said = Clock(), list[str]()
    stop = threading.Event()

    def pause(seconds: float) -> bool:
        assert not stop.is_set(), "it went on after the stop"
        stop.set()
        return stop.wait(seconds)

    channel = SlackChannel(Secret(receiver.url), "#alerts")
    with AlertState(tmp_path / "state.db") as state:
        state.put(MESSAGE, [channel.name], clock())
        deliver(state, [channel], 1e9, clock=clock, pause=pause, emit=said.append)
        assert state.next_due(["slack"]) == 1002.0
    assert len(said) == len(receiver.payloads) == 1


def test_what_is_due_later_is_left(receiver: Webhook, tmp_path: Path) -> None:
    """One look does not wait longer than it may; the next one goes on."""
    receiver.answers = [(500, {})]
    channel = SlackChannel(Secret(receiver.url), "#alerts")
    clock, said, state = delivered(tmp_path, channel, until_s=1001.0)
    assert clock.pauses == []
    assert state.next_due(["slack"]) == 1002.0
    clock.now_s = 1002.0
    deliver(state, [channel], 1002.0, clock=clock, pause=clock.pause, emit=said.append)
    state.close()
    assert [line.partition(" by")[0] for line in said] == ["not delivered", "delivered"]


@pytest.mark.parametrize(
    ("starttls", "tls"), [(True, Tls.STARTTLS), (False, Tls.TLS), (None, Tls.NONE)]
)
def test_email_arrives(tmp_path: Path, starttls: bool | None, tls: Tls) -> None:
    """With TLS of either kind or without it, with a password; the letter says everything."""
    with mailbox(PASSWORD, starttls=starttls) as box:
        _, said, state = delivered(tmp_path, email_channel(box, tls=tls))
        state.close()
    assert said == ["delivered by email: FIRING 1: VoiceLatencyOverBudget"]
    (letter,) = box.letters
    assert letter["Subject"] == "[stageflow] FIRING 1: VoiceLatencyOverBudget"
    assert (letter["From"], letter["To"]) == (USER, "on-call@example.org")
    assert letter.get_content().splitlines() == [
        "FIRING VoiceLatencyOverBudget",
        "P99 latency of voice is 2,030 ms, limit 1,000 ms, for 5 min or longer",
        "since 2026-01-01 12:00 UTC",
        "likely stage <llm>, P99 2,030 ms",
        "critical, owner kernels",
        "page: https://example.org/pulse/",
        "runbook: https://example.org/runbook.md#live-latency",
    ]


def test_email_is_not_sent_in_the_clear(tmp_path: Path) -> None:
    """A server without TLS, or with an unknown certificate, receives nothing."""
    with mailbox(PASSWORD, starttls=True) as box:
        stranger = EmailChannel(replace(EMAIL, port=box.port), Secret(PASSWORD))
        _, said, state = delivered(tmp_path, stranger, until_s=0.0)
        state.close()
        assert "SSLCertVerificationError" in said[0]
    with socket.create_server(("127.0.0.1", 0)) as server:
        seen: list[bytes] = []
        thread = threading.Thread(target=_plain_server, args=(server, seen))
        thread.start()
        settings = replace(EMAIL, port=server.getsockname()[1])
        with pytest.raises(DeliveryError, match="SMTPNotSupportedError") as raised:
            EmailChannel(settings, Secret(PASSWORD)).send(MESSAGE, 1, 10.0)
        thread.join()
    assert raised.value.final
    assert box.letters == []
    assert b"AUTH" not in b"".join(seen)
    assert b"MAIL" not in b"".join(seen)


def _plain_server(server: socket.socket, seen: list[bytes]) -> None:
    """A mail server that knows no TLS."""
    connection, _ = server.accept()
    with connection, connection.makefile("rb") as lines:
        connection.sendall(b"220 plain\r\n")
        for line in lines:
            seen.append(line)
            connection.sendall(b"250 AUTH PLAIN\r\n" if line[:1] in b"Ee" else b"221 bye\r\n")


@pytest.mark.parametrize(("answer", "final"), [("451 later", False), ("550 never", True)])
def test_email_answers_decide_on_retries(box: Mailbox, answer: str, final: bool) -> None:
    """A mail server's 4xx is tried again, its 5xx is not."""
    box.answers = [answer]
    with pytest.raises(DeliveryError) as raised:
        email_channel(box).send(MESSAGE, 1, 10.0)
    assert raised.value.final is final
    assert str(raised.value) == f"SMTPDataError: {answer[:3]}"


@pytest.mark.parametrize(("answer", "final"), [("450 later", False), ("550 never", True)])
def test_a_receiver_that_is_refused_is_named(box: Mailbox, answer: str, final: bool) -> None:
    """The others get the letter once, however often the one that was refused is tried again."""
    box.refused = {"gone@example.org": answer}
    settings = replace(EMAIL, port=box.port, to="Here <here@example.org>, gone@example.org")
    channel = EmailChannel(settings, Secret(PASSWORD), box.context)
    with pytest.raises(DeliveryError, match=f"{answer[:3]} gone@example.org") as raised:
        channel.send(MESSAGE, 1, 10.0)
    assert raised.value.final is final
    box.refused = {}
    channel.send(MESSAGE, 1, 10.0)
    assert [letter["X-Taken-For"] for letter in box.letters] == [
        "here@example.org",
        "gone@example.org",
    ]


def test_email_says_when_and_that_a_program_wrote_it() -> None:
    """Its date is that of sending, not of the alert; mail programs send no automatic answer."""
    letter = composed(MESSAGE, 1, EMAIL)
    assert abs(parsedate_to_datetime(letter["Date"]).timestamp() - time.time()) < 60
    assert letter["Auto-Submitted"] == "auto-generated"


def test_email_to_a_domain_in_any_script() -> None:
    """Such a domain is written in ASCII, so that every server takes it."""
    settings = replace(
        EMAIL, to="Ops <ops@b\u00fccher.example>, b@example.org", sender="a@m\u00fc.de"
    )
    letter = composed(MESSAGE, 1, settings)
    assert letter["To"] == "Ops <ops@xn--bcher-kva.example>, b@example.org"
    assert letter["From"] == "a@xn--m-eha.de"


def test_email_is_ascii_in_short_lines() -> None:
    """For names and texts of any kind; a comma in a name does not make two receivers of one."""
    notice = replace(NOTICE, rule="Täst 😀", what="é" * 3000)
    receiver = '"O\'Brien, Ünal" <b@example.org>'
    letter = composed(Message((notice,)), 1, replace(EMAIL, to=receiver))
    lines = letter.as_bytes().splitlines()
    assert b"".join(lines).isascii()
    assert max(map(len, lines)) < 79
    (line,) = (line for line in lines if line.startswith(b"To: "))
    assert b"," not in line


def test_no_text_is_longer_than_a_message_holds() -> None:
    """Names of pipelines may be of any length."""
    alert = Alert("R", (), 1.0, 2.0, None, 3.0, "l" * 4_000_000, what="w" * 4_000_000)
    notice = notice_of(our_alerts().rules[0], alert, our_alerts().links)
    assert len(json.dumps(payload(Message((notice,)), "#a"))) < 6_000


def test_email_of_one_message_has_one_id() -> None:
    """A message that is sent twice shows as one mail; a line break adds no header."""
    first, again, other = (composed(MESSAGE, number, EMAIL) for number in (1, 1, 2))
    assert first["Message-ID"] == again["Message-ID"] != other["Message-ID"]
    nasty = Message((replace(NOTICE, rule="X\nBcc: everyone@example.org"),))
    letter = composed(nasty, 1, EMAIL)
    assert letter["Subject"] == "[stageflow] FIRING 1: X Bcc: everyone@example.org"
    assert letter["Bcc"] is None


def test_attempt_that_never_ends_is_left(tmp_path: Path) -> None:
    """A receiver that sends a byte now and then does not hold the evaluator for ever."""
    release = threading.Event()

    def wait() -> None:
        release.wait()

    with pytest.raises(DeliveryError, match=r"took longer than 0.01 s"):
        in_time(wait, 0.01)
    release.set()


def test_receiver_that_is_silent_is_left(tmp_path: Path) -> None:
    """A receiver that takes the connection and says nothing costs one limit of time."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}{SECRET_PATH}"
        with pytest.raises(DeliveryError, match="TimeoutError"):
            SlackChannel(Secret(url), "#alerts").send(MESSAGE, 1, 0.05)


class Meddler:
    """A channel during whose attempt another process looks for messages, too."""

    name = "slack"

    def __init__(self, state: Path, clock: Clock) -> None:
        self.given: list[object] = []
        self._state = state
        self._clock = clock

    def send(self, message: Message, number: int, timeout_s: float) -> None:
        """Take nothing long, but be asked for the same message meanwhile."""
        with AlertState(self._state) as other:
            self.given.append(other.take(["slack"], self._clock() + timeout_s, 60.0))


def test_message_that_is_on_its_way_is_not_sent_by_another(tmp_path: Path) -> None:
    """While an attempt may still succeed, no second evaluator makes one of its own."""
    clock = Clock()
    meddler = Meddler(tmp_path / "state.db", clock)
    with AlertState(tmp_path / "state.db") as state:
        state.put(MESSAGE, ["slack"], clock())
        deliver(state, [meddler], 1e9, clock=clock, pause=clock.pause, emit=print)
    assert meddler.given == [None]


def assert_hidden(
    error: DeliveryError, channel: Channel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The secret is neither in an error and all its context, nor in what is said and kept."""
    assert error.__context__ is None
    _, said, state = delivered(tmp_path, channel, until_s=0.0)
    state.close()
    shown = [*map(str, (error, channel.__dict__, said, caplog.text)), repr(error)]
    shown += traceback.format_exception(error)
    shown += [path.read_bytes().decode("latin-1") for path in tmp_path.iterdir()]
    assert not [text for text in shown if "sEcReT" in text]


@pytest.mark.parametrize("answer", [(500, {}), (404, {}), (302, {"Location": SECRET_PATH}), None])
def test_webhook_never_shows(
    receiver: Webhook,
    tmp_path: Path,
    answer: tuple[int, dict[str, str]] | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Neither in an error with all its context, nor in what is said, logged or kept in a file."""
    caplog.set_level(logging.DEBUG)
    receiver.answers = [answer] if answer else []
    url = receiver.url if answer else f"http://127.0.0.1:{free_port()}{SECRET_PATH}"
    channel = SlackChannel(Secret(url), "#alerts")
    with pytest.raises(DeliveryError) as raised:
        channel.send(MESSAGE, 1, 10.0)
    receiver.answers = [answer] if answer else []
    assert_hidden(raised.value, channel, tmp_path, caplog)


@pytest.mark.parametrize("problem", ["wrong password", "password that cannot be sent", "no server"])
def test_password_never_shows(
    box: Mailbox, tmp_path: Path, problem: str, caplog: pytest.LogCaptureFixture
) -> None:
    """As that of the webhook, also where the password itself is what is wrong."""
    caplog.set_level(logging.DEBUG)
    password = "sEcReT-Ä\udc80" if problem.startswith("password") else "sEcReT"
    channel = email_channel(box, password)
    if problem == "no server":
        channel = EmailChannel(replace(EMAIL, port=free_port()), Secret(password))
    with pytest.raises(DeliveryError) as raised:
        channel.send(MESSAGE, 1, 10.0)
    if problem == "no server":
        assert str(raised.value) == f"ConnectionRefusedError: {os.strerror(errno.ECONNREFUSED)}"
    assert raised.value.final is (problem != "no server")
    assert_hidden(raised.value, channel, tmp_path, caplog)


def test_secrets_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable comes first, then the file that a variable names, then the file of the rules."""
    for name in ("one", "two"):
        (tmp_path / name).write_text(f" {name}\n")
    monkeypatch.delenv("S", raising=False)
    monkeypatch.delenv("S_FILE", raising=False)
    assert read_secret("S", str(tmp_path / "one")).text == "one"
    monkeypatch.setenv("S_FILE", str(tmp_path / "two"))
    assert read_secret("S", str(tmp_path / "one")).text == "two"
    monkeypatch.setenv("S", "three")
    assert read_secret("S", None).text == "three"


def test_missing_secrets_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing, empty or unreadable secret is an error that says where it was looked for."""
    monkeypatch.delenv("S", raising=False)
    monkeypatch.delenv("S_FILE", raising=False)
    with raises_code("pulse_alert_secret", match="set S or S_FILE"):
        read_secret("S", None)
    with raises_code("pulse_alert_secret", match=r"nowhere cannot be read \(No such file"):
        read_secret("S", str(tmp_path / "nowhere"))
    (tmp_path / "empty").write_text("\n")
    with raises_code("pulse_alert_secret", match="empty is empty: write"):
        read_secret("S", str(tmp_path / "empty"))
    monkeypatch.setenv("S", "  ")
    with raises_code("pulse_alert_secret", match="the variable S is empty"):
        read_secret("S", None)


@pytest.mark.parametrize(
    "address",
    ["hooks.slack.com/sEcReT", "http://example.org/sEcReT", "file:///sEcReT", "https://[x"],
)
def test_unsafe_webhooks_are_refused(address: str) -> None:
    """An address that is none, or would be sent to in the clear, is refused without showing it."""
    with raises_code("pulse_alert_secret", match="does not begin with https://") as raised:
        SlackChannel(Secret(address), "#alerts")
    assert "sEcReT" not in "".join(traceback.format_exception(raised.value))
