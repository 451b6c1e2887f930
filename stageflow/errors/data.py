"""Errors of definitions, settings, contexts and bags."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, Literal, NamedTuple

from stageflow._utils.checks import is_async, is_duration
from stageflow.errors.base import LOGIC, StageflowError, Traits, did_you_mean, shown


class BagError(StageflowError, code="bag_error", traits=LOGIC):
    """The write-once store refused a `key`."""

    codes: ClassVar[Mapping[str, Traits]] = {"invalid_key": LOGIC}

    def __init__(
        self, key: object, message: str, *, code: str | None = None, stage: str | None = None
    ) -> None:
        super().__init__(message, code=code, stage=stage)
        self.key = key


class DataConflictError(BagError, code="data_conflict"):
    """A key was written a second time; the value of the first writer stays."""

    def __init__(self, key: str, existing_writer: str, new_writer: str) -> None:
        super().__init__(
            key,
            f"key {key!r} was written by {existing_writer!r} and cannot be written again by"
            f" {new_writer!r}; give the second value a key of its own",
            stage=new_writer,
        )
        self.existing_writer = existing_writer
        self.new_writer = new_writer


class MissingKeyError(BagError, KeyError, code="missing_key"):
    """A key was read that has not been written."""

    def __init__(self, key: object, known: Iterable[str], why: str | None = None) -> None:
        names = sorted(known)
        written = ", ".join(map(repr, names[:10])) or "nothing"
        reason = f"; the run {why}" if why else ""
        hint = did_you_mean(key, names)
        super().__init__(
            key, f"key {key!r} has not been written (written: {written}){hint}{reason}"
        )


class InvalidContextError(StageflowError, code="invalid_context", traits=LOGIC):
    """A context cannot carry a run."""

    codes: ClassVar[Mapping[str, Traits]] = {"context_in_use": LOGIC, "missing_run_input": LOGIC}


class InvalidConfigError(StageflowError, code="invalid_config", traits=LOGIC):
    """An argument is wrong.

    Attributes:
        owner: The class or function.
        field: Name of the argument.
        found: The wrong value.
    """

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


class PipelineDefinitionError(StageflowError, code="pipeline_definition", traits=LOGIC):
    """All defects of one pipeline's definition, in the order of the stages."""

    def __init__(self, pipeline: str, problems: Sequence[Problem]) -> None:
        count = len(problems)
        heading = f"pipeline {pipeline!r} has {count} problem{'s' if count != 1 else ''}:"
        super().__init__("\n".join((heading, *(f"  - {problem}" for problem in problems))))
        self.pipeline = pipeline
        self.problems: tuple[Problem, ...] = tuple(problems)


class UnknownStageError(StageflowError, KeyError, code="unknown_stage", traits=LOGIC):
    """A stage was requested that the pipeline does not have."""

    def __init__(self, pipeline: str, stage: str, known: Iterable[str]) -> None:
        names = sorted(known)
        super().__init__(
            f"pipeline {pipeline!r} has no stage {stage!r} (it has: {', '.join(names[:10])})"
            + did_you_mean(stage, names)
        )
        self.pipeline = pipeline


class ComposeConflictError(StageflowError, code="compose_conflict", traits=LOGIC):
    """The pipelines `left` and `right` have different stages of the same names, `stages`."""

    def __init__(self, left: str, right: str, stages: Sequence[str]) -> None:
        self.left = left
        self.right = right
        self.stages: tuple[str, ...] = tuple(stages)
        names = ", ".join(map(repr, self.stages))
        super().__init__(
            f"pipelines {left!r} and {right!r} both have {names}, defined differently;"
            " rename one, or use the same StageSpec in both",
            stage=self.stages[0],
        )
