"""Play a plan: stages that do what it says, and a record of what they saw."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from stageflow import (
    Pipeline,
    PipelineContext,
    StageContext,
    StageOutput,
    StageSpec,
    run_child,
    stage,
    subpipeline,
)
from stageflow.engine import StreamReader, StreamWriter
from stageflow.errors import StreamError
from tools.random_test.plans import Act, Body, Plan, StagePlan, uses
from tools.random_test.raisable import RAISABLE, PlannedBaseError

VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("VARIABLE", default="outside")


class Record(NamedTuple):
    """One thing that a stage did or saw."""

    at: float
    run: str
    stage: str
    execution: int
    what: str
    detail: Any = None


class Hostile:
    """A value that can be neither compared, shown, hashed nor tested."""

    def _refuse(self, *_: object) -> Any:
        raise ValueError("this value is only to be passed on")

    __eq__ = __ne__ = __bool__ = __len__ = __iter__ = __repr__ = __str__ = _refuse
    __getattr__ = _refuse
    __hash__ = None  # type: ignore[assignment]


def _value(kind: str, number: int) -> Any:
    deep: list[Any] = []
    for _ in range(2_000 if kind == "deep" else 0):
        deep = [deep]
    return {
        "number": number, "text": f"{number} é", "list": [number, {"a": None}], "none": None,
        "hostile": Hostile(), "lambda": lambda: None, "deep": deep, "error": ValueError(number),
        "nan": float("nan"),
    }[kind]  # fmt: skip


class Play:
    """One plan while it runs: its pipelines, and what their stages did.

    Attributes:
        virtual: Whether time is virtual, so that it passes only where somebody waits.
        threads: Whether the loop has threads.
        records: What stages did and saw, in order.
        findings: What a stage saw that must not be.
        executions: How often each stage was executed, in all runs.
        contexts: The contexts of the runs, by run id.
        closed: Ids of the runs that have returned.
    """

    def __init__(self, *, virtual: bool, threads: bool, scale: float) -> None:
        self.virtual, self.threads, self.scale = virtual, threads, scale
        self.records: list[Record] = []
        self.findings: list[str] = []
        self.executions: Counter[tuple[str, str]] = Counter()
        self.contexts: dict[str, PipelineContext] = {}
        self.plans: dict[str, Plan] = {}
        self.closed: set[str] = set()
        self.values: dict[tuple[str, str], Any] = {}
        self.received: Counter[tuple[str, str, str]] = Counter()
        self.accepted: Counter[tuple[str, str]] = Counter()
        #: Items whose put was cancelled or failed: they may be missing.
        self.withdrawn: set[tuple[str, int]] = set()
        self.cancelled: list[float] = []
        self.children: list[tuple[str, str]] = []
        self._lock, self._semaphore = asyncio.Lock(), asyncio.Semaphore(2)
        self._pipelines: dict[int, Pipeline] = {}

    def note(self, ctx: StageContext, stage: str, what: str, detail: Any = None) -> None:
        """Record what a stage did or saw."""
        run = ctx.pipeline_run_id
        execution = self.executions[run, stage]
        at = asyncio.get_running_loop().time()
        self.records.append(Record(at, run, stage, execution, what, detail))
        if run in self.closed:
            self.findings.append(f"stage {stage} went on ({what}) after the run had returned")

    def pipeline(self, plan: Plan, name: str = "p") -> Pipeline:
        """Return the pipeline of a plan; the same one each time."""
        if id(plan) not in self._pipelines:
            specs = [self._spec(plan, stage) for stage in plan.stages]
            self._pipelines[id(plan)] = Pipeline(name, specs)
        return self._pipelines[id(plan)]

    def _spec(self, plan: Plan, stage: StagePlan) -> StageSpec:
        timeout_s = stage.timeout_s and stage.timeout_s * self.scale
        if stage.form == "subpipeline" and stage.child:
            return subpipeline(
                stage.name,
                self.pipeline(stage.child, "child"),
                dependencies=stage.dependencies,
                inputs=stage.inputs,
                required=stage.required,
                timeout_s=timeout_s,
            )

        async def run(ctx: StageContext, **values: Any) -> StageOutput:
            self._enter(ctx, plan)
            return await Execution(self, ctx, stage, values).run()

        def condition(ctx: StageContext) -> Any:
            self._enter(ctx, plan)
            self.note(ctx, stage.name, "condition")
            if stage.condition == "raises":
                raise ValueError("planned")
            if stage.condition == "base":
                raise PlannedBaseError("condition")
            return {"true": True, "false": False, "odd": Hostile()}[stage.condition or "true"]

        runner: Any = run
        if stage.form == "object":
            runner = type("Runner", (), {"execute": staticmethod(run)})()
        if stage.form in {"parameters", "defaults"}:
            return _declared(plan, stage, run, condition if stage.condition else None, timeout_s)
        return StageSpec(
            stage.name,
            runner,
            dependencies=stage.dependencies,
            inputs=stage.inputs,
            outputs=stage.outputs,
            streams=stage.streams,
            required=stage.required,
            timeout_s=timeout_s,
            condition=condition if stage.condition else None,
            provider=stage.provider,
        )

    def _enter(self, ctx: StageContext, plan: Plan) -> None:
        self.contexts.setdefault(ctx.pipeline_run_id, ctx.run)
        self.plans.setdefault(ctx.pipeline_run_id, plan)


def _declared(
    plan: Plan, planned: StagePlan, run: Any, condition: Any, timeout_s: float | None
) -> StageSpec:
    """Return a stage as `@stage` makes it of a function whose parameters are the inputs."""
    named = [key for key in planned.inputs if key.isidentifier()]
    default = inspect.Parameter.empty if planned.form == "parameters" else None
    parameters = [
        inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=default) for key in named
    ]
    context = inspect.Parameter("ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    run.__signature__ = inspect.Signature([context, *parameters])
    made = {key: one.name for one in plan.stages for key in (*one.outputs, *one.streams)}
    implied = {made.get(key) for key in planned.inputs}
    return stage(
        planned.name,
        inputs=[key for key in planned.inputs if key not in named],
        outputs=planned.outputs,
        streams=planned.streams,
        dependencies=[name for name in planned.dependencies if name not in implied],
        required=planned.required,
        timeout_s=timeout_s,
        when=condition,
        provider=planned.provider,
    )(run)


class Execution:
    """One execution of a stage; `values` are its parameters."""

    def __init__(
        self, play: Play, ctx: StageContext, stage: StagePlan, values: Mapping[str, Any]
    ) -> None:
        self.play, self.ctx, self.stage = play, ctx, stage
        for key, value in values.items():
            if value is not ctx.get(key) and not isinstance(value, StreamReader):
                self.complain(f"the parameter {key!r} is not the input of that name")
        self.run_id = ctx.pipeline_run_id
        play.executions[self.run_id, stage.name] += 1
        play.executions["", stage.name] += 1
        self.number = play.executions["", stage.name]
        self.main = asyncio.current_task()
        self.writers: dict[str, StreamWriter] = {}
        self.spawned: list[asyncio.Task[None]] = []
        self.hung = False

    def note(self, what: str, detail: Any = None) -> None:
        """Record what the stage did or saw."""
        self.play.note(self.ctx, self.stage.name, what, detail)

    def complain(self, text: str) -> None:
        """Record what must not be."""
        self.play.findings.append(f"stage {self.stage.name}: {text}")

    async def run(self) -> StageOutput:
        """Do what the plan says; the last record says how it ended."""
        self.note("began")
        others = {stage.name for stage in self.play.plans[self.run_id].stages} - {self.stage.name}
        if VARIABLE.get() in others:
            self.complain(f"sees the context variable of {VARIABLE.get()!r}")
        VARIABLE.set(self.stage.name)
        if asyncio.current_task() is None:
            self.complain("runs without a task")
        try:
            try:
                await self.perform(self.stage.body)
            finally:
                # A stage that is closed cannot wait any more.
                await self.reap(self.spawned, wait=not self.hung)
            output: StageOutput = self._output()
        except BaseException as error:
            closed = isinstance(error, GeneratorExit) and self.hung
            self.note("closed" if closed else "raised", error)
            raise
        finally:
            if VARIABLE.get() != self.stage.name:
                self.complain(f"its context variable became {VARIABLE.get()!r}")
        self.note("returned", self.stage.ending)
        return output

    def _output(self) -> Any:
        stage = self.stage
        values = {key: _value(stage.value, self.number) for key in stage.outputs}
        for key, value in values.items():
            if stage.ending in {"ok", "mapping"}:
                self.play.values[self.run_id, key] = value
        first = dict(list(values.items())[1:])
        awaited = asyncio.sleep
        made: dict[str, Callable[[], Any]] = {
            "ok": lambda: StageOutput.ok(**values),
            "mapping": lambda: StageOutput.ok(values),
            "skip": lambda: StageOutput.skip("planned"),
            "fail": lambda: StageOutput.fail("planned"),
            "fail_retryable": lambda: StageOutput.fail("planned", retryable=True),
            "missing": lambda: StageOutput.ok(first),
            "extra": lambda: StageOutput.ok(values, undeclared=1),
            "none": lambda: None,
            "dict": lambda: values,
            "text": lambda: "text",
            "coroutine": lambda: awaited(0),
            "output_coroutine": lambda: StageOutput.ok(
                {**values, **dict.fromkeys(stage.outputs, awaited(0))}
            ),
            "class": lambda: StageOutput,
            "odd_reason": lambda: StageOutput.skip(Hostile()),  # type: ignore[arg-type]
            "odd_keys": lambda: StageOutput.ok({1: 2, None: 3}),  # type: ignore[dict-item]
        }
        return made[stage.ending]()

    async def perform(self, body: Body) -> None:
        """Do one act after another."""
        for act in body:
            if self.run_id in self.play.closed:
                self.complain(f"goes on ({act.kind}) after the run had returned")
            await getattr(self, f"_{act.kind}")(act)

    def _start(self, body: Body) -> asyncio.Task[None]:
        return asyncio.get_running_loop().create_task(self.perform(body))

    async def reap(
        self, tasks: list[asyncio.Task[None]], *, cancel: bool = True, wait: bool = True
    ) -> None:
        """Wait for all tasks, however often this one is cancelled meanwhile."""
        stopped: asyncio.CancelledError | None = None
        if cancel:
            for task in tasks:
                task.cancel()
        while wait and not all(task.done() for task in tasks):
            try:
                await asyncio.wait(tasks)
            except asyncio.CancelledError as error:
                stopped = error
                for task in tasks:
                    task.cancel()
        for task in tasks:
            if task.done() and not task.cancelled():
                task.exception()
        if stopped is not None:
            raise stopped

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    async def _sleep(self, act: Act) -> None:
        await asyncio.sleep(act.value * self.play.scale)

    async def _turns(self, act: Act) -> None:
        for _ in range(act.value):
            await asyncio.sleep(0)

    async def _raise(self, act: Act) -> None:
        error = RAISABLE[act.value]()
        if isinstance(error, asyncio.CancelledError):
            self.note("stray")
        raise error

    async def _stray(self, act: Act) -> None:
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        self.note("stray")
        await future

    async def _cancel_self(self, act: Act) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.note("cancel_self" if task is self.main else "stray")
        task.cancel()

    async def _emit(self, act: Act) -> None:
        self.ctx.emit(act.value, n=self.number)

    async def _look(self, act: Act) -> None:
        """Compare the inputs with what their producers returned."""
        for key in self.stage.inputs:
            value = self.ctx.get(key, self)
            if value is self or isinstance(value, StreamReader):
                continue
            expected = self.play.values.get((self.run_id, key), self)
            if expected is not self and value is not expected:
                self.complain(f"input {key!r} is not what its producer returned")
        left = self.ctx.remaining_s()
        if (
            left is not None
            and self.play.virtual
            and left < 0
            and self.run_id not in self.play.closed
        ):
            self.note("late", left)

    async def _variable(self, act: Act) -> None:
        VARIABLE.set(self.stage.name)

    async def _thread(self, act: Act) -> None:
        if self.play.threads:
            await asyncio.to_thread(time.sleep, 0.0005)

    async def _forever(self, act: Act) -> None:
        await asyncio.Event().wait()

    async def _hang(self, act: Act) -> None:
        """Refuse to end, until the engine closes this."""
        if self.play.virtual:
            self.hung = True
            while True:
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    self.note("refused")

    async def _first(self, act: Act) -> None:
        if self.number <= act.value:
            await self.perform(act.parts[0])

    async def _timeout(self, act: Act) -> None:
        limit_s = act.value * self.play.scale
        began = self._now()
        try:
            async with asyncio.timeout(limit_s) as limit:
                await self.perform(act.parts[0])
        except TimeoutError:
            if limit.expired() and self._now() < began + limit_s - 1e-3:
                self.complain("asyncio.timeout came early")

    async def _wait_for(self, act: Act) -> None:
        task = self._start(act.parts[0])
        try:
            await asyncio.wait_for(task, act.value * self.play.scale)
        except TimeoutError:
            pass
        finally:
            # A cancellation while wait_for waits for the cancelled task leaves it behind.
            await self.reap([task])

    async def _group(self, act: Act) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for part in act.parts:
                    work = self.perform(part)
                    try:
                        group.create_task(work)
                    except RuntimeError:  # an eager task has failed the group
                        work.close()
                        raise
        except BaseExceptionGroup as errors:
            if act.value == "raise" or (act.value == "catch" and not isinstance(errors, Exception)):
                raise
            if act.value == "first":
                raise errors.exceptions[0] from None

    async def _gather(self, act: Act) -> None:
        tasks = [self._start(part) for part in act.parts]
        try:
            await asyncio.gather(*tasks, return_exceptions=act.value)
        finally:
            await self.reap(tasks)

    async def _shield(self, act: Act) -> None:
        task = self._start(act.parts[0])
        try:
            await asyncio.shield(task)
        finally:
            await self.reap([task], cancel=act.value == "cancel")

    async def _spawn(self, act: Act) -> None:
        self.spawned.append(self._start(act.parts[0]))

    async def _lock(self, act: Act) -> None:
        async with self.play._lock:
            await self.perform(act.parts[0])

    async def _semaphore(self, act: Act) -> None:
        async with self.play._semaphore:
            await self.perform(act.parts[0])

    async def _swallow(self, act: Act) -> None:
        try:
            await self.perform(act.parts[0])
        except asyncio.CancelledError:
            self.note("swallowed")
            task = asyncio.current_task()
            if act.value and task is not None:
                task.uncancel()

    async def _catch(self, act: Act) -> None:
        try:
            await self.perform(act.parts[0])
        except Exception as error:
            self.note("caught", error)

    async def _finally(self, act: Act) -> None:
        try:
            await self.perform(act.parts[0])
        finally:
            await self.perform(act.parts[1])

    async def _open(self, act: Act) -> None:
        key, capacity = act.value
        self.writers[key] = self.ctx.open(key, capacity=capacity)

    async def _put(self, act: Act) -> None:
        key, count = act.value
        writer = self.writers.get(key)
        for _ in range(count if writer else 0):
            assert writer is not None
            number = self.play.accepted[self.run_id, key]
            # Nobody else of this stage puts between the count and the put: items are in order.
            self.play.accepted[self.run_id, key] += 1
            try:
                wanted = await writer.put((key, number))
            except BaseException:
                self.play.withdrawn.add((key, number))
                raise
            if not wanted:
                self.note("unwanted", key)
                return

    async def _read(self, act: Act) -> None:
        key, limit = act.value
        reader = self.ctx.get(key)
        if not isinstance(reader, StreamReader):
            return
        read = 0
        try:
            async for item in reader:
                self.note("read", (key, reader, item))
                read += 1
                if read == limit:
                    break
        except StreamError as error:
            self.note("read_failed", (key, error))
            raise
        else:
            if read != limit:
                self.note("read_all", (key, reader))

    @contextmanager
    def _straying(self) -> Iterator[None]:
        """Note that a child run may have ended by a cancellation of its own."""
        try:
            yield
        except asyncio.CancelledError:
            if self.stage.child is not None and uses(self.stage.child, "cancel_self"):
                self.note("stray")
            raise

    async def _child(self, act: Act) -> None:
        assert self.stage.child is not None
        limit_s = None if act.value is None else act.value * self.play.scale
        pipeline = self.play.pipeline(self.stage.child, "child")
        with self._straying():
            result = await run_child(self.ctx, pipeline, deadline_s=limit_s)
        self.play.closed.add(result.pipeline_run_id)

    async def _run(self, act: Act) -> None:
        assert self.stage.child is not None
        limit_s = None if act.value is None else act.value * self.play.scale
        ctx = PipelineContext(deadline_s=limit_s)
        try:
            with self._straying():
                await self.play.pipeline(self.stage.child, "child").run(ctx)
        finally:
            if ctx.pipeline_run_id is not None:
                self.play.closed.add(ctx.pipeline_run_id)
