"""What can go wrong with the bag, the context, and settings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from stageflow.errors.base import ErrorCategory, StageflowError, did_you_mean, shown


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
            f"{writer!r} used the key {shown(key)} of type {type(key).__name__}; keys are strings",
            stage=writer,
        )


class MissingKeyError(BagError, KeyError):
    """A key was read that nobody has written."""

    code = "missing_key"

    def __init__(self, key: object, known: Iterable[str], why: str | None = None) -> None:
        self.key = key
        names = sorted(known)
        hint = did_you_mean(key, names) if isinstance(key, str) else "; keys are strings"
        written = ", ".join(map(repr, names[:10])) or "nothing"
        reason = f"; the run failed: {why}" if why else ""
        super().__init__(f"key {key!r} has not been written (written: {written}){hint}{reason}")


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
        hint = did_you_mean(self.missing[0], given)
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
        super().__init__(f"{owner}: {field} is {shown(found)}; {mend}")
