"""Tells somebody by e-mail, over SMTP with TLS."""

from __future__ import annotations

import contextlib
import smtplib
import ssl
from email.message import EmailMessage
from email.utils import formatdate, parseaddr

from stageflow.pulse.alerts.channel import DeliveryError
from stageflow.pulse.alerts.notice import Message
from stageflow.pulse.alerts.rules import Email, Tls
from stageflow.pulse.alerts.secret import Secret


class EmailChannel:
    """A `Channel` to one or more addresses; without TLS nothing is sent."""

    name = "email"

    def __init__(
        self, settings: Email, password: Secret | None, context: ssl.SSLContext | None = None
    ) -> None:
        """Choose the server.

        Args:
            settings: Server, user, sender and receivers.
            password: Of the user; None for a server that asks for none.
            context: Whose certificates are trusted; the system's if left out.
        """
        self._settings = settings
        self._password = password
        self._context = context or ssl.create_default_context()

    def send(self, message: Message, number: int, timeout_s: float) -> None:
        """See `Channel`."""
        letter = composed(message, number, self._settings)
        failure = None
        try:
            self._send(letter, timeout_s)
        except (OSError, ValueError, smtplib.SMTPException) as error:
            failure = _failure(error)
        # Raised out here: what a server answers may repeat what it was told.
        if failure is not None:
            raise failure

    def _send(self, letter: EmailMessage, timeout_s: float) -> None:
        host, port = self._settings.host, self._settings.port
        server: smtplib.SMTP
        if self._settings.tls is Tls.TLS:
            server = smtplib.SMTP_SSL(host, port, timeout=timeout_s, context=self._context)
        else:
            server = smtplib.SMTP(host, port, timeout=timeout_s)
        try:
            if self._settings.tls is Tls.STARTTLS:
                # Raises if the server offers none: nothing goes over the wire in the clear.
                server.starttls(context=self._context)
            if self._settings.user is not None and self._password is not None:
                server.login(self._settings.user, self._password.reveal())
            server.send_message(letter)
            # It is there: what goes wrong from now on must not send it again.
            with contextlib.suppress(OSError, smtplib.SMTPException):
                server.quit()
        finally:
            server.close()


def _failure(error: Exception) -> DeliveryError:
    """What is told of an error: what it is and its code, not what the server said."""
    codes = []
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        codes = [code for code, _ in error.recipients.values()]
    elif isinstance(error, smtplib.SMTPResponseException):
        codes = [error.smtp_code]
    said = " ".join(map(str, codes))
    if not codes and not isinstance(error, smtplib.SMTPException) and isinstance(error, OSError):
        said = error.strerror or ""
    final = bool(codes) and all(500 <= code < 600 for code in codes)
    # No TLS on the other side, or a password that cannot be sent: another attempt changes neither.
    final = final or isinstance(error, smtplib.SMTPNotSupportedError | UnicodeError)
    return DeliveryError(f"{type(error).__name__}{f': {said}' if said else ''}", final=final)


def composed(message: Message, number: int, settings: Email) -> EmailMessage:
    """The e-mail; its id is the same however often it is sent, so that a double shows as one."""
    letter = EmailMessage()
    letter["From"] = settings.sender
    letter["To"] = settings.to
    # A name with a line break would be a header of its own.
    letter["Subject"] = " ".join(f"[stageflow] {message.title}".split())
    letter["Date"] = formatdate(message.notices[0].since_s)
    _, _, domain = parseaddr(settings.sender)[1].rpartition("@")
    began = int(min(notice.since_s for notice in message.notices))
    letter["Message-ID"] = f"<stageflow-alert-{began}-{number}@{domain or 'localhost'}>"
    parts = [
        "\n".join(
            [
                f"{notice.status.upper()} {notice.rule}",
                notice.what,
                *notice.lines,
                f"page: {notice.page}",
                f"runbook: {notice.runbook}",
            ]
        )
        for notice in message.notices
    ]
    letter.set_content("\n\n".join(parts) + "\n")
    return letter
