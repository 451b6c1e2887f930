"""Tells a Slack channel, through an incoming webhook."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

from stageflow.pulse.alerts.channel import DeliveryError
from stageflow.pulse.alerts.notice import Message, Notice, Status
from stageflow.pulse.alerts.secret import AlertSecretError, Secret

_COLOURS = {"critical": "#b3261e", "warning": "#b26a00"}
_OVER = "#2e7d32"

#: Slack shows no more attachments than that.
_NOTICES = 20

#: Answers below 500 after which another attempt may go better: too slow, too early, too many.
_PASSING = frozenset({408, 425, 429})


class SlackChannel:
    """A `Channel` into Slack, or into whatever takes the same payload."""

    name = "slack"

    def __init__(self, webhook: Secret, channel: str) -> None:
        """Choose the channel.

        Args:
            webhook: The address that Slack gave for it; who knows it can write there.
            channel: Its name; webhooks of newer kind belong to one channel and do not look at it.

        Raises:
            AlertSecretError: The address is none, or would be sent to in the clear.
        """
        if not _is_safe(webhook):
            raise AlertSecretError(
                "the address of the Slack webhook does not begin with https://: copy it as a whole"
            )
        self._webhook = webhook
        self._channel = channel

    def send(self, message: Message, number: int, timeout_s: float) -> None:
        """See `Channel`."""
        request = urllib.request.Request(  # noqa: S310 - the scheme has been looked at
            self._webhook.reveal(),
            data=json.dumps(payload(message, self._channel)).encode(),
            headers={"Content-Type": "application/json", "User-Agent": "stageflow"},
        )
        failure = None
        try:
            with _OPENER.open(request, timeout=timeout_s) as answer:
                answer.read(1024)
        except (OSError, http.client.HTTPException, ValueError) as error:
            failure = _failure(error)
        # Raised out here: the error that was caught knows the address, and must not hang on ours.
        if failure is not None:
            raise failure


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Follow none: a message goes where it was meant to, or nowhere."""


_OPENER = urllib.request.build_opener(_NoRedirect)


def _is_safe(webhook: Secret) -> bool:
    try:
        parts = urlsplit(webhook.reveal())
        local = parts.hostname in ("127.0.0.1", "::1", "localhost")
    except ValueError:
        return False
    return bool(parts.hostname) and (parts.scheme == "https" or (parts.scheme == "http" and local))


def _failure(error: Exception) -> DeliveryError:
    """What is told of an error: what it is, not what it says, as that may be the address."""
    if isinstance(error, urllib.error.HTTPError):
        error.close()
        wait = error.headers.get("Retry-After", "")
        return DeliveryError(
            f"HTTP {error.code}",
            final=error.code < 500 and error.code not in _PASSING,
            retry_after_s=float(wait) if wait.isdecimal() else None,
        )
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    said = reason.strerror if isinstance(reason, OSError) and reason.strerror else ""
    return DeliveryError(f"{type(reason).__name__}{f': {said}' if said else ''}")


def payload(message: Message, channel: str) -> dict[str, Any]:
    """What is sent to Slack."""
    more = len(message.notices) - _NOTICES
    return {
        "channel": channel,
        "text": escaped(message.title) + (f" (and {more} more)" if more > 0 else ""),
        "attachments": [_attachment(notice) for notice in message.notices[:_NOTICES]],
    }


def _attachment(notice: Notice) -> dict[str, Any]:
    firing = notice.status is Status.FIRING
    links = f"<{notice.page}|page> · <{notice.runbook}|runbook>"
    return {
        "color": _COLOURS[notice.severity] if firing else _OVER,
        "title": f"{notice.status.upper()} {notice.rule}",
        "title_link": notice.page,
        "fallback": escaped(notice.what),
        "text": "\n".join([*map(escaped, (notice.what, *notice.lines)), links]),
        "mrkdwn_in": ["text"],
    }


def escaped(text: str) -> str:
    """A text that Slack shows as it is: names come from whoever wrote the pipeline."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
