"""Deliver messages that wait in the state, by e-mail and to Slack."""

from __future__ import annotations

import contextlib
import html
import http.client
import json
import os
import smtplib
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.utils import formatdate, getaddresses, parseaddr
from functools import partial
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from stageflow.pulse.alerts.notice import Message, Notice, Status
from stageflow.pulse.alerts.rules import LOOPBACK, Email, Tls, mailboxes
from stageflow.pulse.alerts.state import AlertState
from stageflow.pulse.errors import PulseError
from stageflow.resilience.classification import retry_after_s


class DeliveryError(PulseError, code="pulse_alert_delivery"):
    """A message did not arrive; the text says why and holds no secret.

    If `final`, another attempt would fail, too. The receiver may ask to wait `retry_after_s`.
    """

    def __init__(
        self, why: str, *, final: bool = False, retry_after_s: float | None = None
    ) -> None:
        super().__init__(why)
        self.final = final
        self.retry_after_s = retry_after_s


class Channel(Protocol):
    """A way to send messages."""

    name: str

    def send(self, message: Message, number: int, timeout_s: float) -> None:
        """Send a message once; each step may take `timeout_s` seconds.

        `number` is the same in all attempts. Raise `DeliveryError` unless it has surely arrived.
        """


def _safely(work: Callable[[], object]) -> None:
    """Call `work`, and raise its errors as `DeliveryError`, without their text.

    The text may hold the address of the webhook, or an answer of the server that repeats a secret.
    """
    failure = None
    try:
        work()
    except (OSError, ValueError, http.client.HTTPException, smtplib.SMTPException) as error:
        failure = _failure(error)
    # Not raised above, so that the error is not its context.
    if failure is not None:
        raise failure


def _failure(error: Exception) -> DeliveryError:
    name, detail, final, pause_s = type(error).__name__, "", False, None
    if isinstance(error, urllib.error.HTTPError):
        error.close()
        name, detail, pause_s = "HTTP", str(error.code), retry_after_s(error.headers)
        final = error.code < 500 and error.code not in _PASSING
    elif isinstance(error, smtplib.SMTPRecipientsRefused | smtplib.SMTPResponseException):
        refused = getattr(error, "recipients", None) or {"": (getattr(error, "smtp_code", 0), b"")}
        detail = ", ".join(f"{code} {to}".strip() for to, (code, _) in refused.items())
        final = all(500 <= code < 600 for code, _ in refused.values())
    elif isinstance(error, smtplib.SMTPNotSupportedError | UnicodeError):
        final = True  # the server has no TLS, or the password cannot be encoded
    elif not isinstance(error, smtplib.SMTPException):
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        name = type(reason).__name__
        detail = (isinstance(reason, OSError) and reason.strerror) or ""
    separator = " " if name == "HTTP" else ": " if detail else ""
    return DeliveryError(f"{name}{separator}{detail}", final=final, retry_after_s=pause_s)


@dataclass(frozen=True, slots=True)
class Secret:
    """A text that `str` and `repr` hide, so that no log and no error shows it."""

    text: str = field(repr=False)


def read_secret(variable: str, file: str | None) -> Secret:
    """Return a secret from a variable, the file that ``<variable>_FILE`` names, or else `file`."""
    refuse = partial(PulseError, code="pulse_alert_secret")
    value, origin = os.environ.get(variable), f"the variable {variable}"
    if value is None:
        path = os.environ.get(f"{variable}_FILE", file)
        if path is None:
            raise refuse(f"a secret is missing: set {variable} or {variable}_FILE")
        origin = path
        try:
            value = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
            raise refuse(
                f"{path} cannot be read ({why}): write the secret into it, or set {variable}"
            ) from None
    if not value.strip():
        raise refuse(f"{origin} is empty: write the secret into it")
    return Secret(value.strip())


_COLOURS = {"critical": "#b3261e", "warning": "#b26a00"}
_OVER = "#2e7d32"
#: Slack shows at most this many attachments.
_NOTICES = 20
#: Answers below 500 after which another attempt may succeed: too slow, too early, too many.
_PASSING = frozenset({408, 425, 429})


class SlackChannel:
    """A `Channel` to an incoming webhook of Slack, or to any server that takes its payload."""

    name = "slack"

    def __init__(self, webhook: Secret, channel: str) -> None:
        """Choose webhook and channel; newer webhooks belong to one channel and ignore its name."""
        if not _is_safe(webhook):
            raise PulseError(
                "the address of the Slack webhook does not begin with https://: copy it as a whole",
                code="pulse_alert_secret",
            )
        self._webhook = webhook
        self._channel = channel

    def send(self, message: Message, number: int, timeout_s: float) -> None:
        request = urllib.request.Request(  # noqa: S310 - the scheme was checked
            self._webhook.text,
            data=json.dumps(payload(message, self._channel)).encode(),
            headers={"Content-Type": "application/json", "User-Agent": "stageflow"},
        )

        def post() -> None:
            with _OPENER.open(request, timeout=timeout_s) as answer:
                if answer.read(1024).lstrip().startswith(b"<"):
                    raise DeliveryError("a web page answered, not a webhook")

        _safely(post)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Follow no redirect: a message must not go to another address."""


_OPENER = urllib.request.build_opener(_NoRedirect)


def _is_safe(webhook: Secret) -> bool:
    try:
        parts = urlsplit(webhook.text)
        local = parts.hostname in LOOPBACK
    except ValueError:
        return False
    return bool(parts.hostname) and (parts.scheme == "https" or (parts.scheme == "http" and local))


def payload(message: Message, channel: str) -> dict[str, Any]:
    """Return what is sent to Slack."""
    more = len(message.notices) - _NOTICES
    return {
        "channel": channel,
        "text": escaped(message.title) + (f" (and {more} more)" if more > 0 else ""),
        "attachments": [_attachment(notice) for notice in message.notices[:_NOTICES]],
    }


def _attachment(notice: Notice) -> dict[str, Any]:
    links = f"<{notice.page}|page> · <{notice.runbook}|runbook>"
    return {
        "color": _OVER if notice.status is Status.RESOLVED else _COLOURS[notice.severity],
        "title": f"{notice.status.upper()} {notice.rule}",
        "title_link": notice.page,
        "fallback": escaped(notice.what),
        "text": "\n".join([*map(escaped, (notice.what, *notice.lines)), links]),
        "mrkdwn_in": ["text"],
    }


#: Escapes a text, so that Slack does not read names of pipelines as markup.
escaped = partial(html.escape, quote=False)


class EmailChannel:
    """A `Channel` to e-mail addresses, over SMTP, with TLS unless the server is on this machine."""

    name = "email"

    def __init__(
        self, settings: Email, password: Secret | None, context: ssl.SSLContext | None = None
    ) -> None:
        self._settings = settings
        self._password = password
        self._context = context or ssl.create_default_context()
        #: The addresses that have not taken a message, by its number.
        self._receivers: dict[int, list[str]] = {}

    def send(self, message: Message, number: int, timeout_s: float) -> None:
        letter = composed(message, number, self._settings)
        everyone = [address for _, address in getaddresses([letter["To"]])]
        receivers = self._receivers.setdefault(number, everyone)
        _safely(lambda: self._send(letter, receivers, timeout_s))
        del self._receivers[number]

    def _send(self, letter: EmailMessage, receivers: list[str], timeout_s: float) -> None:
        host, port = self._settings.host, self._settings.port
        server: smtplib.SMTP
        if self._settings.tls is Tls.TLS:
            server = smtplib.SMTP_SSL(host, port, timeout=timeout_s, context=self._context)
        else:
            server = smtplib.SMTP(host, port, timeout=timeout_s)
        try:
            if self._settings.tls is Tls.STARTTLS:
                # Raises if the server has no TLS: nothing is sent in the clear.
                server.starttls(context=self._context)
            if self._settings.user is not None and self._password is not None:
                server.login(self._settings.user, self._password.text)
            refused = server.send_message(letter, to_addrs=receivers)
            # The message has arrived: an error from here on must not send it again.
            with contextlib.suppress(OSError, smtplib.SMTPException):
                server.quit()
        finally:
            server.close()
        if refused:
            # Others have it: only these get another attempt.
            receivers[:] = refused
            raise smtplib.SMTPRecipientsRefused(refused)


def composed(message: Message, number: int, settings: Email) -> EmailMessage:
    """Return the e-mail; its id is the same in each attempt, so that clients detect a duplicate."""
    letter = EmailMessage()
    letter["From"], letter["To"] = mailboxes(settings.sender), mailboxes(settings.to)
    letter["Auto-Submitted"] = "auto-generated"
    # A line break in a name must not begin another header.
    letter["Subject"] = " ".join(f"[stageflow] {message.title}".split())
    letter["Date"] = formatdate()
    _, _, domain = parseaddr(letter["From"])[1].rpartition("@")
    began = int(min(notice.since_s for notice in message.notices))
    letter["Message-ID"] = f"<stageflow-alert-{began}-{number}@{domain or 'localhost'}>"
    parts = []
    for notice in message.notices:
        heading = f"{notice.status.upper()} {notice.rule}"
        links = f"page: {notice.page}", f"runbook: {notice.runbook}"
        parts.append("\n".join([heading, notice.what, *notice.lines, *links]))
    # In ASCII and short lines, which every server takes.
    letter.set_content("\n\n".join(parts) + "\n", cte="quoted-printable")
    return letter


@dataclass(frozen=True, slots=True)
class DeliveryPolicy:
    """How often and how long to try; the pause doubles with each attempt."""

    step_s: float = 10.0
    attempt_s: float = 20.0
    pause_s: float = 2.0
    longest_pause_s: float = 300.0
    give_up_s: float = 3600.0


def deliver(
    state: AlertState,
    channels: Sequence[Channel],
    until_s: float,
    *,
    clock: Callable[[], float],
    pause: Callable[[float], object],
    emit: Callable[[str], None],
    policy: DeliveryPolicy = DeliveryPolicy(),
) -> None:
    """Deliver the messages that wait in a state and are due by `until_s`.

    A true result of `pause` ends the delivery. `emit` gets a line about each attempt, without
    secrets.
    """
    by_name = {channel.name: channel for channel in channels}
    while True:
        # Longer than an attempt takes: no other process tries the message meanwhile.
        waiting = state.take(by_name, clock(), 2 * policy.attempt_s)
        if waiting is None:
            due_s = state.next_due(by_name)
            if due_s is None or max(due_s, clock()) > until_s or pause(due_s - clock()):
                return
            continue
        channel, message = by_name[waiting.channel], waiting.message
        try:
            in_time(partial(channel.send, message, waiting.id, policy.step_s), policy.attempt_s)
        except DeliveryError as error:
            usual_s = policy.pause_s * 2.0 ** min(waiting.attempts - 1, 30)
            pause_s = max(min(usual_s, policy.longest_pause_s), error.retry_after_s or 0.0)
            due_s = clock() + pause_s
            given_up = error.final or due_s - waiting.created_s > policy.give_up_s
            state.failed(waiting, str(error), None if given_up else due_s)
            then = "given up, see --dead" if given_up else "is tried again"
            emit(f"not delivered by {channel.name} ({error}), {then}: {message.title}")
        else:
            state.delivered(waiting)
            emit(f"delivered by {channel.name}: {message.title}")


def in_time(work: Callable[[], None], limit_s: float) -> None:
    """Call `work`, and raise `DeliveryError` after `limit_s` seconds.

    The limits of sockets are for one read or write, so a slow server could hold us for ever. Late
    work goes on in its thread until its next such limit.
    """
    errors: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=guarded, name="stageflow-alert", daemon=True)
    thread.start()
    thread.join(limit_s)
    if thread.is_alive():
        raise DeliveryError(f"took longer than {limit_s:g} s")
    if errors:
        raise errors[0]
