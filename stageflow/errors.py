"""Every error that stageflow raises: one root, and what a caller needs to act on it.

The tree:

    StageflowError
    ├── DefinitionError           one defect of a pipeline's definition, found by validation
    ├── PipelineDefinitionError   all defects of one definition, reported together
    ├── ComposeConflictError      two pipelines name different stages alike
    ├── BagError                  the write-once store refused (conflict, bad key, missing key)
    ├── ContextInUseError         a context was asked to carry two runs at once
    ├── MissingRunInputError      a run was started without an input that it needs
    ├── DeadLetterError           a dead letter could not be kept, found or replayed
    ├── ProviderError             no such provider, or not one of that kind
    └── StageError                a stage, or the run that holds it, failed
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from enum import StrEnum


class ErrorCategory(StrEnum):
    """What kind of trouble an error is, and so who can mend it."""

    TRANSIENT = "transient"  # may well succeed when tried again
    PERMANENT = "permanent"  # the same call fails the same way again
    LOGIC = "logic"  # the code of a stage or of a pipeline is wrong
    SYSTEMIC = "systemic"  # the surroundings are broken: memory, disk, a deadline
    POLICY = "policy"  # refused on purpose


GENERIC_USER_MESSAGE = "Something went wrong on our side. Please try again."


class StageflowError(Exception):
    """Root of all errors of stageflow.

    Attributes:
        code: Stable, machine-readable name of the error.
        category: Who can mend it; see `ErrorCategory`.
        retryable: Whether the same call may succeed when it is made again.
        user_message: Text that is safe to show to the person in the conversation.
        retry_after_s: How long to wait before the next try, in seconds, if that is known.
        stage: Name of the stage concerned, if any.
        pipeline_run_id: Id of the run concerned, if any.
    """

    code: str = "stageflow_error"
    category: ErrorCategory = ErrorCategory.PERMANENT
    retryable: bool = False
    user_message: str = GENERIC_USER_MESSAGE
    retry_after_s: float | None = None

    def __init__(
        self, message: str, *, stage: str | None = None, pipeline_run_id: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.stage = stage
        self.pipeline_run_id = pipeline_run_id

    def __str__(self) -> str:
        return self.message

    def located(self, stage: str, pipeline_run_id: str) -> StageflowError:
        """Fill in where the error happened, unless it is known already; returns itself."""
        self.stage = self.stage or stage
        self.pipeline_run_id = self.pipeline_run_id or pipeline_run_id
        return self


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The name among `known` that `name` most likely is a misspelling of, if any."""
    matches = difflib.get_close_matches(name, list(known), n=1)
    return matches[0] if matches else None


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    found = nearest(name, known)
    return f"; did you mean {found!r}?" if found else ""


# ── definitions ─────────────────────────────────────────────────────────────────────────────


class DefinitionError(StageflowError):
    """One defect of a pipeline's definition.

    Attributes:
        pipeline: Name of the pipeline.
        stage: Name of the stage where the defect is.
    """

    category = ErrorCategory.LOGIC
    code = "invalid_definition"
    stage: str

    def __init__(self, pipeline: str, stage: str, problem: str) -> None:
        super().__init__(f"pipeline {pipeline!r}, stage {stage!r}: {problem}", stage=stage)
        self.pipeline = pipeline
        self.problem = problem


class InvalidNameError(DefinitionError):
    """A name that is no name."""

    code = "invalid_name"

    def __init__(self, pipeline: str, stage: object) -> None:
        super().__init__(
            pipeline,
            str(stage),
            "a name is made of letters, digits, '_' and '-' (dots separate the parts of an"
            f" event's type); rename {stage!r}",
        )


class InvalidSpecError(DefinitionError):
    """Something that is not a stage specification stands where one is expected."""

    code = "invalid_spec"

    def __init__(self, pipeline: str, found: object) -> None:
        super().__init__(
            pipeline,
            str(getattr(found, "__name__", type(found).__name__)),
            f"{found!r} is no StageSpec; write StageSpec(name, runner, …) or use @stage",
        )


class DuplicateStageError(DefinitionError):
    """Two stages share a name."""

    code = "duplicate_stage"

    def __init__(self, pipeline: str, stage: str, count: int) -> None:
        super().__init__(
            pipeline, stage, f"the name is taken by {count} stages; give each its own name"
        )
        self.count = count


class SelfDependencyError(DefinitionError):
    """A stage depends on itself."""

    code = "self_dependency"

    def __init__(self, pipeline: str, stage: str) -> None:
        super().__init__(
            pipeline, stage, f"depends on itself; remove {stage!r} from its dependencies"
        )


class UnknownDependencyError(DefinitionError):
    """A stage depends on one that the pipeline does not have."""

    code = "unknown_dependency"

    def __init__(self, pipeline: str, stage: str, dependency: str, known: Iterable[str]) -> None:
        self.dependency = dependency
        self.suggestion = nearest(dependency, known)
        hint = (
            f"did you mean {self.suggestion!r}?"
            if self.suggestion
            else "add such a stage, or compose with the pipeline that has it"
        )
        super().__init__(
            pipeline, stage, f"depends on {dependency!r}, which does not exist; {hint}"
        )


class CycleError(DefinitionError):
    """Stages wait for each other.

    Attributes:
        path: Names along the cycle in the direction of the data; the first stands last again.
    """

    code = "cycle"

    def __init__(self, pipeline: str, path: Sequence[str]) -> None:
        self.path = tuple(path)
        super().__init__(
            pipeline,
            self.path[0],
            f"waits for itself along {' → '.join(self.path)}; remove one of these dependencies",
        )


class DuplicateOutputError(DefinitionError):
    """Two stages declare the same output, or one that is an input of the run."""

    code = "duplicate_output"

    def __init__(self, pipeline: str, stage: str, key: str, other: str) -> None:
        self.key = key
        self.other = other
        super().__init__(
            pipeline,
            stage,
            f"declares the output {key!r}, which {other} already provides; rename one of them",
        )


class MissingProducerError(DefinitionError):
    """A stage declares an input that nothing before it provides."""

    code = "missing_producer"

    def __init__(
        self, pipeline: str, stage: str, key: str, producer: str | None, known: Iterable[str]
    ) -> None:
        self.key = key
        self.producer = producer
        mend = (
            f"stage {producer!r} provides it but may run later: add {producer!r} to its"
            " dependencies"
            if producer
            else "nothing provides it: declare it in a stage's outputs or in the pipeline's inputs"
            + _did_you_mean(key, known)
        )
        super().__init__(pipeline, stage, f"declares the input {key!r}, but {mend}")


class InvalidRunnerError(DefinitionError):
    """A runner that cannot be awaited."""

    code = "invalid_runner"

    def __init__(self, pipeline: str, stage: str, runner: object) -> None:
        super().__init__(
            pipeline,
            stage,
            f"its runner {runner!r} is neither an async function nor an object with an async"
            " execute(ctx); write 'async def'",
        )
        self.runner = runner


class InvalidTimeoutError(DefinitionError):
    """A timeout that is no positive, finite number of seconds."""

    code = "invalid_timeout"

    def __init__(self, pipeline: str, stage: str, timeout_s: object) -> None:
        super().__init__(
            pipeline,
            stage,
            f"timeout_s is {timeout_s!r}; give a positive number of seconds, or None for no limit",
        )
        self.timeout_s = timeout_s


class InvalidDeclarationError(DefinitionError):
    """Declared inputs, outputs or dependencies that are not a sequence of distinct names."""

    code = "invalid_declaration"

    def __init__(self, pipeline: str, stage: str, field: str, found: object, mend: str) -> None:
        super().__init__(pipeline, stage, f"{field} holds {found!r}; {mend}")
        self.field = field
        self.found = found


class PipelineDefinitionError(StageflowError):
    """All defects of one pipeline's definition.

    Attributes:
        pipeline: Name of the pipeline.
        problems: The defects, in the order of the stages.
    """

    code = "pipeline_definition"
    category = ErrorCategory.LOGIC

    def __init__(self, pipeline: str, problems: Sequence[DefinitionError]) -> None:
        self.pipeline = pipeline
        self.problems = tuple(problems)
        super().__init__("")

    def __str__(self) -> str:
        count = len(self.problems)
        heading = f"pipeline {self.pipeline!r} has {count} problem{'s' if count != 1 else ''}:"
        lines = (f"  - stage {p.stage!r}: {p.problem}" for p in self.problems)
        return "\n".join((heading, *lines))


class ComposeConflictError(StageflowError):
    """Two pipelines have different stages of the same name.

    Attributes:
        left: Name of the pipeline that composes.
        right: Name of the pipeline that it is composed with.
        stages: The names in conflict.
    """

    code = "compose_conflict"
    category = ErrorCategory.LOGIC

    def __init__(self, left: str, right: str, stages: Sequence[str]) -> None:
        self.left = left
        self.right = right
        self.stages = tuple(stages)
        names = ", ".join(map(repr, self.stages))
        super().__init__(
            f"pipelines {left!r} and {right!r} both have {names}, defined differently;"
            " rename one, or use the same StageSpec in both",
            stage=self.stages[0],
        )


# ── the bag and the context ─────────────────────────────────────────────────────────────────


class BagError(StageflowError):
    """The write-once store refused."""

    code = "bag_error"
    category = ErrorCategory.LOGIC


class DataConflictError(BagError):
    """A key was written a second time.

    Attributes:
        key: The key.
        existing_writer: Who wrote it first; its value stays.
        new_writer: Who tried to write it again.
    """

    code = "data_conflict"

    def __init__(self, key: str, existing_writer: str, new_writer: str) -> None:
        self.key = key
        self.existing_writer = existing_writer
        self.new_writer = new_writer
        super().__init__(
            f"key {key!r} was written by {existing_writer!r} and cannot be written again by"
            f" {new_writer!r}; give the second value a key of its own",
            stage=new_writer,
        )


class InvalidKeyError(BagError):
    """A key that is not a string."""

    code = "invalid_key"

    def __init__(self, key: object, writer: str) -> None:
        self.key = key
        self.writer = writer
        super().__init__(
            f"{writer!r} used the key {key!r} of type {type(key).__name__}; keys are strings",
            stage=writer,
        )


class MissingKeyError(BagError, KeyError):
    """A key was read that nobody has written."""

    code = "missing_key"

    def __init__(self, key: object, known: Iterable[str]) -> None:
        self.key = key
        names = sorted(known)
        hint = _did_you_mean(key, names) if isinstance(key, str) else "; keys are strings"
        written = ", ".join(map(repr, names[:10])) or "nothing"
        super().__init__(f"key {key!r} has not been written (written: {written}){hint}")


class ContextInUseError(StageflowError):
    """A context carries one run at a time."""

    code = "context_in_use"
    category = ErrorCategory.LOGIC

    def __init__(self, pipeline: str, pipeline_run_id: str) -> None:
        super().__init__(
            f"this PipelineContext still carries run {pipeline_run_id} of another call; give"
            f" pipeline {pipeline!r} a context of its own",
            pipeline_run_id=pipeline_run_id,
        )


class MissingRunInputError(StageflowError):
    """A run was started without an input that its pipeline declares."""

    code = "missing_run_input"
    category = ErrorCategory.LOGIC

    def __init__(self, pipeline: str, missing: Sequence[str], given: Iterable[str]) -> None:
        self.missing = tuple(missing)
        names = ", ".join(map(repr, self.missing))
        hint = _did_you_mean(self.missing[0], given)
        super().__init__(
            f"pipeline {pipeline!r} needs the input {names};"
            f" pass PipelineContext(inputs={{{self.missing[0]!r}: …}}){hint}"
        )


class InvalidContextError(StageflowError):
    """A context was given a value that it cannot work with."""

    code = "invalid_context"
    category = ErrorCategory.LOGIC


class InvalidConfigError(StageflowError):
    """Something was set up with a value that it cannot work with.

    Attributes:
        owner: What was set up.
        field: The argument concerned.
        found: What was given.
    """

    code = "invalid_config"
    category = ErrorCategory.LOGIC

    def __init__(self, owner: str, field: str, found: object, mend: str) -> None:
        self.owner = owner
        self.field = field
        self.found = found
        super().__init__(f"{owner}: {field} is {found!r}; {mend}")


# ── providers ───────────────────────────────────────────────────────────────────────────────


class ProviderError(StageflowError):
    """Something is wrong with a provider, or with what it answered."""

    code = "provider_error"


class UnknownProviderError(ProviderError):
    """No provider is registered under that name."""

    code = "unknown_provider"
    category = ErrorCategory.LOGIC

    def __init__(self, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        self.name = name
        registered = ", ".join(map(repr, names)) or "none"
        super().__init__(
            f"no provider is registered as {name!r} (registered: {registered})"
            f"{_did_you_mean(name, names)}; register one with providers.register({name!r}, …)"
        )


class InvalidProviderError(ProviderError):
    """A provider lacks what its port asks for."""

    code = "invalid_provider"
    category = ErrorCategory.LOGIC

    def __init__(self, name: str, provider: object, port: str, missing: Sequence[str]) -> None:
        self.name = name
        self.missing = tuple(missing)
        super().__init__(
            f"{type(provider).__name__} cannot serve as {name!r}: the port {port} also needs"
            f" {', '.join(self.missing)}"
        )


class CircuitOpenError(ProviderError):
    """A call was not made, because the provider has failed too often of late.

    Attributes:
        provider: Name of the provider.
        retry_after_s: When it will be tried again, in seconds from now; infinity if the breaker
            was forced open.
    """

    code = "circuit_open"
    category = ErrorCategory.TRANSIENT
    user_message = "A service we need is having trouble. Please try again in a moment."

    def __init__(self, provider: str, retry_after_s: float) -> None:
        super().__init__(
            f"circuit breaker open for provider {provider!r}"
            f" (next try in {retry_after_s:.3g} s at the earliest)"
        )
        self.provider = provider
        self.retry_after_s = retry_after_s


class InvalidReplyError(ProviderError):
    """A provider answered with something that is no answer: corrupt sound, a malformed reply."""

    code = "invalid_reply"
    category = ErrorCategory.TRANSIENT
    retryable = True


class NoProgressError(ProviderError):
    """A provider stopped in the middle of a call: no token, no sound, for too long.

    Attributes:
        timeout_s: How long nothing came, in seconds.
    """

    code = "no_progress"
    category = ErrorCategory.TRANSIENT
    retryable = True
    user_message = "That took too long. Please try again."

    def __init__(self, provider: str, timeout_s: float) -> None:
        super().__init__(f"timeout: {provider} made no progress for {timeout_s:g} s")
        self.timeout_s = timeout_s


class UnintelligibleAudioError(ProviderError):
    """A provider was handed sound that it can make nothing of."""

    code = "unintelligible_audio"
    user_message = "Sorry, I could not understand that. Please say it again."


# ── stages and runs ─────────────────────────────────────────────────────────────────────────


class StageError(StageflowError):
    """A stage failed, or the run as a whole."""

    code = "stage_error"


class StageFailedError(StageError):
    """A stage returned a failed `StageOutput`."""

    code = "stage_failed"

    def __init__(self, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.retryable = retryable
        self.category = ErrorCategory.TRANSIENT if retryable else ErrorCategory.PERMANENT


class StageRaisedError(StageError):
    """A stage raised an exception of its own; `__cause__` holds it."""

    code = "stage_raised"
    category = ErrorCategory.LOGIC

    def __init__(self, cause: BaseException) -> None:
        super().__init__(f"{type(cause).__name__}: {cause}" if str(cause) else type(cause).__name__)
        self.__cause__ = cause


class ConnectionFailedError(StageRaisedError):
    """A stage could not reach what it calls."""

    code = "connection_failed"
    category = ErrorCategory.TRANSIENT
    retryable = True
    user_message = "A service we need cannot be reached right now. Please try again."


class OperationTimeoutError(StageRaisedError):
    """Something that a stage waited for took too long by the stage's own measure."""

    code = "operation_timeout"
    category = ErrorCategory.TRANSIENT
    retryable = True
    user_message = "That took too long. Please try again."

    def __init__(self, cause: BaseException) -> None:
        super().__init__(cause)
        self.message = f"timeout inside the stage ({self.message})"


class ServiceUnavailableError(StageRaisedError):
    """A provider answered that it cannot serve now (HTTP 5xx, a database that shuts down)."""

    code = "service_unavailable"
    category = ErrorCategory.TRANSIENT
    retryable = True
    user_message = "A service we need is having trouble. Please try again in a moment."


class RateLimitedError(StageRaisedError):
    """A provider wants fewer calls (HTTP 429)."""

    code = "rate_limited"
    category = ErrorCategory.TRANSIENT
    retryable = True
    user_message = "We are very busy right now. Please try again in a moment."

    def __init__(self, cause: BaseException, retry_after_s: float | None = None) -> None:
        super().__init__(cause)
        self.retry_after_s = retry_after_s


class CredentialsRejectedError(StageRaisedError):
    """A provider does not accept our key (HTTP 401, 403)."""

    code = "credentials_rejected"
    category = ErrorCategory.SYSTEMIC


class RequestRejectedError(StageRaisedError):
    """A provider will never accept this request (other HTTP 4xx)."""

    code = "request_rejected"
    category = ErrorCategory.PERMANENT


class DatabaseBusyError(StageRaisedError):
    """A database could not serve in time: a lock is held, or no connection is free."""

    code = "database_busy"
    category = ErrorCategory.TRANSIENT
    retryable = True


class StorageFailedError(StageRaisedError):
    """The disk is full or cannot be written."""

    code = "storage_failed"
    category = ErrorCategory.SYSTEMIC


class OutOfResourcesError(StageRaisedError):
    """Memory or the call stack ran out."""

    code = "out_of_resources"
    category = ErrorCategory.SYSTEMIC


class StageTimeoutError(StageError):
    """A stage took longer than its timeout.

    Attributes:
        timeout_s: The limit in seconds.
    """

    code = "stage_timeout"
    category = ErrorCategory.TRANSIENT
    retryable = True
    user_message = "That took too long. Please try again."

    def __init__(self, timeout_s: float) -> None:
        super().__init__(f"timeout: not finished after {timeout_s:g} s")
        self.timeout_s = timeout_s


class DeadlineExceededError(StageError):
    """The run took longer than its context allows.

    Attributes:
        deadline_s: The limit in seconds since the run began.
    """

    code = "deadline_exceeded"
    category = ErrorCategory.SYSTEMIC
    user_message = "That took too long. Please try again."

    def __init__(self, deadline_s: float) -> None:
        super().__init__(f"timeout: the run passed its deadline of {deadline_s:g} s")
        self.deadline_s = deadline_s


class StrayCancellationError(StageError):
    """A stage let a cancellation escape that nobody had asked for."""

    code = "stray_cancellation"
    category = ErrorCategory.LOGIC

    def __init__(self) -> None:
        super().__init__(
            "asyncio.CancelledError escaped although nobody cancelled the stage: something that"
            " it awaited was cancelled; catch it there"
        )


class InvalidOutputError(StageError):
    """A stage returned something else than a `StageOutput`."""

    code = "invalid_output"
    category = ErrorCategory.LOGIC

    def __init__(self, found: object) -> None:
        super().__init__(
            f"returned {found!r} of type {type(found).__name__} instead of a StageOutput;"
            " write 'return StageOutput.ok(key=value)'"
        )


class OutputMismatchError(StageError):
    """A stage's outputs are not the ones that it declares.

    Attributes:
        undeclared: Keys that it returned without declaring them.
        missing: Keys that it declared and did not return.
    """

    code = "output_mismatch"
    category = ErrorCategory.LOGIC

    def __init__(self, undeclared: Sequence[str], missing: Sequence[str]) -> None:
        self.undeclared = tuple(undeclared)
        self.missing = tuple(missing)
        parts = []
        if undeclared:
            parts.append(f"returned {list(undeclared)} undeclared: add them to its outputs")
        if missing:
            parts.append(f"did not return {list(missing)}, which it declares")
        super().__init__("; ".join(parts))


class UndeclaredInputError(StageError):
    """A stage read a key that it does not declare as an input."""

    code = "undeclared_input"
    category = ErrorCategory.LOGIC

    def __init__(self, key: object, declared: Iterable[str]) -> None:
        names = sorted(declared)
        self.key = key
        hint = _did_you_mean(key, names) if isinstance(key, str) else "; keys are strings"
        super().__init__(
            f"read {key!r} without declaring it; write inputs=[{key!r}, …]"
            f" (declared: {names}){hint}"
        )


class AbsentInputError(StageError):
    """A stage read a declared input whose producer did not provide it.

    Attributes:
        key: The input.
    """

    code = "absent_input"
    category = ErrorCategory.LOGIC

    def __init__(self, key: str, reason: str) -> None:
        self.key = key
        super().__init__(
            f"the input {key!r} is absent: {reason}; read it with ctx.get({key!r}) and handle None"
        )


class ChildRunError(StageError):
    """A child run failed, and so the stage that started it.

    Attributes:
        child_run_id: Id of the child run.
        child_pipeline: Name of its pipeline.
        cause: What failed there.
    """

    code = "child_run_failed"

    def __init__(self, child_pipeline: str, child_run_id: str, cause: StageflowError) -> None:
        where = f", stage {cause.stage!r}" if cause.stage else ""
        super().__init__(
            f"child run {child_run_id} of pipeline {child_pipeline!r}{where} failed: {cause}"
        )
        self.child_pipeline = child_pipeline
        self.child_run_id = child_run_id
        self.cause = cause
        self.__cause__ = cause
        self.category = cause.category
        self.retryable = cause.retryable
        self.user_message = cause.user_message


# ── dead letters ────────────────────────────────────────────────────────────────────────────


class DeadLetterError(StageflowError):
    """A dead letter could not be kept, found or replayed."""

    code = "dead_letter_error"


class DeadLetterStoreError(DeadLetterError):
    """A store of dead letters could not be read or written; `__cause__` says why.

    Attributes:
        where: The store.
    """

    code = "dead_letter_store_failed"
    category = ErrorCategory.SYSTEMIC

    def __init__(self, action: str, where: str, cause: BaseException | str) -> None:
        reason = cause if isinstance(cause, str) else f"{type(cause).__name__}: {cause}"
        super().__init__(
            f"cannot {action} the dead letters in {where} ({reason}); see that the disk has room"
            " and that the file and its folder can be written"
        )
        self.where = where
        if not isinstance(cause, str):
            self.__cause__ = cause


class InvalidDeadLetterStoreError(DeadLetterError):
    """A file is no store of dead letters, or one of another version.

    Attributes:
        where: The file.
    """

    code = "invalid_dead_letter_store"
    category = ErrorCategory.LOGIC

    def __init__(self, where: str, problem: str) -> None:
        super().__init__(f"{where} {problem}")
        self.where = where


class UnknownDeadLetterError(DeadLetterError):
    """There is no such dead letter."""

    code = "unknown_dead_letter"
    category = ErrorCategory.LOGIC

    def __init__(self, letter_id: str, where: str) -> None:
        super().__init__(f"there is no dead letter {letter_id!r} in {where}; list those there are")
        self.letter_id = letter_id


class DuplicateDeadLetterError(DeadLetterError):
    """Another dead letter has the same id; that one stays as it is."""

    code = "duplicate_dead_letter"
    category = ErrorCategory.LOGIC

    def __init__(self, letter_id: str, where: str) -> None:
        super().__init__(
            f"{where} holds another dead letter with the id {letter_id!r}: two runs had the same"
            " id at the same time; give their contexts different seeds"
        )
        self.letter_id = letter_id


class DeadLetterClaimedError(DeadLetterError):
    """A dead letter is being replayed by somebody else.

    Attributes:
        until: When its lease ends if it is not renewed, as text.
    """

    code = "dead_letter_claimed"
    category = ErrorCategory.POLICY

    def __init__(self, letter_id: str, until: str) -> None:
        super().__init__(
            f"dead letter {letter_id!r} is being replayed by somebody else; wait for that, or, if"
            f" they died, until {until}"
        )
        self.letter_id = letter_id
        self.until = until


class DeadLetterReplayedError(DeadLetterError):
    """A dead letter has been replayed already.

    Attributes:
        replay_run_id: Id of the run that completed it.
    """

    code = "dead_letter_replayed"
    category = ErrorCategory.POLICY

    def __init__(self, letter_id: str, replay_run_id: str) -> None:
        super().__init__(
            f"dead letter {letter_id!r} has been replayed already, by run {replay_run_id}; a"
            " letter is replayed once"
        )
        self.letter_id = letter_id
        self.replay_run_id = replay_run_id


class DeadLetterLeaseLostError(DeadLetterError):
    """A replay took longer than its lease, and somebody else may have taken over."""

    code = "dead_letter_lease_lost"
    category = ErrorCategory.SYSTEMIC

    def __init__(self, letter_id: str) -> None:
        super().__init__(
            f"the lease on dead letter {letter_id!r} ran out during the replay, and its outcome"
            " was not recorded; give a longer lease_s"
        )
        self.letter_id = letter_id


class UnstorableValueError(DeadLetterError):
    """A dead letter lacks a value that its replay needs.

    Attributes:
        paths: Where the values would be.
    """

    code = "unstorable_value"
    category = ErrorCategory.LOGIC

    def __init__(self, letter_id: str, described: Sequence[tuple[str, str]]) -> None:
        self.letter_id = letter_id
        self.paths = tuple(path for path, _ in described)
        values = ", ".join(f"{path} (of type {type_name})" for path, type_name in described)
        super().__init__(
            f"dead letter {letter_id!r} cannot be run again: {values} could not be stored; use"
            " plain values, or give the store a codec that knows the type"
        )


class DeadLetterMismatchError(DeadLetterError):
    """A dead letter does not fit the pipeline that is to take it up.

    Attributes:
        problem: What does not fit.
    """

    code = "dead_letter_mismatch"
    category = ErrorCategory.LOGIC

    def __init__(self, letter_id: str, pipeline: str, problem: str) -> None:
        super().__init__(
            f"dead letter {letter_id!r} does not fit pipeline {pipeline!r}: {problem}; replay it"
            " with the version of the pipeline that wrote it, or run its inputs anew",
        )
        self.letter_id = letter_id
        self.problem = problem


class CorruptDeadLetterError(DeadLetterError):
    """What is stored under a dead letter's id cannot be read as one."""

    code = "corrupt_dead_letter"
    category = ErrorCategory.SYSTEMIC

    def __init__(self, problem: str) -> None:
        super().__init__(
            f"a stored dead letter cannot be read: {problem}; it was written by another version,"
            " or with a codec that knows more types"
        )
