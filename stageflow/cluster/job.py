"""Jobs and their results, also as JSON on the wire."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from types import NoneType
from typing import Any

from stageflow import __version__
from stageflow import codec as coding
from stageflow import errors as err
from stageflow.cluster.broker import Address, ClusterError
from stageflow.engine.context import RunStatus
from stageflow.errors.data import require_durations

#: Increased when one side could no longer read what the other writes.
PROTOCOL = 1

#: Default limit of a job or its answer: a minute of speech.
MAX_PAYLOAD_BYTES = 4 * 1024 * 1024

_NAME = re.compile(r"[A-Za-z0-9_-]{1,100}")
_KEY = re.compile(r"[!-~]{1,200}")


@dataclass(frozen=True, slots=True)
class Job:
    """A run of a pipeline on a worker.

    Attributes:
        pipeline: Name of the pipeline.
        inputs: Inputs of the run.
        key: Idempotency key, up to 200 visible ASCII characters: jobs of one key end once. It is
            the run's correlation id, and the run's id is derived from it.
        queue: Name of the queue.
        deadline_s: Limit in seconds, time in the queue included; None for no limit.
        outputs: Which outputs to return; None for all.
    """

    pipeline: str
    inputs: Mapping[str, Any] = field(hash=False)
    key: str
    queue: str = "default"
    deadline_s: float | None = None
    outputs: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        check_name("Job", "pipeline", self.pipeline)
        check_name("Job", "queue", self.queue)
        if not is_key(self.key):
            fix = "give 1 to 200 visible ASCII characters"
            raise err.InvalidConfigError("Job", "key", self.key, fix)
        if not all(isinstance(name, str) for name in self.outputs or ()):
            raise err.InvalidConfigError("Job", "outputs", self.outputs, "give a list of keys")
        if self.deadline_s is not None:
            require_durations("Job", deadline_s=self.deadline_s)


def is_key(key: object) -> bool:
    """Return whether `key` is valid for a job."""
    return isinstance(key, str) and _KEY.fullmatch(key) is not None


def check_name(owner: str, what: str, name: object) -> None:
    """Raise `InvalidConfigError` unless `name` is valid for a queue or a pipeline."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise err.InvalidConfigError(owner, what, name, "give letters, digits, '_' and '-'")


@dataclass(frozen=True, slots=True)
class JobResult:
    """The result of a job.

    Attributes:
        key: Idempotency key of the job.
        pipeline: Name of the pipeline.
        status: COMPLETED, FAILED or CANCELLED.
        outputs: The requested outputs of the stages, by key.
        failure: Why it failed or was cancelled, if it did.
        pipeline_run_id: Id of the run; None if the job did not run.
        duration_ms: Duration of the run on the worker, in milliseconds.
        worker: Name of the worker; None if the dispatcher completed the job.
        deliveries: How many workers have taken the job.
        dead_letter: Id of its dead letter, if any.
        dead_letter_error: Why its dead letter could not be stored, if it could not.
        refusal: The answer for the user with which a stage ended it (`StageOutput.refuse`).
    """

    key: str
    pipeline: str
    status: RunStatus
    outputs: Mapping[str, Any] = field(default_factory=dict, hash=False)
    failure: err.StageflowError | None = None
    pipeline_run_id: str | None = None
    duration_ms: float = 0.0
    worker: str | None = None
    deliveries: int = 0
    dead_letter: str | None = None
    dead_letter_error: str | None = None
    refusal: str | None = None

    @property
    def user_message(self) -> str | None:
        """Why it failed or was refused, in a text for the person in the conversation."""
        return self.failure.user_message if self.failure is not None else self.refusal

    def unwrap(self) -> dict[str, Any]:
        """Return the outputs of a completed job; raise the `failure` of another one."""
        if self.failure is not None:
            raise self.failure
        return dict(self.outputs)


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """Published facts of a worker: its queues, and the inputs of each pipeline that it serves."""

    queues: tuple[str, ...]
    inputs: Mapping[str, tuple[str, ...]] = field(hash=False)
    protocol: int | None = PROTOCOL
    version: str = __version__

    def runs(
        self, address: Address, inputs: Collection[str] | None, protocol: object = PROTOCOL
    ) -> bool:
        """Return whether the worker can run a job with these inputs; None for unknown ones."""
        needed = self.inputs.get(address.pipeline)
        if needed is None or address.queue not in self.queues or protocol != self.protocol:
            return False
        return inputs is None or all(key in inputs for key in needed)


def seed_of(key: str) -> int:
    """Return the seed of a job's run, by which all attempts have the same ids."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:16], "big")


def dead_letter_id_of(key: str) -> str:
    """Return the id of a job's dead letter, which is the same for all attempts."""
    return hashlib.sha256(f"letter of {key}".encode()).hexdigest()[:32]


class Wire:
    """Encodes jobs and results as bytes; refuses what is too large or not readable."""

    def __init__(self, codec: coding.Codec, *, max_payload_bytes: int = MAX_PAYLOAD_BYTES) -> None:
        self._codec = codec
        self._limit_bytes = max_payload_bytes

    def encode_job(self, job: Job) -> tuple[bytes, str]:
        """Return the content of a job and its digest; raise `ClusterError` if it cannot be sent."""
        inputs = self._codec.plain_items(job.inputs)
        content = {"pipeline": job.pipeline, "inputs": inputs, "outputs": job.outputs}
        plain = {**_SENDER, "deadline_s": job.deadline_s, **content}
        body = self._fitting(f"the job {job.key!r} of pipeline {job.pipeline!r}", "inputs", plain)
        ordered = {key: coding.canonical(value) for key, value in inputs.items()}
        identity = json.dumps([job.queue, {**content, "inputs": ordered}], sort_keys=True)
        return body, hashlib.sha256(identity.encode()).hexdigest()

    def decode_job(self, key: str, address: Address, body: bytes) -> Job:
        """Return the job that `encode_job` encoded; raise `ClusterError` if it is not readable."""
        what = f"the job {key!r}"
        self._check_size(what, body)
        data = _read(what, body)
        with _readable(what):
            outputs = coding.check_fields("", data, _JOB)["outputs"]
            if data["pipeline"] != address.pipeline:
                raise ValueError(f"it is of pipeline {data['pipeline']!r}, not of its stream's")
            return Job(
                data["pipeline"],
                self._codec.items_from_plain(data["inputs"]),
                key,
                address.queue,
                data["deadline_s"],
                None if outputs is None else _texts("outputs", outputs),
            )

    def encode_result(self, result: JobResult) -> bytes:
        """Return a result as bytes; raises as `encode_job`."""
        plain = {
            **_SENDER,
            "pipeline": result.pipeline,
            "status": str(result.status),
            "outputs": self._codec.plain_items(result.outputs),
            "failure": None,
            **{name: getattr(result, name) for name in _RESULT_FIELDS},
        }
        if (failure := result.failure) is not None:
            where = {"stage": failure.stage, "pipeline_run_id": failure.pipeline_run_id}
            plain["failure"] = {**coding.plain_failure(failure), **where}
        return self._fitting(f"the answer of the job {result.key!r}", "outputs", plain)

    def decode_result(self, key: str, answer: bytes) -> JobResult:
        """Return the result that `encode_result` encoded; raises as `decode_job`."""
        what = f"the answer of the job {key!r}"
        data = {**_ADDED, **_read(what, answer)}
        with _readable(what):
            failure = coding.check_fields("", data, _RESULT)["failure"]
            if failure is not None:
                coding.check_fields("failure", failure, _FAILURE)
            return JobResult(
                key,
                data["pipeline"],
                RunStatus(data["status"]),
                self._codec.items_from_plain(data["outputs"]),
                None if failure is None else err.RecordedError(**failure),
                **{name: data[name] for name in _RESULT_FIELDS},
            )

    def _fitting(self, what: str, values: str, plain: dict[str, Any]) -> bytes:
        text = coding.dumps(plain, large=coding.is_large(plain[values]))
        if coding.PLACEHOLDER in text:
            lost = self._codec.lost(values, plain[values])
            problem = ", ".join(f"{path} is of type {value.shown}" for path, value in lost.items())
            raise _incompatible(what, problem)
        body = text.encode()
        self._check_size(what, body)
        return body

    def _check_size(self, what: str, body: bytes) -> None:
        if len(body) > self._limit_bytes:
            text = (
                f"{what} takes {len(body)} bytes on the wire, and {self._limit_bytes} are allowed;"
                " send a reference to large data, or raise max_payload_bytes on both sides"
            )
            raise ClusterError(text, code="payload_too_large")


_RESULT_FIELDS: coding.FieldTypes = {
    "duration_ms": coding.NUMBER,
    "deliveries": (int,),
    **dict.fromkeys(("pipeline_run_id", "worker", "refusal"), coding.TEXT_OR_NONE),
    **dict.fromkeys(("dead_letter", "dead_letter_error"), coding.TEXT_OR_NONE),
}
#: Fields that older workers of this protocol do not send.
_ADDED = {"refusal": None}
_RESULT: coding.FieldTypes = {
    "pipeline": coding.TEXT,
    "status": coding.TEXT,
    "outputs": (dict,),
    "failure": (dict, NoneType),
    **_RESULT_FIELDS,
}
_FAILURE: coding.FieldTypes = {
    **coding.FAILURE,
    **dict.fromkeys(("stage", "pipeline_run_id"), coding.TEXT_OR_NONE),
}
_JOB: coding.FieldTypes = {
    "pipeline": coding.TEXT,
    "inputs": (dict,),
    "outputs": (list, NoneType),
    "deadline_s": coding.NUMBER_OR_NONE,
}
#: What both sides say of themselves. The version is for people.
_SENDER = {"protocol": PROTOCOL, "version": __version__}
_INFO: coding.FieldTypes = {"version": coding.TEXT, "queues": (list,), "inputs": (dict,)}
_MALFORMED = (ValueError, KeyError, TypeError, AttributeError, RecursionError)


def encode_worker_info(info: WorkerInfo) -> bytes:
    """Return a worker's info as bytes."""
    return json.dumps(asdict(info)).encode()


def decode_worker_info(body: bytes) -> WorkerInfo:
    """Return the info that `encode_worker_info` encoded.

    Of another protocol only version and protocol are certain; an unreadable one has neither.
    """
    protocol, version = None, "unknown"
    try:
        data = {"queues": [], "inputs": {}, **json.loads(body)}
        if data["protocol"] != PROTOCOL:
            protocol, version = data["protocol"], str(data.get("version"))
        coding.check_fields("", data, _INFO)
        inputs = {name: _texts(f"inputs.{name}", keys) for name, keys in data["inputs"].items()}
        queues = _texts("queues", data["queues"])
        return WorkerInfo(queues, inputs, data["protocol"], data["version"])
    except _MALFORMED:
        return WorkerInfo((), {}, protocol, version)


def _texts(where: str, plain: object) -> tuple[str, ...]:
    if not isinstance(plain, list) or not all(isinstance(text, str) for text in plain):
        raise TypeError(f"{where} is not a list of texts")
    return tuple(plain)


@contextmanager
def _readable(what: str) -> Iterator[None]:
    """Raise a `ClusterError` for a payload that cannot be read."""
    try:
        yield
    except (err.CorruptDeadLetterError, err.InvalidConfigError, *_MALFORMED) as error:
        raise _incompatible(what, f"{type(error).__name__}: {error}") from error


def _read(what: str, body: bytes) -> dict[str, Any]:
    with _readable(what):
        data = coding.loads(body.decode(), large=coding.is_large(body))
        protocol, version = data["protocol"], data.get("version", "unknown")
    if protocol != PROTOCOL:
        raise protocol_mismatch(f"the sender of {what} (stageflow {version!s:.40})", protocol)
    return dict(data)


def protocol_mismatch(who: str, theirs: object) -> ClusterError:
    """Return the error of a side that uses another version of the protocol."""
    return ClusterError(
        f"{who} speaks version {theirs!s:.40} of the cluster protocol, and this process version"
        f" {PROTOCOL}; bring dispatchers and workers to the same stageflow",
        code="protocol_mismatch",
    )


def missing_inputs(who: str, job: Job, missing: list[str]) -> ClusterError:
    """Return the error of a job that lacks inputs."""
    return ClusterError(
        f"{who} needs the inputs {missing} for pipeline {job.pipeline!r}, which the job lacks"
        f" (given: {sorted(job.inputs)}); add them",
        code="missing_job_inputs",
    )


def _incompatible(what: str, problem: str) -> ClusterError:
    return ClusterError(
        f"{what}: {problem}; send plain values, or give dispatcher and worker a codec that knows"
        " the type",
        code="incompatible_payload",
    )
