"""What can be wrong with the definition of a pipeline."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from stageflow.errors.base import ErrorCategory, StageflowError, did_you_mean, nearest, shown


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
        super().__init__(f"pipeline {pipeline!r}, stage {shown(stage)}: {problem}", stage=stage)
        self.pipeline = pipeline
        self.problem = problem


class InvalidNameError(DefinitionError):
    """A name that is no name."""

    code = "invalid_name"

    def __init__(self, pipeline: str, stage: object) -> None:
        super().__init__(
            pipeline,
            stage if isinstance(stage, str) else shown(stage),
            "a name is made of letters, digits, '_' and '-' (dots separate the parts of an"
            f" event's type); rename {shown(stage)}",
        )


class InvalidSpecError(DefinitionError):
    """Something that is not a stage specification stands where one is expected."""

    code = "invalid_spec"

    def __init__(self, pipeline: str, found: object) -> None:
        super().__init__(
            pipeline,
            str(getattr(found, "__name__", type(found).__name__)),
            f"{shown(found)} is no StageSpec; write StageSpec(name, runner, …) or use @stage",
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
    """Two stages declare the same output or stream, or one that is an input of the run."""

    code = "duplicate_output"

    def __init__(self, pipeline: str, stage: str, key: str, other: str) -> None:
        self.key = key
        self.other = other
        super().__init__(
            pipeline,
            stage,
            f"declares the output {key!r}, which {other} already provides; rename one of them",
        )


class OutputIsStreamError(DefinitionError):
    """A stage declares one key as an output and as a stream."""

    code = "output_is_stream"

    def __init__(self, pipeline: str, stage: str, key: str) -> None:
        self.key = key
        super().__init__(
            pipeline,
            stage,
            f"declares {key!r} as an output and as a stream; keep it in one of the two",
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
            + did_you_mean(key, known)
        )
        super().__init__(pipeline, stage, f"declares the input {key!r}, but {mend}")


class InvalidRunnerError(DefinitionError):
    """A runner that cannot be awaited."""

    code = "invalid_runner"

    def __init__(self, pipeline: str, stage: str, runner: object, problem: str = "") -> None:
        what = problem or (
            "is neither an async function nor an object with an async execute(ctx);"
            " write 'async def'"
        )
        super().__init__(pipeline, stage, f"its runner {shown(runner)} {what}")
        self.runner = runner


class InvalidTimeoutError(DefinitionError):
    """A timeout that is no positive, finite number of seconds."""

    code = "invalid_timeout"

    def __init__(self, pipeline: str, stage: str, timeout_s: object) -> None:
        super().__init__(
            pipeline,
            stage,
            f"timeout_s is {shown(timeout_s)}; give a positive number of seconds, or None for no"
            " limit",
        )
        self.timeout_s = timeout_s


class InvalidDeclarationError(DefinitionError):
    """A field of a stage's specification that holds something else than it may."""

    code = "invalid_declaration"

    def __init__(self, pipeline: str, stage: str, field: str, found: object, mend: str) -> None:
        super().__init__(pipeline, stage, f"{field} holds {shown(found)}; {mend}")
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
        lines = (f"  - stage {shown(p.stage)}: {p.problem}" for p in self.problems)
        return "\n".join((heading, *lines))


class UnknownStageError(StageflowError, KeyError):
    """A stage was asked for that the pipeline does not have."""

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
