"""The port that carries jobs between dispatchers and workers, and its errors."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

from stageflow import errors as err


class ClusterError(err.StageflowError, code="cluster_error"):
    """A job could not be sent, run or answered; the code says why."""

    codes: ClassVar = {
        "queue_full": err.Traits(err.ErrorCategory.TRANSIENT, True, err.BUSY),
        "no_worker": err.Traits(err.ErrorCategory.SYSTEMIC, user_message=err.UNREACHABLE),
        "unserved_pipeline": err.LOGIC,
        "protocol_mismatch": err.LOGIC,
        "incompatible_payload": err.LOGIC,
        "missing_job_inputs": err.LOGIC,
        "payload_too_large": err.Traits(),
        "idempotency_conflict": err.LOGIC,
        "job_abandoned": err.SYSTEMIC,
        "job_cancelled": err.Traits(err.ErrorCategory.POLICY),
        "broker_refused": err.SYSTEMIC,
    }


class BrokerUnavailableError(
    ClusterError,
    code="broker_unavailable",
    traits=err.Traits(err.ErrorCategory.TRANSIENT, True, err.UNREACHABLE),
):
    """The broker did not answer in time."""

    def __init__(self, where: str, patience_s: float, cause: BaseException) -> None:
        super().__init__(
            f"the broker {where} did not answer for {patience_s:g} s"
            f" ({type(cause).__name__}: {cause}); check that it runs and can be reached"
        )
        self.__cause__ = cause


class Address(NamedTuple):
    """The place where jobs of one pipeline wait in one queue."""

    queue: str
    pipeline: str


class Envelope(NamedTuple):
    """A job as the broker stores it.

    Attributes:
        key: Idempotency key.
        address: Where the job waits.
        body: Content of the job, opaque to the broker.
        digest: Differs between jobs of different content.
        remaining_s: Seconds until the deadline; None for no deadline.
    """

    key: str
    address: Address
    body: bytes
    digest: str
    remaining_s: float | None


@dataclass(frozen=True, slots=True)
class Delivery:
    """A job that a worker has taken and holds while it renews its lease; see `Envelope`.

    Attributes:
        receipt: Identifies the delivery to the broker.
        deliveries: How often the job has been taken, including this time.
        cancelled: Whether it was cancelled before it was taken.
    """

    key: str
    address: Address
    receipt: str
    body: bytes
    remaining_s: float | None
    deliveries: int
    cancelled: bool


class Broker(Protocol):
    """Carries jobs; all methods are idempotent.

    They wait while the broker cannot be reached, and at last raise `BrokerUnavailableError`.
    """

    async def submit(self, envelope: Envelope, sender: str, *, limit: int) -> bytes | None:
        """Store a job durably unless its key is known, and send its answer to `sender`.

        Returns the answer if the job has ended already. Raises `ClusterError` if the address holds
        `limit` jobs, or the key belongs to another job.
        """

    def answers(self, sender: str) -> AsyncIterator[tuple[str, bytes] | None]:
        """Yield key and answer of each job of `sender` that ends.

        Yield None after an outage: answers may have been lost, so submit pending jobs again.
        """

    async def cancel(self, key: str) -> None:
        """Cancel a job, before or after a worker has taken it."""

    async def complete(
        self, key: str, answer: bytes, outcome: str, *, delivery: Delivery | None = None
    ) -> bool:
        """Store the answer of a job, send it to its senders, and count the outcome.

        Returns False if the job had ended before, or is not known; then drop the delivery.
        """

    async def workers(self) -> Mapping[str, bytes]:
        """Return the encoded `WorkerInfo` of each live worker, by name."""

    async def join(
        self, worker: str, info: bytes, addresses: Collection[Address], *, ttl_s: float
    ) -> None:
        """Register a worker and what it serves for `ttl_s` seconds."""

    async def leave(self, worker: str) -> None:
        """Unregister a worker that takes no more jobs."""

    async def take(
        self, worker: str, addresses: Sequence[Address], *, count: int, wait_s: float
    ) -> list[Delivery]:
        """Take up to `count` waiting jobs; set aside what is not a job.

        If none waits, wait up to `wait_s` seconds for the first, which may be one per address.
        """

    async def reclaim(
        self, worker: str, addresses: Sequence[Address], *, count: int, lease_s: float
    ) -> list[Delivery]:
        """Take jobs whose worker has not renewed its lease for `lease_s` seconds."""

    async def renew(self, worker: str, held: Collection[Delivery]) -> Mapping[str, str]:
        """Renew the leases of jobs; return by key those that are ``lost`` or ``cancelled``."""

    async def give_back(self, worker: str, held: Collection[Delivery]) -> None:
        """Return jobs that `worker` will not finish, so that others can reclaim them at once."""

    def cancellations(self) -> AsyncIterator[str]:
        """Yield keys of cancelled jobs at once; `renew` returns those that were missed."""
