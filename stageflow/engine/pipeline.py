"""Pipelines: define, compose, build and run a named set of stages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from stageflow.engine.context import PipelineContext
from stageflow.engine.dead_letter import DeadLetterSink
from stageflow.engine.graph import StageGraph
from stageflow.engine.interceptor import Interceptor
from stageflow.engine.orchestrator import PipelineOrchestrator, RunHandle
from stageflow.engine.result import RunResult
from stageflow.engine.stage import StageOutput, StageSpec
from stageflow.engine.validation import (
    check_header,
    readable,
    spec_problems,
    structural_problems,
    unresolved_problems,
)
from stageflow.errors import (
    ComposeConflictError,
    InvalidConfigError,
    PipelineDefinitionError,
    Problem,
)
from stageflow.events.log import EventSink
from stageflow.providers.registry import ProviderRegistry


class Pipeline:
    """A named, immutable set of stages.

    A pipeline may be *open*: a stage may depend on one that another pipeline provides. `compose`
    joins two pipelines; `build` requires that nothing is missing.

    Attributes:
        name: The pipeline's name.
        stages: The specs, in the order given.
        inputs: Keys of the inputs that a run requires.
        optional_inputs: Keys of the inputs for which every reader has a default.
    """

    def __init__(
        self, name: str, specs: Iterable[StageSpec], *, inputs: Sequence[str] | None = None
    ) -> None:
        """Define a pipeline.

        Args:
            name: The pipeline's name.
            specs: The stages, in any order.
            inputs: Keys of all inputs of a run; `build` then refuses a stage that reads something
                else which no stage produces. By default that is an input of the pipeline.

        Raises:
            PipelineDefinitionError: A problem that no composition can fix: a malformed spec, two
                stages of one name, a cycle, or two producers of one output.
            InvalidConfigError: The name is not a text, or the specs or inputs are not a list.
        """
        self._strict = inputs is not None
        inputs = () if inputs is None else inputs
        check_header(name, specs, inputs)
        self.name = name
        self.stages: tuple[StageSpec, ...] = tuple(specs)
        self._declared = tuple(inputs)
        problems = spec_problems(name, self.stages)
        # Check also the readable part of a faulty pipeline, to report all problems at once.
        specs = readable(self.stages) if problems else self.stages
        self._graph = StageGraph(specs, name=name, inputs=self._declared, strict=self._strict)
        self.inputs = self._graph.inputs
        self.optional_inputs = self._graph.optional_inputs
        problems += structural_problems(self._graph, self._declared)
        if problems:
            raise PipelineDefinitionError(name, problems)

    def compose(self, other: Pipeline) -> Pipeline:
        """Join two pipelines; the result has this one's name, and its stages first.

        Composition is associative, and composing a pipeline with itself changes nothing. The
        result declares the inputs that either declares.

        Raises:
            ComposeConflictError: Both have a stage of the same name, defined differently.
            PipelineDefinitionError: Together they have a cycle, or two producers of one output.
            InvalidConfigError: The other is not a pipeline.
        """
        given: object = other
        if not isinstance(given, Pipeline):
            raise InvalidConfigError("Pipeline.compose", "other", other, "give a Pipeline")
        own = {spec.name: spec for spec in self.stages}
        conflicts = [s.name for s in other.stages if s.name in own and own[s.name] != s]
        if conflicts:
            raise ComposeConflictError(self.name, other.name, conflicts)
        added = (spec for spec in other.stages if spec.name not in own)
        inputs = tuple(dict.fromkeys((*self._declared, *other._declared)))
        strict = self._strict or other._strict
        return Pipeline(self.name, (*self.stages, *added), inputs=inputs if strict else None)

    def with_stages(self, specs: Iterable[StageSpec]) -> Pipeline:
        """Return a pipeline of the same name and inputs with these stages; raise as creating it."""
        return Pipeline(self.name, specs, inputs=self._declared if self._strict else None)

    def build(self) -> StageGraph:
        """Return the compiled graph.

        Raises:
            PipelineDefinitionError: A dependency, or the producer of an input, is missing.
        """
        if self._unresolved:
            raise PipelineDefinitionError(self.name, self._unresolved)
        return self._graph

    @cached_property
    def _unresolved(self) -> list[Problem]:
        # Kept, since `run` with interceptors builds each time, and annotations are slow to read.
        return unresolved_problems(self._graph, strict=self._strict)

    @cached_property
    def orchestrator(self) -> PipelineOrchestrator:
        """The orchestrator without interceptors; built at first use, raises as `build` does."""
        return PipelineOrchestrator(self.build())

    def bind(
        self,
        *,
        interceptors: Sequence[Interceptor] = (),
        sinks: Sequence[EventSink] = (),
        dead_letters: DeadLetterSink | None = None,
        providers: ProviderRegistry | None = None,
    ) -> PipelineOrchestrator:
        """Return an orchestrator for many runs with the same surroundings, as in a server.

        Use it as a context manager, or `close` it, to flush and close the sinks.

        Args:
            interceptors: Middleware around each stage, the outermost first.
            sinks: Where the events of all runs go.
            dead_letters: The sink for dead letters of runs that fail.
            providers: The providers of runs whose context has none.

        Raises:
            PipelineDefinitionError: As `build` does.
            InvalidConfigError: One of these is something else.
        """
        graph, letters = self.build(), dead_letters
        bound = PipelineOrchestrator(
            graph, interceptors=interceptors, dead_letters=letters, providers=providers
        )
        bound.send_to(sinks)
        return bound

    async def run(
        self,
        ctx: PipelineContext | Mapping[str, Any] | None = None,
        /,
        *,
        interceptors: Sequence[Interceptor] = (),
        **inputs: Any,
    ) -> RunResult:
        """Run the pipeline once; see `PipelineOrchestrator.run`.

        For many runs with interceptors, `bind` the pipeline instead, which folds them once.
        """
        return await self._orchestrator(interceptors).run(ctx, **inputs)

    def stream(
        self,
        ctx: PipelineContext | Mapping[str, Any] | None = None,
        /,
        *,
        interceptors: Sequence[Interceptor] = (),
        **inputs: Any,
    ) -> RunHandle:
        """Run the pipeline and read its streams meanwhile; takes what `run` takes."""
        return self._orchestrator(interceptors).stream(ctx, **inputs)

    def _orchestrator(self, interceptors: Sequence[Interceptor]) -> PipelineOrchestrator:
        if not interceptors:
            return self.orchestrator
        return PipelineOrchestrator(self.build(), interceptors=interceptors)

    def stage(self, name: str, *, interceptors: Sequence[Interceptor] = ()) -> BoundStage:
        """Return one stage to run alone, as in its pipeline; `UnknownStageError` if it has none."""
        spec = self._graph[name]
        return BoundStage(spec.name, PipelineOrchestrator(self._graph, interceptors=interceptors))

    def draw(self) -> str:
        """Return the pipeline as a Mermaid flowchart."""
        return self._graph.to_mermaid()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Pipeline):
            return NotImplemented
        return self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[object, ...]:
        return self.name, self.stages, self._declared, self._strict

    def __repr__(self) -> str:
        return f"Pipeline({self.name!r}, [{', '.join(spec.name for spec in self.stages)}])"


@dataclass(frozen=True, slots=True)
class BoundStage:
    """A single stage that runs as in its pipeline: with events, limits and checks."""

    name: str
    _orchestrator: PipelineOrchestrator

    async def execute(self, ctx: PipelineContext) -> StageOutput:
        """Run the stage in `ctx`; see `PipelineOrchestrator.run_stage`."""
        return await self._orchestrator.run_stage(ctx, self.name)
