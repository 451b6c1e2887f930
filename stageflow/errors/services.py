"""Errors of providers and of dead letters."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import ClassVar

from stageflow.errors.base import (
    BUDGET,
    BUSY,
    GENERIC_USER_MESSAGE,
    IN_TROUBLE,
    LOGIC,
    SYSTEMIC,
    TOO_SLOW,
    ErrorCategory,
    StageflowError,
    Traits,
    did_you_mean,
    misspelt,
)


class ProviderError(StageflowError):
    """A provider, its arguments or its answer are wrong."""

    code = "provider_error"
    codes: ClassVar = {
        "budget_exceeded": Traits(ErrorCategory.POLICY, user_message=BUDGET),
        "invalid_provider": LOGIC,
        "invalid_record": LOGIC,  # a database cannot hold the record or its address
        "missing_extra": SYSTEMIC,
        "provider_busy": Traits(ErrorCategory.TRANSIENT, True, BUSY),
    }

    @staticmethod
    def invalid(name: str, provider: object, port: str, missing: Sequence[str]) -> ProviderError:
        """Return the error of a provider that lacks methods of its port."""
        return ProviderError(
            f"{type(provider).__name__} cannot serve as {name!r}: the port {port} also needs"
            f" {', '.join(missing)}",
            code="invalid_provider",
        )


class UnknownProviderError(ProviderError):
    """No provider is registered under a `name`."""

    code = "unknown_provider"
    category = ErrorCategory.LOGIC

    def __init__(self, name: str, known: Iterable[str], *, of_port: bool = False) -> None:
        names = sorted(known)
        registered = ", ".join(map(repr, names)) or "none"
        # The name of a port is correct, so a similar registered name is the misspelt one.
        hint = misspelt([name], names) if of_port else did_you_mean(name, names)
        super().__init__(
            f"no provider is registered as {name!r} (registered: {registered}){hint};"
            f" register one with providers.register({name!r}, …)"
        )
        self.name = name


class CircuitOpenError(ProviderError):
    """A call was refused because the provider has failed too often.

    `retry_after_s` is infinite for a breaker that was forced open.
    """

    code = "circuit_open"
    category = ErrorCategory.TRANSIENT
    user_message = IN_TROUBLE

    def __init__(self, provider: str, retry_after_s: float) -> None:
        until = f"next try in {retry_after_s:.3g} s at the earliest"
        if retry_after_s == math.inf:
            until = "it was forced open: no call until it is reset"
        super().__init__(f"circuit breaker open for provider {provider!r} ({until})")
        self.provider = provider
        self.retry_after_s = retry_after_s


class InvalidReplyError(ProviderError):
    """A provider sent corrupt sound or a malformed reply."""

    code = "invalid_reply"
    category = ErrorCategory.TRANSIENT
    retryable = True


class NoAnswerError(ProviderError):
    """A language model gave no answer; `finish_reason` is ``refusal``, or what the service says."""

    code = "no_answer"

    def __init__(self, problem: str, finish_reason: str) -> None:
        super().__init__(f"the language model gave no answer: {problem}")
        self.finish_reason = finish_reason


class ToolError(ProviderError):
    """A call of a tool failed. A tool raises it with a text that the model may read."""

    code = "tool_failed"
    codes: ClassVar = {
        "invalid_tool_arguments": Traits(),
        "invalid_tool_result": LOGIC,
        "unknown_tool": Traits(),
        "tool_timeout": Traits(ErrorCategory.TRANSIENT, True, TOO_SLOW),
        "too_many_tool_calls": Traits(
            user_message="I could not work that out. Please ask me in another way."
        ),
        "tools_unsupported": LOGIC,  # by the language model
    }


class NoProgressError(ProviderError):
    """A provider sent no token and no sound for `timeout_s` seconds of a call."""

    code = "no_progress"
    category = ErrorCategory.TRANSIENT
    retryable = True
    user_message = TOO_SLOW

    def __init__(self, provider: str, timeout_s: float) -> None:
        super().__init__(f"timeout: {provider} made no progress for {timeout_s:g} s")
        self.timeout_s = timeout_s


class InvalidAudioError(ProviderError):
    """Sound cannot be used; the code says why."""

    code = "invalid_audio"
    codes: ClassVar = {
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
        "audio_file": SYSTEMIC,
    }


class LocalServiceError(ProviderError):
    """A process of a local provider does not start, or has ended; `output` is its last text."""

    code = "local_service_failed"
    category = ErrorCategory.SYSTEMIC

    def __init__(self, name: str, problem: str, output: str = "") -> None:
        super().__init__(f"{name} {problem}" + (f"; its output: {output}" if output else ""))
        self.output = output


class DeadLetterError(StageflowError):
    """A dead letter could not be stored, found or replayed."""

    code = "dead_letter_error"
    codes = dict.fromkeys(
        ("unstorable_value", "dead_letter_mismatch", "invalid_dead_letter_store"), LOGIC
    )

    def __init__(self, message: str, *, dead_letter_id: str | None = None, code: str | None = None):
        super().__init__(message, code=code)
        self.dead_letter_id = dead_letter_id

    @staticmethod
    def unstorable(dead_letter_id: str, described: Sequence[tuple[str, str]]) -> DeadLetterError:
        """Return the error of a letter that lacks values; each is given as its path and type."""
        values = ", ".join(f"{path} (of type {type_name})" for path, type_name in described)
        return DeadLetterError(
            f"dead letter {dead_letter_id!r} cannot be run again: {values} could not be stored; use"
            " plain values, or give the store a codec that knows the type",
            dead_letter_id=dead_letter_id,
            code="unstorable_value",
        )

    @staticmethod
    def mismatch(dead_letter_id: str, pipeline: str, problem: str) -> DeadLetterError:
        """Return the error of a letter that does not fit the pipeline which is to replay it."""
        return DeadLetterError(
            f"dead letter {dead_letter_id!r} does not fit pipeline {pipeline!r}: {problem}; replay"
            " it with the version of the pipeline that wrote it, or run its inputs anew",
            dead_letter_id=dead_letter_id,
            code="dead_letter_mismatch",
        )

    @staticmethod
    def invalid_store(where: str, problem: str) -> DeadLetterError:
        """Return the error of a file that is not a store, or one of another version."""
        return DeadLetterError(f"{where} {problem}", code="invalid_dead_letter_store")


class DeadLetterStoreError(DeadLetterError):
    """A store of dead letters could not be read or written; `__cause__` is the reason."""

    code = "dead_letter_store_failed"
    category = ErrorCategory.SYSTEMIC

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
            self.__cause__ = cause


class UnknownDeadLetterError(DeadLetterError):
    """There is no such dead letter."""

    code = "unknown_dead_letter"
    category = ErrorCategory.LOGIC

    def __init__(self, dead_letter_id: str, where: str) -> None:
        super().__init__(
            f"there is no dead letter {dead_letter_id!r} in {where}; list those there are",
            dead_letter_id=dead_letter_id,
        )


class DuplicateDeadLetterError(DeadLetterError):
    """Another dead letter has the same id; it has not changed."""

    code = "duplicate_dead_letter"
    category = ErrorCategory.LOGIC

    def __init__(self, dead_letter_id: str, where: str) -> None:
        super().__init__(
            f"{where} holds another dead letter with the id {dead_letter_id!r}: two runs had the"
            " same id at the same time; give their contexts different seeds",
            dead_letter_id=dead_letter_id,
        )


class DeadLetterClaimedError(DeadLetterError):
    """Another process is replaying a dead letter, with a lease `until` that time."""

    code = "dead_letter_claimed"
    category = ErrorCategory.POLICY

    def __init__(self, dead_letter_id: str, until: str) -> None:
        super().__init__(
            f"dead letter {dead_letter_id!r} is being replayed by another process; wait for it, or"
            f" until {until} if it died",
            dead_letter_id=dead_letter_id,
        )
        self.until = until


class DeadLetterReplayedError(DeadLetterError):
    """A dead letter has been replayed already, by the run `replay_run_id`."""

    code = "dead_letter_replayed"
    category = ErrorCategory.POLICY

    def __init__(self, dead_letter_id: str, replay_run_id: str) -> None:
        super().__init__(
            f"dead letter {dead_letter_id!r} has been replayed already, by run {replay_run_id}; a"
            " letter is replayed once",
            dead_letter_id=dead_letter_id,
        )
        self.replay_run_id = replay_run_id


class DeadLetterLeaseLostError(DeadLetterError):
    """A replay lost its lease, and another process may have claimed the letter."""

    code = "dead_letter_lease_lost"
    category = ErrorCategory.SYSTEMIC

    def __init__(self, dead_letter_id: str) -> None:
        super().__init__(
            f"the lease on dead letter {dead_letter_id!r} ran out during the replay, and its"
            " outcome was not recorded; give a longer lease_s",
            dead_letter_id=dead_letter_id,
        )


class CorruptDeadLetterError(DeadLetterError):
    """A stored dead letter, or a value of one, cannot be read."""

    code = "corrupt_dead_letter"
    category = ErrorCategory.SYSTEMIC

    def __init__(self, problem: str) -> None:
        super().__init__(
            f"a stored dead letter cannot be read: {problem}; it was written by another version,"
            " or with a codec that knows more types"
        )


class RecordedError(StageflowError):
    """A failure from a dead letter, a recording or another machine.

    It has the code, category and texts of the original, whose class may not exist here.
    """

    code = "recorded_error"

    def __init__(
        self,
        code: str,
        category: str,
        message: str,
        user_message: str = GENERIC_USER_MESSAGE,
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
