"""What can go wrong with dead letters."""

from __future__ import annotations

from collections.abc import Sequence

from stageflow.errors.base import ErrorCategory, StageflowError


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

    def __init__(
        self,
        action: str,
        where: str,
        cause: BaseException | str,
        mend: str = "the disk has room and that the file and its folder can be written",
    ) -> None:
        reason = cause if isinstance(cause, str) else f"{type(cause).__name__}: {cause}"
        super().__init__(f"cannot {action} the dead letters in {where} ({reason}); see that {mend}")
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
