"""The port between dispatchers, workers and whatever carries turns from one to the other."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import NamedTuple, Protocol


class Address(NamedTuple):
    """Where turns wait: those of one pipeline in one queue.

    Attributes:
        queue: Name of the queue; a worker with special hardware reads one of its own.
        pipeline: Name of the pipeline.
    """

    queue: str
    pipeline: str


class Parcel(NamedTuple):
    """A turn as the broker keeps it.

    Attributes:
        key: Its idempotency key.
        address: Where it waits.
        body: Its content, of which the broker knows nothing.
        digest: Tells turns of different content apart.
        remaining_s: Seconds until its deadline, from now; None if it has none.
    """

    key: str
    address: Address
    body: bytes
    digest: str
    remaining_s: float | None


@dataclass(frozen=True, slots=True)
class Delivery:
    """A turn that a worker has taken, and holds as long as it renews its lease.

    Attributes:
        key: Idempotency key of the turn.
        address: Where it was taken from.
        receipt: What the broker knows the delivery by.
        body: Content of the turn.
        remaining_s: Seconds until its deadline, when it was taken; None if it has none.
        deliveries: How often it has been taken, this time included.
        cancelled: Whether it was cancelled before it was taken.
    """

    key: str
    address: Address
    receipt: str
    body: bytes
    remaining_s: float | None
    deliveries: int
    cancelled: bool


class Renewal(NamedTuple):
    """What became of the turns that a worker holds, by key.

    Attributes:
        lost: No longer its own: the lease had run out, or somebody has ended the turn.
        cancelled: To be cancelled.
    """

    lost: frozenset[str]
    cancelled: frozenset[str]


class Sender(Protocol):
    """A dispatcher's side of a broker.

    Every method waits for a broker that is away, and raises `BrokerUnavailableError` when that
    takes too long. Each may be repeated without a second effect.
    """

    async def submit(self, parcel: Parcel, sender: str, *, limit: int) -> bytes | None:
        """Keep a turn durably before returning, unless its key is known; `sender` hears of its end.

        Args:
            parcel: The turn.
            sender: Who wants the answer.
            limit: How many turns may wait or run at that address.

        Returns:
            The answer, if the turn has ended already.

        Raises:
            QueueFullError: There are as many as `limit`.
            KeyConflictError: The key belongs to another turn.
        """

    def answers(self, sender: str) -> AsyncIterator[tuple[str, bytes] | None]:
        """The ends of turns that `sender` has sent, as key and answer.

        None stands for a time in which ends may have been missed: what is still waited for has to
        be submitted again.
        """

    async def cancel(self, key: str) -> None:
        """Let whichever worker takes, or has taken, the turn know that it is to be cancelled."""

    async def settle(self, key: str, answer: bytes, outcome: str) -> bool:
        """Put the end of a turn on record, tell it to its senders, and forget its content.

        Args:
            key: The turn.
            answer: What its senders are told.
            outcome: By what it is counted.

        Returns:
            Whether this is the end that stands: False if the turn had ended before.
        """

    async def cards(self) -> Mapping[str, bytes]:
        """What the workers that live say of themselves, by their names."""


class Receiver(Protocol):
    """A worker's side of a broker; it waits and raises as `Sender` does."""

    async def join(
        self, worker: str, card: bytes, addresses: Collection[Address], *, ttl_s: float
    ) -> None:
        """Make known that `worker` lives, for `ttl_s` seconds from now, and what it serves."""

    async def leave(self, worker: str) -> None:
        """Make known that `worker` takes no more turns."""

    async def take(
        self, worker: str, addresses: Sequence[Address], *, count: int, wait_s: float
    ) -> list[Delivery]:
        """Take turns that nobody has: `count`, or if there are none the first that come.

        Waits up to `wait_s` seconds for these, which may be one of each address.
        """

    async def take_over(
        self, worker: str, addresses: Sequence[Address], *, count: int, lease_s: float
    ) -> list[Delivery]:
        """Take turns whose worker has not renewed them for `lease_s` seconds."""

    async def renew(self, worker: str, held: Collection[Delivery]) -> Renewal:
        """Hold turns for another lease; says which are lost or to be cancelled."""

    async def give_back(self, worker: str, held: Collection[Delivery]) -> None:
        """Let others take over at once what `worker` holds and will not end."""

    def cancellations(self) -> AbstractAsyncContextManager[AsyncIterator[str]]:
        """Keys of turns to be cancelled, as soon as it is said; a `renew` tells what was missed."""

    async def settle(self, key: str, answer: bytes, outcome: str) -> bool:
        """See `Sender.settle`."""


class Broker(Sender, Receiver, Protocol):
    """Both sides."""

    async def close(self) -> None:
        """Let go of all connections."""
