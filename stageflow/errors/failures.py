"""Failures of stages, runs and streams, of providers and of dead letters."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar

from stageflow.errors import base
from stageflow.errors.base import ErrorCategory, StageflowError, Traits


class StageError(StageflowError, code="stage_error"):
    """A stage or a run failed."""

    def _explain_by(self, cause: StageflowError) -> None:
        self.__cause__: BaseException | None = cause
        self.category: ErrorCategory = cause.category
        self.retryable: bool = cause.retryable
        self.user_message: str = cause.user_message


class StageFailedError(StageError, code="stage_failed"):
    """A stage returned a failed `StageOutput`."""

    def __init__(
        self, message: str, *, retryable: bool = False, user_message: str | None = None
    ) -> None:
        super().__init__(message)
        self.retryable = retryable
        self.category = ErrorCategory.TRANSIENT if retryable else ErrorCategory.PERMANENT
        if user_message is not None:
            self.user_message = user_message


class StageRaisedError(StageError, code="stage_raised", traits=base.LOGIC):
    """A stage raised the exception `__cause__`; `stageflow.resilience.classify` chose the code."""

    codes: ClassVar[Mapping[str, Traits]] = {
        "connection_failed": Traits(ErrorCategory.TRANSIENT, True, base.UNREACHABLE),
        # The stage's own limit for something that it waits for.
        "operation_timeout": base.SLOW,
        # HTTP 5xx, a database that shuts down.
        "service_unavailable": Traits(ErrorCategory.TRANSIENT, True, base.IN_TROUBLE),
        "rate_limited": Traits(ErrorCategory.TRANSIENT, True, base.BUSY),  # HTTP 429
        "credentials_rejected": base.SYSTEMIC,  # HTTP 401, 403
        "request_rejected": Traits(ErrorCategory.PERMANENT),  # other HTTP 4xx
        # HTTP 413, ``context_length_exceeded``: kernels then send less of the conversation.
        "request_too_long": Traits(ErrorCategory.PERMANENT, False, base.TOO_LONG),
        "database_busy": base.RETRYABLE,
        "storage_failed": base.SYSTEMIC,
        "out_of_resources": base.SYSTEMIC,  # memory, the call stack
    }

    def __init__(
        self, cause: BaseException, code: str | None = None, *, retry_after_s: float | None = None
    ) -> None:
        said = base.shown(cause, str)
        text = f"{type(cause).__name__}: {said}" if said else type(cause).__name__
        if type(cause) in (TypeError, AttributeError, RuntimeError):
            text += next((f"; {fix}" for part, fix in _FIXES if re.search(part, said)), "")
        super().__init__(
            f"timeout inside the stage ({text})" if code == "operation_timeout" else text, code=code
        )
        self.retry_after_s: float | None = retry_after_s
        self.__cause__: BaseException | None = cause


#: Text before the name of a type in Python's messages.
_OF_TYPE = r"""(?:['"]|got |type |not |instance, |non-iterable )"""
#: Parts of Python's messages about common mistakes with `await`, and the fix of each.
_FIXES = (
    (r"\bStreamReader\b", "it comes in pieces: async for item in ctx[key]"),
    ("async_generator can't be used in 'await'", "it comes in pieces: async for piece in …"),
    ("can't be used in 'await' expression", "this is not a coroutine: remove await"),
    ("a running event loop|already running", "a stage runs in the loop already: write await"),
    ("reuse already awaited coroutine", "call the function again for each await"),
    ("raised StopIteration", "next() found no item: give it a default"),
    (_OF_TYPE + "async_generator", "it comes in pieces: async for piece in …"),
    (_OF_TYPE + "coroutine", "write await before the call that returned it"),
)


class StageTimeoutError(StageError, code="stage_timeout", traits=base.SLOW):
    """A stage took longer than its timeout of `timeout_s` seconds."""

    def __init__(self, timeout_s: float) -> None:
        super().__init__(f"timeout: not finished after {timeout_s:g} s")
        self.timeout_s = timeout_s


class DeadlineExceededError(
    StageError, code="deadline_exceeded", traits=base.SYSTEMIC._replace(user_message=base.TOO_SLOW)
):
    """The run took longer than its context allows, which is `deadline_s` seconds."""

    def __init__(self, deadline_s: float) -> None:
        super().__init__(f"timeout: the run passed its deadline of {deadline_s:g} s")
        self.deadline_s = deadline_s


class StageDefectError(StageError, code="stage_defect", traits=base.LOGIC):
    """A stage breaks its declaration of `keys` or a rule of the engine; the code says which."""

    codes: ClassVar[Mapping[str, Traits]] = dict.fromkeys(
        (
            "stray_cancellation",
            "not_ended",
            "invalid_output",
            "unawaited_output",
            "output_mismatch",
            "undeclared_input",
        ),
        base.LOGIC,
    )

    def __init__(
        self, message: str, *, code: str | None = None, keys: Iterable[object] = ()
    ) -> None:
        super().__init__(message, code=code)
        self.keys: tuple[object, ...] = tuple(keys)

    @staticmethod
    def stray_cancellation() -> StageDefectError:
        """Return the error of a stage that raises CancelledError without being cancelled."""
        return StageDefectError(
            "asyncio.CancelledError escaped although nobody cancelled the stage: something that"
            " it awaited was cancelled; catch it there",
            code="stray_cancellation",
        )


class AbsentInputError(StageError, code="absent_input", traits=base.LOGIC):
    """A stage read a declared input, `key`, whose producer did not provide it."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(
            f"the input {key!r} is absent: {reason}; read it with ctx.get({key!r}) and handle None"
        )
        self.key = key


class ChildRunError(StageError, code="child_run_failed"):
    """A child run failed; its failure, `cause`, sets category, retryability and user message."""

    def __init__(self, child_pipeline: str, child_run_id: str, cause: StageflowError) -> None:
        where = f", stage {cause.stage!r}" if cause.stage else ""
        super().__init__(
            f"child run {child_run_id} of pipeline {child_pipeline!r}{where} failed: {cause}"
        )
        self.child_pipeline = child_pipeline
        self.child_run_id = child_run_id
        self.cause = cause
        self._explain_by(cause)


class StreamError(StageError, code="stream_error", traits=base.LOGIC):
    """A stream, `key`, was used wrongly, or its stage has ended early."""

    codes: ClassVar[Mapping[str, Traits]] = {
        "undeclared_stream": base.LOGIC,
        "stream_reopened": base.LOGIC,
        "stream_closed": base.LOGIC,
        "stream_not_kept": base.LOGIC,
        "stream_cancelled": Traits(ErrorCategory.PERMANENT),
    }

    def __init__(self, key: object, message: str, *, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.key = key

    @staticmethod
    def undeclared(key: object, declared: Iterable[str]) -> StreamError:
        """Return the error of a stage that opened a stream without declaring it."""
        names = sorted(declared)
        message = (
            f"opened {key!r} without declaring it; write streams=[{key!r}, …]"
            f" (declared: {names}){base.did_you_mean(key, names)}"
        )
        return StreamError(key, message, code="undeclared_stream")

    @staticmethod
    def closed(key: str, producer: str) -> StreamError:
        """Return the error of a `put` or `open` after the stage has ended."""
        message = (
            f"the stream {key!r} is closed, as stage {producer!r} has ended; let the stage wait for"
            " all of its tasks before it returns"
        )
        return StreamError(key, message, code="stream_closed")

    @staticmethod
    def not_kept(key: str, why: str) -> StreamError:
        """Return the error of reading items that the stream does not hold."""
        message = (
            f"the stream {key!r} does not hold all of its items: {why}; to have them afterwards,"
            " let a stage that reads it put what is needed into its outputs"
        )
        return StreamError(key, message, code="stream_not_kept")


class StreamFailedError(StreamError, code="stream_failed"):
    """The stage that writes a stream failed, and so its reader; `cause` sets the traits."""

    def __init__(self, key: str, producer: str, cause: StageflowError | None) -> None:
        super().__init__(
            key, f"stage {producer!r}, which writes the stream {key!r}, failed: {cause}"
        )
        self.producer = producer
        self.cause = cause
        if cause is not None:
            self._explain_by(cause)


_TROUBLE = Traits(ErrorCategory.TRANSIENT, user_message=base.IN_TROUBLE)


class ProviderError(StageflowError, code="provider_error"):
    """A provider, its arguments or its answer are wrong."""

    codes: ClassVar[Mapping[str, Traits]] = {
        "budget_exceeded": Traits(ErrorCategory.POLICY, user_message=base.BUDGET),
        "invalid_provider": base.LOGIC,
        "invalid_record": base.LOGIC,  # a database cannot hold the record or its address
        "missing_extra": base.SYSTEMIC,
        "provider_busy": Traits(ErrorCategory.TRANSIENT, True, base.BUSY),
    }

    @staticmethod
    def invalid(name: str, provider: object, port: str, missing: Sequence[str]) -> ProviderError:
        """Return the error of a provider that lacks methods of its port."""
        return ProviderError(
            f"{type(provider).__name__} cannot serve as {name!r}: the port {port} also needs"
            f" {', '.join(missing)}",
            code="invalid_provider",
        )


class UnknownProviderError(ProviderError, code="unknown_provider", traits=base.LOGIC):
    """No provider is registered under a `name`."""

    def __init__(self, name: str, known: Iterable[str], *, of_port: bool = False) -> None:
        names = sorted(known)
        registered = ", ".join(map(repr, names)) or "none"
        # The name of a port is correct, so a similar registered name is the misspelt one.
        hint = base.misspelt([name], names) if of_port else base.did_you_mean(name, names)
        super().__init__(
            f"no provider is registered as {name!r} (registered: {registered}){hint};"
            f" register one with providers.register({name!r}, …)"
        )
        self.name = name


class CircuitOpenError(ProviderError, code="circuit_open", traits=_TROUBLE):
    """A call was refused because the provider has failed too often.

    `retry_after_s` is infinite for a breaker that was forced open.
    """

    def __init__(self, provider: str, retry_after_s: float) -> None:
        until = f"next try in {retry_after_s:.3g} s at the earliest"
        if retry_after_s == math.inf:
            until = "it was forced open: no call until it is reset"
        super().__init__(f"circuit breaker open for provider {provider!r} ({until})")
        self.provider = provider
        self.retry_after_s: float | None = retry_after_s


class InvalidReplyError(ProviderError, code="invalid_reply", traits=base.RETRYABLE):
    """A provider sent corrupt sound or a malformed reply."""


class NoAnswerError(ProviderError, code="no_answer"):
    """A language model gave no answer; `finish_reason` is ``refusal``, or what the service says."""

    def __init__(self, problem: str, finish_reason: str) -> None:
        super().__init__(f"the language model gave no answer: {problem}")
        self.finish_reason = finish_reason


class ToolError(ProviderError, code="tool_failed"):
    """A call of a tool failed. A tool raises it with a text that the model may read."""

    codes: ClassVar[Mapping[str, Traits]] = {
        "invalid_tool_arguments": Traits(),
        "invalid_tool_result": base.LOGIC,
        "unknown_tool": Traits(),
        "tool_timeout": base.SLOW,
        "too_many_tool_calls": Traits(
            user_message="I could not work that out. Please ask me in another way."
        ),
        "tools_unsupported": base.LOGIC,  # by the language model
    }


class NoProgressError(ProviderError, code="no_progress", traits=base.SLOW):
    """A provider sent no token and no sound for `timeout_s` seconds of a call."""

    def __init__(self, provider: str, timeout_s: float) -> None:
        super().__init__(f"timeout: {provider} made no progress for {timeout_s:g} s")
        self.timeout_s = timeout_s


class InvalidAudioError(ProviderError, code="invalid_audio"):
    """Sound cannot be used; the code says why."""

    codes: ClassVar[Mapping[str, Traits]] = {
        "unintelligible_audio": Traits(
            user_message="Sorry, I could not understand that. Please say it again."
        ),
        "not_wav": Traits(),
        "unsupported_wav": Traits(),  # its samples are compressed
        "empty_audio": Traits(),
        "audio_too_long": Traits(
            user_message="That is more than I can listen to at once. Please keep it shorter."
        ),
        "clipped_audio": Traits(
            user_message="That was too loud for me to understand. Please say it again, a little"
            " softer."
        ),
        "audio_file": base.SYSTEMIC,
    }


class LocalServiceError(ProviderError, code="local_service_failed", traits=base.SYSTEMIC):
    """A process of a local provider does not start, or has ended; `output` is its last text."""

    def __init__(self, name: str, problem: str, output: str = "") -> None:
        super().__init__(f"{name} {problem}" + (f"; its output: {output}" if output else ""))
        self.output = output


class DeadLetterError(StageflowError, code="dead_letter_error"):
    """A dead letter could not be stored, found or replayed."""

    codes: ClassVar[Mapping[str, Traits]] = dict.fromkeys(
        ("unstorable_value", "dead_letter_mismatch", "invalid_dead_letter_store"), base.LOGIC
    )

    def __init__(self, message: str, dead_letter_id: str | None = None, *, code: str | None = None):
        super().__init__(message, code=code)
        self.dead_letter_id = dead_letter_id

    @staticmethod
    def unstorable(dead_letter_id: str, described: Sequence[tuple[str, str]]) -> DeadLetterError:
        """Return the error of a letter that lacks values; each is given as its path and type."""
        values = ", ".join(f"{path} (of type {type_name})" for path, type_name in described)
        problem = f"dead letter {dead_letter_id!r} cannot be run again: {values} could not be"
        fix = "stored; use plain values, or give the store a codec that knows the type"
        return DeadLetterError(f"{problem} {fix}", dead_letter_id, code="unstorable_value")

    @staticmethod
    def mismatch(dead_letter_id: str, pipeline: str, problem: str) -> DeadLetterError:
        """Return the error of a letter that does not fit the pipeline which is to replay it."""
        misfit = f"dead letter {dead_letter_id!r} does not fit pipeline {pipeline!r}: {problem}"
        fix = "replay it with the pipeline version that wrote it or start a new run with its inputs"
        return DeadLetterError(f"{misfit}; {fix}", dead_letter_id, code="dead_letter_mismatch")

    @staticmethod
    def invalid_store(where: str, problem: str) -> DeadLetterError:
        """Return the error of a file that is not a store, or one of another version."""
        return DeadLetterError(f"{where} {problem}", code="invalid_dead_letter_store")


class DeadLetterStoreError(DeadLetterError, code="dead_letter_store_failed", traits=base.SYSTEMIC):
    """A store of dead letters could not be read or written; `__cause__` is the reason."""

    def __init__(
        self,
        action: str,
        where: str,
        cause: BaseException | str,
        fix: str = "the disk has room and that the file and its folder can be written",
    ) -> None:
        reason = cause if isinstance(cause, str) else f"{type(cause).__name__}: {cause}"
        super().__init__(f"cannot {action} the dead letters in {where} ({reason}); see that {fix}")
        self.where = where
        if not isinstance(cause, str):
            self.__cause__: BaseException | None = cause


class UnknownDeadLetterError(DeadLetterError, code="unknown_dead_letter", traits=base.LOGIC):
    """There is no such dead letter."""

    def __init__(self, dead_letter_id: str, where: str) -> None:
        problem = f"there is no dead letter {dead_letter_id!r} in {where}; list those there are"
        super().__init__(problem, dead_letter_id)


class DuplicateDeadLetterError(DeadLetterError, code="duplicate_dead_letter", traits=base.LOGIC):
    """Another dead letter has the same id; it has not changed."""

    def __init__(self, dead_letter_id: str, where: str) -> None:
        problem = f"{where} holds another dead letter with the id {dead_letter_id!r}"
        fix = "two runs had the same id at the same time; give their contexts different seeds"
        super().__init__(f"{problem}: {fix}", dead_letter_id)


class DeadLetterClaimedError(DeadLetterError, code="dead_letter_claimed", traits=base.POLICY):
    """Another process is replaying a dead letter, with a lease `until` that time."""

    def __init__(self, dead_letter_id: str, until: str) -> None:
        problem = f"dead letter {dead_letter_id!r} is being replayed by another process"
        super().__init__(f"{problem}; wait for it, or until {until} if it died", dead_letter_id)
        self.until = until


class DeadLetterReplayedError(DeadLetterError, code="dead_letter_replayed", traits=base.POLICY):
    """A dead letter has been replayed already, by the run `replay_run_id`."""

    def __init__(self, dead_letter_id: str, replay_run_id: str) -> None:
        problem = f"dead letter {dead_letter_id!r} has been replayed already"
        fix = f"by run {replay_run_id}; a letter is replayed once"
        super().__init__(f"{problem}, {fix}", dead_letter_id)
        self.replay_run_id = replay_run_id


class DeadLetterLeaseLostError(
    DeadLetterError, code="dead_letter_lease_lost", traits=base.SYSTEMIC
):
    """A replay lost its lease, and another process may have claimed the letter."""

    def __init__(self, dead_letter_id: str) -> None:
        problem = f"the lease on dead letter {dead_letter_id!r} ran out during the replay"
        fix = "and its outcome was not recorded; give a longer lease_s"
        super().__init__(f"{problem}, {fix}", dead_letter_id)


class CorruptDeadLetterError(DeadLetterError, code="corrupt_dead_letter", traits=base.SYSTEMIC):
    """A stored dead letter, or a value of one, cannot be read."""

    def __init__(self, problem: str, dead_letter_id: str | None = None) -> None:
        which = f"dead letter {dead_letter_id}" if dead_letter_id else "a stored dead letter"
        super().__init__(
            f"{which} cannot be read: {problem}; it was written by another version, or with a codec"
            " that knows more types"
        )
        self.problem, self.dead_letter_id = problem, dead_letter_id


class RecordedError(StageflowError, code="recorded_error"):
    """A failure from a dead letter, a recording or another machine.

    It has the code, category and texts of the original, whose class may not exist here.
    """

    def __init__(
        self,
        code: str,
        category: str,
        message: str,
        user_message: str = base.GENERIC_USER_MESSAGE,
        *,
        retryable: bool = False,
        stage: str | None = None,
        pipeline_run_id: str | None = None,
    ) -> None:
        super().__init__(message, stage=stage, pipeline_run_id=pipeline_run_id)
        self.code = code
        self.category: ErrorCategory = ErrorCategory(category)
        self.user_message = user_message
        self.retryable = retryable
