"""Errors of definitions, settings, contexts and bags."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from typing import ClassVar, Literal, NamedTuple

from stageflow._utils.checks import is_async, is_duration
from stageflow.errors.base import (
    LOGIC,
    ErrorCategory,
    StageflowError,
    did_you_mean,
    misspelt,
    shown,
)


class BagError(StageflowError):
    """The write-once store refused a `key`."""

    code = "bag_error"
    category = ErrorCategory.LOGIC
    codes: ClassVar = {"invalid_key": LOGIC}

    def __init__(
        self, key: object, message: str, *, code: str | None = None, stage: str | None = None
    ) -> None:
        super().__init__(message, code=code, stage=stage)
        self.key = key

    @staticmethod
    def invalid_key(key: object, writer: str) -> BagError:
        """Return the error of a key that is not a string."""
        kind = type(key).__name__
        message = f"{writer!r} used the key {shown(key)} of type {kind}; keys are strings"
        return BagError(key, message, code="invalid_key", stage=writer)


class DataConflictError(BagError):
    """A key was written a second time; the value of the first writer stays."""

    code = "data_conflict"

    def __init__(self, key: str, existing_writer: str, new_writer: str) -> None:
        super().__init__(
            key,
            f"key {key!r} was written by {existing_writer!r} and cannot be written again by"
            f" {new_writer!r}; give the second value a key of its own",
            stage=new_writer,
        )
        self.existing_writer = existing_writer
        self.new_writer = new_writer


class MissingKeyError(BagError, KeyError):
    """A key was read that has not been written."""

    code = "missing_key"

    def __init__(self, key: object, known: Iterable[str], why: str | None = None) -> None:
        names = sorted(known)
        written = ", ".join(map(repr, names[:10])) or "nothing"
        reason = f"; the run {why}" if why else ""
        hint = did_you_mean(key, names)
        super().__init__(
            key, f"key {key!r} has not been written (written: {written}){hint}{reason}"
        )


class InvalidContextError(StageflowError):
    """A context cannot carry a run."""

    code = "invalid_context"
    category = ErrorCategory.LOGIC
    codes = dict.fromkeys(("context_in_use", "missing_run_input"), LOGIC)

    @staticmethod
    def in_use(pipeline: str, pipeline_run_id: str) -> InvalidContextError:
        """Return the error of a context that still carries another run."""
        return InvalidContextError(
            f"this PipelineContext still carries run {pipeline_run_id} of another call; give"
            f" pipeline {pipeline!r} a context of its own",
            code="context_in_use",
            pipeline_run_id=pipeline_run_id,
        )

    @staticmethod
    def missing_inputs(
        pipeline: str, missing: Sequence[str], given: Iterable[str], hint: str = ""
    ) -> InvalidContextError:
        """Return the error of a run that lacks inputs which its pipeline declares."""
        names = ", ".join(map(repr, missing))
        items = ", ".join(f"{key}=…" for key in missing)
        return InvalidContextError(
            f"pipeline {pipeline!r} needs the input {names}; write run({items})"
            f"{misspelt(missing, given)}{hint}",
            code="missing_run_input",
        )

    @staticmethod
    def given_twice(pipeline: str, keys: Sequence[str]) -> InvalidContextError:
        """Return the error of a run that was given inputs in a mapping and by name."""
        names = ", ".join(map(repr, keys))
        return InvalidContextError(
            f"pipeline {pipeline!r} was given the input {names} in a mapping and by name; give it"
            " once"
        )

    @staticmethod
    def unknown_inputs(
        pipeline: str, unknown: Sequence[str], known: Sequence[str]
    ) -> InvalidContextError:
        """Return the error of a run that was given inputs by names that its pipeline lacks."""
        return InvalidContextError(
            f"pipeline {pipeline!r} has no input {', '.join(map(repr, unknown))}"
            f" (inputs: {list(known)}){did_you_mean(unknown[0], known)}"
        )


class InvalidConfigError(StageflowError):
    """An argument is wrong.

    Attributes:
        owner: The class or function.
        field: Name of the argument.
        found: The wrong value.
    """

    code = "invalid_config"
    category = ErrorCategory.LOGIC

    def __init__(self, owner: str, field: str, found: object, fix: str) -> None:
        super().__init__(f"{owner}: {field} is {shown(found)}; {fix}")
        self.owner = owner
        self.field = field
        self.found = found


def require_methods(
    owner: str, field: str, holder: object, plain: Sequence[str] = (), awaited: Sequence[str] = ()
) -> None:
    """Raise `InvalidConfigError` unless an object has these plain and these async methods."""
    for name in (*plain, *awaited):
        method = getattr(holder, name, None)
        if isinstance(holder, type):
            fix = f"give an instance of it: {holder.__name__}(…)"
        elif not callable(method):
            fix = f"give an object with a method {name}()"
        elif name in plain and (is_async(method) or inspect.isasyncgenfunction(method)):
            fix = f"nobody awaits its {name}(): write 'def {name}'"
        elif name in awaited and not is_async(method):
            fix = f"its {name}() is awaited: write 'async def {name}'"
        else:
            continue
        raise InvalidConfigError(owner, field, holder, fix)


def require_counts(owner: str, **counts: object) -> None:
    """Raise `InvalidConfigError` unless all values are positive integers."""
    for field, value in counts.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise InvalidConfigError(owner, field, value, "give a positive integer")


def require_durations(owner: str, **seconds: object) -> None:
    """Raise `InvalidConfigError` unless all values are positive numbers of seconds."""
    for field, value in seconds.items():
        if not is_duration(value):
            raise InvalidConfigError(owner, field, value, "give a positive number of seconds")


ProblemCode = Literal[
    "invalid_name",
    "invalid_spec",
    "duplicate_stage",
    "self_dependency",
    "unknown_dependency",
    "cycle",
    "duplicate_output",
    "output_is_stream",
    "missing_producer",
    "invalid_runner",
    "invalid_timeout",
    "invalid_declaration",
]


class Problem(NamedTuple):
    """One defect of a pipeline's definition.

    Attributes:
        pipeline: Name of the pipeline.
        stage: Name of the stage.
        code: Kind of the defect; see docs/errors.md.
        text: The defect and the fix.
        key: The input, output, stream, dependency or field concerned.
        path: Names along a cycle in the direction of the data; the first is also the last.
        suggestion: The name that was probably meant.
    """

    pipeline: str
    stage: str
    code: ProblemCode
    text: str
    key: str | None = None
    path: tuple[str, ...] = ()
    suggestion: str | None = None

    def __str__(self) -> str:
        return f"stage {shown(self.stage)}: {self.text}"


class PipelineDefinitionError(StageflowError):
    """All defects of one pipeline's definition, in the order of the stages."""

    code = "pipeline_definition"
    category = ErrorCategory.LOGIC

    def __init__(self, pipeline: str, problems: Sequence[Problem]) -> None:
        count = len(problems)
        heading = f"pipeline {pipeline!r} has {count} problem{'s' if count != 1 else ''}:"
        super().__init__("\n".join((heading, *(f"  - {problem}" for problem in problems))))
        self.pipeline = pipeline
        self.problems = tuple(problems)


class UnknownStageError(StageflowError, KeyError):
    """A stage was requested that the pipeline does not have."""

    code = "unknown_stage"
    category = ErrorCategory.LOGIC

    def __init__(self, pipeline: str, stage: str, known: Iterable[str]) -> None:
        names = sorted(known)
        super().__init__(
            f"pipeline {pipeline!r} has no stage {stage!r} (it has: {', '.join(names[:10])})"
            + did_you_mean(stage, names)
        )
        self.pipeline = pipeline


class ComposeConflictError(StageflowError):
    """The pipelines `left` and `right` have different stages of the same names, `stages`."""

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
