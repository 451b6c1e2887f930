"""A mail server on this machine, with TLS and a password, that keeps what it is sent."""

from __future__ import annotations

import asyncio
import logging
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage

import trustme
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

USER = "alerts@example.org"


@dataclass
class Mailbox:
    """The letters that have arrived, and the server's address.

    Attributes:
        letters: The letters that have arrived, in order.
        port: The port of the server, on 127.0.0.1.
        ca: The authority that signed its certificate.
        password: The password of `USER`.
        answers: Replies to the next letters, instead of accepting them.
        refused: Replies to receivers, by address.
    """

    ca: trustme.CA
    password: str
    port: int = 0
    letters: list[EmailMessage] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    arrived: threading.Condition = field(default_factory=threading.Condition)

    @property
    def context(self) -> ssl.SSLContext:
        """Trusts its certificate, and no other."""
        context = ssl.create_default_context()
        self.ca.configure_trust(context)
        return context

    def arrived_with(self, subject: str, patience_s: float) -> bool:
        """Whether a letter with that in its subject is there, or comes in time."""
        with self.arrived:
            return self.arrived.wait_for(
                lambda: any(subject in letter["Subject"] for letter in self.letters), patience_s
            )

    def authenticate(
        self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: object
    ) -> AuthResult:
        """Whether user and password are right."""
        assert isinstance(data, LoginPassword)
        given = data.login.decode(), data.password.decode()
        return AuthResult(success=given == (USER, self.password), handled=False)

    async def handle_RCPT(  # noqa: N802
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        """Take or refuse a receiver."""
        if address in self.refused:
            return self.refused[address]
        envelope.rcpt_tos.append(address)
        return "250 fine"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        """Take a letter."""
        if not session.authenticated:
            return "530 who are you?"
        if self.answers:
            return self.answers.pop(0)
        content = envelope.content
        assert isinstance(content, bytes)
        letter = message_from_bytes(content, policy=policy.default)
        assert isinstance(letter, EmailMessage)
        letter["X-Taken-For"] = ", ".join(envelope.rcpt_tos)
        with self.arrived:
            self.letters.append(letter)
            self.arrived.notify_all()
        return "250 taken"

    async def handle_exception(self, error: Exception) -> str:
        """Log an error of the server; a client that left while TLS was set up is not one."""
        if not isinstance(error.__cause__ or error, ConnectionError):
            logging.getLogger(__name__).error("SMTP session", exc_info=error)
        return "451 local error"


@contextmanager
def mailbox(password: str, *, starttls: bool | None) -> Iterator[Mailbox]:
    """A mail server in a thread of its own, with TLS from the start, on request, or without it.

    Args:
        password: The password of `USER`.
        starttls: Whether TLS begins only with STARTTLS; None for a server without TLS.
    """
    box = Mailbox(trustme.CA(), password)
    certificate = box.ca.issue_cert("127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    loop, ready = asyncio.new_event_loop(), threading.Event()

    sessions: list[SMTP] = []

    def session() -> SMTP:
        made = SMTP(
            box,
            loop=loop,
            hostname="mail.example.org",
            tls_context=context if starttls else None,
            require_starttls=bool(starttls),
            # It knows of no TLS but its own; from the start it is asyncio's.
            auth_require_tls=bool(starttls),
            authenticator=box.authenticate,
            # Its prompts for LOGIN are not those that Alertmanager waits for.
            auth_exclude_mechanism=["LOGIN"],
        )
        sessions.append(made)
        return made

    async def serve() -> None:
        secured = context if starttls is False else None
        server = await loop.create_server(session, "127.0.0.1", 0, ssl=secured)
        box.port = server.sockets[0].getsockname()[1]
        ready.set()
        async with server:
            await stopped.wait()
            # On a slow machine, the last letters may still be under way.
            for one in sessions:
                if isinstance(one.transport, asyncio.Transport):
                    one.transport.abort()
            left = asyncio.all_tasks() - {asyncio.current_task()}
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
            await asyncio.sleep(0)

    stopped = asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    ready.wait()
    try:
        yield box
    finally:
        loop.call_soon_threadsafe(stopped.set)
        thread.join()
        loop.close()
