"""What the engine expects of an interceptor: that a stage behind it keeps its own contract."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from stageflow.context import PipelineContext, RunStatus, StageContext
from stageflow.interceptors.base import Interceptor
from stageflow.orchestrator import PipelineOrchestrator
from stageflow.pipeline import Pipeline
from stageflow.stage import StageOutput, StageSpec
from stageflow.testing.contracts.cancellation import CancellationProbe
from stageflow.testing.contracts.overrides import Contract
from stageflow.testing.invariants import check_run
from stageflow.testing.scripted import ScriptedStage
from stageflow.testing.simulation import (
    EPOCH_S,
    Scenario,
    Schedule,
    Simulation,
    SimulationLoop,
    run_in,
    simulate,
)


class InterceptorContractTest(Contract):
    """The contract of an interceptor, or of several in a row; each test makes them anew.

    Example:
        >>> class TestMine(InterceptorContractTest):
        ...     def make_interceptors(self) -> list[Interceptor]:
        ...         return [MyInterceptor()]
    """

    def make_interceptors(self) -> Sequence[Interceptor]:
        """What is under test, the outermost first; set up so that it lets everything through.

        Raises:
            NotImplementedError: The subclass does not say which.
        """
        raise NotImplementedError(
            f"{type(self).__name__} does not say which: write make_interceptors"
        )

    def test_what_completes_completes(self) -> None:
        """With the stage's outputs."""
        self._ends_as_without(ScriptedStage(("k",), (1.0,), "ok"))

    def test_what_does_not_suspend_completes(self) -> None:
        """Also a stage that never gives the loop its turn."""
        self._ends_as_without(ScriptedStage(("k",)))

    def test_what_raises_fails_alike(self) -> None:
        """With the same code and text."""
        self._ends_as_without(ScriptedStage(("k",), (1.0,), "raise"))

    def test_what_fails_fails_alike(self) -> None:
        """Also a failure that the stage returns."""
        self._ends_as_without(ScriptedStage(("k",), (), "fail"))

    def test_what_is_skipped_is_skipped(self) -> None:
        """For the stage's own reason."""
        self._ends_as_without(ScriptedStage((), (1.0,), "skip"))

    def test_a_cancellation_passes(self) -> None:
        """At each step: the run is cancelled, its events are sound, and nothing is left behind."""
        pipeline = _pipeline(ScriptedStage(("k",), (1.0, 0.0), "ok"))

        async def main(sim: Simulation) -> RunStatus:
            probe = CancellationProbe()
            orchestrator = PipelineOrchestrator(
                pipeline.build(), interceptors=[probe, *self.make_interceptors()]
            )
            context = sim.context()
            cancelled = False
            try:
                check_run(pipeline, await sim.interruptible(orchestrator.run(context)))
            except asyncio.CancelledError:
                cancelled = True
            assert not cancelled or context.status in ("created", "cancelled"), (
                f"the caller was cancelled, and the run {context.status}"
            )
            assert not probe.swallowed, "a cancelled stage came back: let CancelledError pass"
            ends = [event.what for event in context.get_events() if event.stage]
            assert ends[-1:] != ["failed"], "a cancellation became a failure"
            sim.loop.check_nothing_left()
            return context.status

        steps = simulate(main).steps
        seen = {
            simulate(main, scenario=Scenario(cancel_at_step=step)).value
            for step in range(1, steps + 1)
        }
        assert RunStatus.CANCELLED in seen, "no cancellation reached the stage"

    def test_runs_at_once_do_not_mix(self) -> None:
        """In any order, each ends with what is its own."""
        for seed in range(20):
            loop = SimulationLoop(Schedule(seed))
            assert run_in(loop, self._many(5)) == list(range(5))

    def test_an_instance_serves_many_runs(self) -> None:
        """One after another, each as the first."""
        pipeline = _pipeline(ScriptedStage(("k",), (1.0,), "ok"))
        interceptors = self.make_interceptors()
        first = self._told(pipeline, interceptors)
        assert all(self._told(pipeline, interceptors) == first for _ in range(5))

    async def _many(self, runs: int) -> list[Any]:
        async def echo(ctx: StageContext) -> StageOutput:
            number = ctx["number"]
            await asyncio.sleep(0.1)
            return StageOutput.ok(k=number)

        spec = StageSpec("s", echo, inputs=("number",), outputs=("k",))
        graph = Pipeline("p", [spec], inputs=["number"]).build()
        orchestrator = PipelineOrchestrator(graph, interceptors=self.make_interceptors())
        contexts = [PipelineContext({"number": number}) for number in range(runs)]
        results = await asyncio.gather(*map(orchestrator.run, contexts))
        return [result.unwrap()["k"] for result in results]

    def _ends_as_without(self, runner: ScriptedStage) -> None:
        pipeline = _pipeline(runner)
        without = self._told(pipeline, ())
        within = self._told(pipeline, self.make_interceptors())
        assert within == without, f"ends as {within}, and without it as {without}"

    def _told(self, pipeline: Pipeline, interceptors: Sequence[Interceptor]) -> Any:
        """How a run ends: what is compared of it."""
        orchestrator = PipelineOrchestrator(pipeline.build(), interceptors=list(interceptors))
        context = PipelineContext(seed=1, wall_clock=lambda: EPOCH_S)
        result = run_in(SimulationLoop(), orchestrator.run(context))
        check_run(pipeline, result)
        stage = result.stages["s"]
        return result.status, result.outputs, stage.status, dict(stage.detail), result.error


def _pipeline(runner: ScriptedStage) -> Pipeline:
    spec = StageSpec("s", runner, outputs=runner.outputs, provider="llm", timeout_s=100.0)
    return Pipeline("p", [spec])
