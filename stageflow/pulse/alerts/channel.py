"""The port through which somebody is told, and what may become of it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

from stageflow.pulse.alerts.notice import Message
from stageflow.pulse.errors import PulseError


class DeliveryError(PulseError):
    """A message did not arrive; the text says why, and holds no secret.

    Attributes:
        final: Whether trying again would change nothing.
        retry_after_s: How long the receiver wants to be left alone, in seconds, if it said so.
    """

    code = "pulse_alert_delivery"

    def __init__(
        self, why: str, *, final: bool = False, retry_after_s: float | None = None
    ) -> None:
        super().__init__(why)
        self.final = final
        self.retry_after_s = retry_after_s


class Channel(Protocol):
    """A way to tell somebody."""

    @property
    def name(self) -> str:
        """What it is called."""

    def send(self, message: Message, number: int, timeout_s: float) -> None:
        """Tell somebody, once.

        Args:
            message: What.
            number: Different for each message, the same when it is tried again.
            timeout_s: How long one step of it may take, in seconds.

        Raises:
            DeliveryError: It did not arrive, or nobody knows whether it did.
        """


def in_time(work: Callable[[], None], limit_s: float) -> None:
    """Do something that shall not take longer in all, however slowly the other side goes on.

    Limits of sockets are for one read or write each: who sends a byte now and then could hold us
    for ever. Work that is late is left behind in its thread, and ends with its next such limit.

    Raises:
        DeliveryError: It took longer.
        BaseException: Whatever the work raises.
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
