"""A named, immutable set of stages, and what can be done with it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from stageflow.context import PipelineContext
from stageflow.errors import ComposeConflictError, InvalidConfigError, PipelineDefinitionError
from stageflow.graph import StageGraph
from stageflow.interceptors.base import Interceptor
from stageflow.orchestrator import PipelineOrchestrator
from stageflow.result import RunResult
from stageflow.stage import StageOutput, StageSpec
from stageflow.validation import (
    check_header,
    lasting_problems,
    open_problems,
    readable,
    spec_problems,
)


class Pipeline:
    """A named, immutable set of stages.

    A pipeline may be *open*: a stage may depend on one that another pipeline brings. `compose`
    joins two; `build` demands that nothing is missing any more.

    Attributes:
        name: The pipeline's name.
        stages: The specs, in the order given.
        inputs: Keys that a run must be given in its context.
    """

    def __init__(
        self, name: str, specs: Iterable[StageSpec], *, inputs: Sequence[str] = ()
    ) -> None:
        """Define a pipeline.

        Args:
            name: The pipeline's name.
            specs: The stages, in any order.
            inputs: Keys that a run must be given in its context.

        Raises:
            PipelineDefinitionError: Something is wrong that no composition could mend: in a
                single spec, two stages of one name, a cycle, two producers of one output.
            InvalidConfigError: The name is no text, or the specs or inputs are no list.
        """
        check_header(name, specs, inputs)
        self.name = name
        self.stages: tuple[StageSpec, ...] = tuple(specs)
        self.inputs: tuple[str, ...] = tuple(inputs)
        problems = spec_problems(name, self.stages)
        # What can be read of a faulty pipeline is judged, too: all its problems come at once.
        specs = readable(self.stages) if problems else self.stages
        self._graph = StageGraph(specs, name=name, inputs=self.inputs)
        problems += lasting_problems(self._graph)
        if problems:
            raise PipelineDefinitionError(name, problems)

    def compose(self, other: Pipeline) -> Pipeline:
        """Join two pipelines; the result has this one's name, and its stages first.

        Composition is associative, and composing a pipeline with itself changes nothing.

        Raises:
            ComposeConflictError: Both have a stage of the same name, defined differently.
            PipelineDefinitionError: Together they have a cycle, or two producers of one output.
            InvalidConfigError: The other is no pipeline.
        """
        if not _is_pipeline(other):
            raise InvalidConfigError("Pipeline.compose", "other", other, "give a Pipeline")
        own = {spec.name: spec for spec in self.stages}
        conflicts = [s.name for s in other.stages if s.name in own and own[s.name] != s]
        if conflicts:
            raise ComposeConflictError(self.name, other.name, conflicts)
        added = (spec for spec in other.stages if spec.name not in own)
        inputs = dict.fromkeys((*self.inputs, *other.inputs))
        return Pipeline(self.name, (*self.stages, *added), inputs=tuple(inputs))

    def build(self) -> StageGraph:
        """The compiled graph.

        Raises:
            PipelineDefinitionError: A dependency does not exist, or nothing before a stage
                provides one of its inputs. All such problems are named at once.
        """
        problems = open_problems(self._graph)
        if problems:
            raise PipelineDefinitionError(self.name, problems)
        return self._graph

    @cached_property
    def orchestrator(self) -> PipelineOrchestrator:
        """What runs the pipeline without interceptors; built at first use, raises as `build`."""
        return PipelineOrchestrator(self.build())

    async def run(
        self, ctx: PipelineContext | None = None, *, interceptors: Sequence[Interceptor] = ()
    ) -> RunResult:
        """Run the pipeline once; see `PipelineOrchestrator.run`.

        Args:
            ctx: The context; a new, empty one if left out.
            interceptors: Middleware around each stage, the outermost first. For many runs, make
                one `PipelineOrchestrator` instead: it folds them once.
        """
        orchestrator = self.orchestrator
        if interceptors:
            orchestrator = PipelineOrchestrator(orchestrator.graph, interceptors=interceptors)
        return await orchestrator.run(ctx if ctx is not None else PipelineContext())

    def stage(self, name: str, *, interceptors: Sequence[Interceptor] = ()) -> BoundStage:
        """One stage with the engine around it, to be run on its own; made for tests.

        Raises:
            UnknownStageError: There is no such stage.
        """
        spec = self._graph[name]
        return BoundStage(spec.name, PipelineOrchestrator(self._graph, interceptors=interceptors))

    def draw(self) -> str:
        """The pipeline as a Mermaid flowchart."""
        return self._graph.to_mermaid()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Pipeline):
            return NotImplemented
        return (self.name, self.stages, self.inputs) == (other.name, other.stages, other.inputs)

    def __hash__(self) -> int:
        return hash((self.name, self.stages, self.inputs))

    def __repr__(self) -> str:
        return f"Pipeline({self.name!r}, [{', '.join(spec.name for spec in self.stages)}])"


def _is_pipeline(candidate: object) -> bool:
    return isinstance(candidate, Pipeline)


@dataclass(frozen=True, slots=True)
class BoundStage:
    """A single stage that runs as it would within its pipeline: with events, limits and checks.

    Attributes:
        name: The stage's name.
    """

    name: str
    _orchestrator: PipelineOrchestrator

    async def execute(self, ctx: PipelineContext) -> StageOutput:
        """Run the stage in `ctx`; see `PipelineOrchestrator.run_stage`."""
        return await self._orchestrator.run_stage(ctx, self.name)
