"""Delivers the messages that wait in the state: tries again, within a limit, then gives up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from stageflow.pulse.alerts.channel import Channel, DeliveryError, in_time
from stageflow.pulse.alerts.state import AlertState, Waiting


@dataclass(frozen=True, slots=True)
class DeliveryPolicy:
    """How often and how long a message is tried.

    Attributes:
        step_s: How long one step of an attempt may take, such as connecting, in seconds.
        attempt_s: How long an attempt may take in all, in seconds.
        pause_s: How long to wait after the first attempt; twice as long after each further one.
        longest_pause_s: But no longer than that, in seconds.
        give_up_s: After how long a message is given up, in seconds.
    """

    step_s: float = 10.0
    attempt_s: float = 20.0
    pause_s: float = 2.0
    longest_pause_s: float = 300.0
    give_up_s: float = 3600.0

    def pause_after(self, attempts: int, asked_s: float | None) -> float:
        """How long to wait after so many attempts, in seconds; longer if the receiver asks."""
        usual_s = min(self.pause_s * 2.0 ** min(attempts - 1, 30), self.longest_pause_s)
        return max(usual_s, asked_s or 0.0)


class Delivery:
    """Takes messages from a state to channels."""

    def __init__(
        self,
        state: AlertState,
        channels: Sequence[Channel],
        *,
        clock: Callable[[], float],
        pause: Callable[[float], object],
        say: Callable[[str], None],
        policy: DeliveryPolicy | None = None,
    ) -> None:
        """Choose the parts.

        Args:
            state: Where the messages wait.
            channels: Where they go.
            clock: Tells the time in seconds since the epoch.
            pause: Waits for so many seconds; if it returns something true, that was the end, as
                ``threading.Event.wait`` says of an event that was set.
            say: Is told what became of each attempt, in a line without any secret.
            policy: How often and how long.
        """
        self._state = state
        self._channels = {channel.name: channel for channel in channels}
        self._clock = clock
        self._pause = pause
        self._say = say
        self._policy = policy or DeliveryPolicy()

    def run(self, until_s: float) -> None:
        """Deliver all that waits; what is only due after `until_s` is left for another time.

        What waits when a pause is the end is left as well.

        Raises:
            AlertStateError: The state cannot be read or written.
        """
        while True:
            # Longer than an attempt takes: nobody else tries what is still being tried.
            lease_s = 2 * self._policy.attempt_s
            waiting = self._state.take(self._channels, self._clock(), lease_s)
            if waiting is not None:
                self._attempt(waiting)
                continue
            due_s = self._state.next_due(self._channels)
            if due_s is None or max(due_s, self._clock()) > until_s:
                return
            if self._pause(due_s - self._clock()):
                return

    def _attempt(self, waiting: Waiting) -> None:
        channel, policy = self._channels[waiting.channel], self._policy
        title = waiting.message.title
        try:
            in_time(
                lambda: channel.send(waiting.message, waiting.id, policy.step_s), policy.attempt_s
            )
        except DeliveryError as error:
            due_s = self._clock() + policy.pause_after(waiting.attempts, error.retry_after_s)
            given_up = error.final or due_s - waiting.created_s > policy.give_up_s
            self._state.failed(waiting, str(error), None if given_up else due_s)
            then = "given up, see --dead" if given_up else "is tried again"
            self._say(f"not delivered by {channel.name} ({error}), {then}: {title}")
        else:
            self._state.delivered(waiting)
            self._say(f"delivered by {channel.name}: {title}")
