"""What can go wrong between a dispatcher, the broker and a worker."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from stageflow.errors import ErrorCategory, StageflowError, nearest


class ClusterError(StageflowError):
    """A turn could not be sent, taken or answered."""

    code = "cluster_error"


class BrokerUnavailableError(ClusterError):
    """The broker did not answer for as long as one was willing to wait.

    Attributes:
        where: The broker.
    """

    code = "broker_unavailable"
    category = ErrorCategory.TRANSIENT
    retryable = True
    user_message = "A service we need cannot be reached right now. Please try again."

    def __init__(self, where: str, patience_s: float, cause: BaseException) -> None:
        super().__init__(
            f"the broker {where} did not answer for {patience_s:g} s"
            f" ({type(cause).__name__}: {cause}); see that it runs and can be reached"
        )
        self.where = where
        self.__cause__ = cause


class QueueFullError(ClusterError):
    """A queue holds as many turns as its dispatchers allow.

    Attributes:
        queued: How many turns wait or run.
    """

    code = "queue_full"
    category = ErrorCategory.TRANSIENT
    retryable = True
    user_message = "We are very busy right now. Please try again in a moment."

    def __init__(self, queue: str, pipeline: str, queued: int) -> None:
        super().__init__(
            f"{queued} turns of pipeline {pipeline!r} wait or run in queue {queue!r}, which is all"
            " that the dispatcher allows; start more workers, or send less"
        )
        self.queued = queued
        self.retry_after_s = 1.0


class NoWorkerError(ClusterError):
    """No worker reads the queue."""

    code = "no_worker"
    category = ErrorCategory.SYSTEMIC
    user_message = "A service we need cannot be reached right now. Please try again."

    def __init__(self, queue: str, pipeline: str, waited_s: float) -> None:
        super().__init__(
            f"no worker has read queue {queue!r} for {waited_s:g} s; start one:"
            f" stageflow worker {pipeline} --queue {queue} --broker URL"
        )


class UnservedPipelineError(ClusterError):
    """There are workers, and none of them serves the pipeline."""

    code = "unserved_pipeline"
    category = ErrorCategory.LOGIC

    def __init__(self, pipeline: str, queue: str, served: Iterable[str]) -> None:
        names = sorted(served)
        found = nearest(pipeline, names)
        hint = f"; did you mean {found!r}?" if found else ""
        super().__init__(
            f"no worker of queue {queue!r} serves pipeline {pipeline!r}; they serve"
            f" {', '.join(map(repr, names))}{hint}"
        )


class ProtocolMismatchError(ClusterError):
    """Dispatcher and worker do not speak the same version of the protocol.

    Attributes:
        ours: The version of whoever found it.
        theirs: The version of the other side.
    """

    code = "protocol_mismatch"
    category = ErrorCategory.LOGIC

    def __init__(self, who: str, ours: int, theirs: object) -> None:
        super().__init__(
            f"{who} speaks version {theirs} of the cluster protocol, and this process version"
            f" {ours}; bring dispatchers and workers to the same stageflow"
        )
        self.ours = ours
        self.theirs = theirs


class IncompatiblePayloadError(ClusterError):
    """Inputs, or an answer, that the other side could not read."""

    code = "incompatible_payload"
    category = ErrorCategory.LOGIC

    def __init__(self, what: str, problem: str) -> None:
        super().__init__(
            f"{what}: {problem}; send plain values, or give dispatcher and worker a codec that"
            " knows the type"
        )


class MissingInputsError(ClusterError):
    """A turn lacks inputs that the pipeline, as its workers have it, declares.

    Attributes:
        missing: The inputs.
    """

    code = "missing_turn_inputs"
    category = ErrorCategory.LOGIC

    def __init__(self, pipeline: str, missing: Sequence[str], given: Iterable[str]) -> None:
        super().__init__(
            f"pipeline {pipeline!r} needs the inputs {list(missing)}, which the turn lacks"
            f" (given: {sorted(given)}); add them"
        )
        self.missing = tuple(missing)


class PayloadTooLargeError(ClusterError):
    """A turn, or its answer, is larger than may cross the wire.

    Attributes:
        size_bytes: How large it is.
        limit_bytes: How large it may be.
    """

    code = "payload_too_large"
    category = ErrorCategory.PERMANENT

    def __init__(self, what: str, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(
            f"{what} takes {size_bytes} bytes on the wire, and {limit_bytes} are allowed; pass a"
            " reference to what is large, or raise max_payload_bytes on both sides"
        )
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes


class KeyConflictError(ClusterError):
    """An idempotency key was used for another turn before."""

    code = "idempotency_conflict"
    category = ErrorCategory.LOGIC

    def __init__(self, key: str) -> None:
        super().__init__(
            f"the idempotency key {key!r} belongs to a turn with another pipeline, queue, inputs"
            " or wanted outputs; give each turn a key of its own, and the same key only when it is"
            " sent again"
        )
        self.key = key


class TurnAbandonedError(ClusterError):
    """A turn was given up: whichever worker took it did not live to end it.

    Attributes:
        deliveries: How often it was taken.
    """

    code = "turn_abandoned"
    category = ErrorCategory.SYSTEMIC

    def __init__(self, deliveries: int) -> None:
        super().__init__(
            f"{deliveries} workers took the turn and died or stood still, each for longer than its"
            " lease; see in their logs whether the turn kills them (memory, native code), or give"
            " a longer lease"
        )
        self.deliveries = deliveries


class TurnCancelledError(ClusterError):
    """A turn was cancelled."""

    code = "turn_cancelled"
    category = ErrorCategory.POLICY

    def __init__(self) -> None:
        super().__init__("the turn was cancelled by whoever sent it")


class RemoteTurnError(ClusterError):
    """A turn failed on a worker; it has the code, category and texts of the failure there."""

    code = "remote_turn_failed"

    def __init__(
        self,
        code: str,
        category: str,
        message: str,
        user_message: str,
        *,
        retryable: bool = False,
        stage: str | None = None,
        pipeline_run_id: str | None = None,
    ) -> None:
        super().__init__(message, stage=stage, pipeline_run_id=pipeline_run_id)
        self.code = code
        self.category = ErrorCategory(category)
        self.user_message = user_message
        self.retryable = retryable
