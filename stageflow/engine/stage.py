"""Stages: their kinds, their specs, and what they return."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, is_dataclass
from dataclasses import fields as fields_of
from enum import StrEnum
from types import AsyncGeneratorType, CoroutineType
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, ParamSpec, Protocol, TypeVar

from stageflow import errors as err
from stageflow.engine.stage_context import StageContext
from stageflow.events.log import StageStatus

if TYPE_CHECKING:
    from stageflow.engine.interceptor import Interceptor

P = ParamSpec("P")
R = TypeVar("R")


class StageKind(StrEnum):
    """The purpose of a stage: shown in graphs and telemetry, without effect on a run."""

    TRANSFORM = "transform"
    ENRICH = "enrich"
    ROUTE = "route"
    GUARD = "guard"
    WORK = "work"
    AGENT = "agent"


#: What a stage has to await, or to iterate.
_UNFINISHED = frozenset([CoroutineType, AsyncGeneratorType, asyncio.Task, asyncio.Future])

# A look-up of an enumeration's member costs several times as much as one of a global name.
_COMPLETED = StageStatus.COMPLETED


class StageOutput(NamedTuple):
    """The output of a stage.

    Attributes:
        status: COMPLETED, SKIPPED or FAILED.
        outputs: The declared outputs by key; empty unless completed.
        reason: Why the stage was skipped or failed.
        retryable: Whether a failed stage may succeed when it is run again.
        user_message: What to tell the person in the conversation, if the stage failed or refused.
    """

    status: StageStatus
    outputs: Mapping[str, Any]
    reason: str | None = None
    retryable: bool = False
    user_message: str | None = None

    @classmethod
    def ok(cls, outputs: Mapping[str, Any] | None = None, /, **named: Any) -> StageOutput:
        """Return a completed output; give the values as a mapping, by name, or both.

        Raises:
            InvalidConfigError: `outputs` is not a mapping.
        """
        if outputs is not None and not isinstance(outputs, Mapping):
            raise err.InvalidConfigError(
                "StageOutput.ok", "outputs", outputs, "name each output: StageOutput.ok(key=value)"
            )
        everything = {**outputs, **named} if outputs else named
        # Each stage of each run calls this, and it takes half the time of cls(…).
        return tuple.__new__(cls, (_COMPLETED, everything, None, False, None))

    @classmethod
    def skip(cls, reason: str) -> StageOutput:
        """Return the output of a stage that had nothing to do; its outputs are absent."""
        return cls(StageStatus.SKIPPED, {}, reason)

    @classmethod
    def fail(
        cls, reason: str, *, retryable: bool = False, user_message: str | None = None
    ) -> StageOutput:
        """Return the output of a stage that failed, instead of raising an error.

        `reason` is a text for an engineer, `user_message` for the person in the conversation.
        """
        return cls(StageStatus.FAILED, {}, reason, retryable, user_message)

    @classmethod
    def refuse(cls, message: str) -> StageOutput:
        """Return the output of a stage that ends the run with an answer for the user.

        The run completes with `message` as its `RunResult.refusal`, and leaves no dead letter.
        Stages that have not started are skipped, running ones are cancelled.

        Raises:
            InvalidConfigError: The message is not a text, or is empty.
        """
        if not isinstance(message, str) or not message:
            fix = "give the text that the user gets"
            raise err.InvalidConfigError("StageOutput.refuse", "message", message, fix)
        return cls(_COMPLETED, {}, None, False, message)

    def to_dict(self) -> dict[str, Any]:
        """Return the output as plain values; serialisable if the outputs are."""
        return {**self._asdict(), "status": str(self.status), "outputs": dict(self.outputs)}


class OutputKeys(frozenset[str]):
    """The outputs that a stage declares."""

    #: Whether the stage may return their values without a `StageOutput`, and whether None is such
    #: a value; otherwise it is a forgotten return.
    bare = none = False

    def output_of(self, returned: object) -> StageOutput:
        """Return what a stage returned as a `StageOutput`; raise if it cannot be one."""
        if isinstance(returned, StageOutput):
            return returned
        if not self.bare or type(returned) in _UNFINISHED or (returned is None and not self.none):
            raise self._misfit(returned)
        if len(self) == 1:
            for key in self:
                return tuple.__new__(StageOutput, (_COMPLETED, {key: returned}, None, False, None))
        if not self and returned is None:
            return StageOutput.ok()
        fields: Any = None
        if isinstance(returned, Mapping):
            fields = returned
        elif is_dataclass(returned) and not isinstance(returned, type):
            fields = {field.name: getattr(returned, field.name) for field in fields_of(returned)}
        elif isinstance(returned, tuple) and hasattr(returned, "_asdict"):
            fields = returned._asdict()
        if not self or fields is None:
            raise self._misfit(returned)
        return StageOutput.ok(fields)

    def _misfit(self, found: object) -> err.StageDefectError:
        fix = "write 'return StageOutput.ok(key=value)'"
        if isinstance(found, AsyncGeneratorType):
            fix = "write 'async for item in …: yield item'"
        elif type(found) in _UNFINISHED:
            if isinstance(found, CoroutineType):
                found.close()  # avoids Python's warning later
            fix = "write 'return await …'"
        elif self.bare and len(self) == 1:
            fix = f"return the value of {min(self)!r}"
        elif len(self) > 1:
            fix += f", or a mapping, dataclass or NamedTuple with the keys {sorted(self)}"
        elif self.bare and not self and found is not None:
            fix = "declare an output: outputs=[…]"
        problem = f"returned {err.shown(found)} of type {type(found).__name__} instead of a"
        return err.StageDefectError(f"{problem} StageOutput; {fix}", code="invalid_output")


def check_output(output: object, declared: OutputKeys) -> StageOutput:
    """Return what a stage returned as a completed or skipped `StageOutput`.

    Raises:
        StageFailedError: The stage reports that it failed.
        StageDefectError: It is not a `StageOutput`, or its outputs are not the declared ones.
    """
    if type(output) is not StageOutput:
        output = declared.output_of(output)
    outputs = output.outputs
    # Nearly every stage returns a dict, and isinstance of an abstract class is slow.
    if output.status is _COMPLETED and (type(outputs) is dict or isinstance(outputs, Mapping)):
        keys: frozenset[str] = declared
        if outputs.keys() != keys and output.user_message is None:
            extra = sorted(map(str, set(outputs) - declared))
            missing = sorted(declared - set(outputs))
            problem = f"did not return {missing}, which it declares" if missing else ""
            if extra:
                fix = err.did_you_mean(extra[0], missing) or ": add them to its outputs"
                problem = f"returned {extra} undeclared{fix}{'; ' if missing else ''}{problem}"
            misfits = (*extra, *missing)
            raise err.StageDefectError(problem, code="output_mismatch", keys=misfits)
        return output
    if output.status is StageStatus.FAILED:
        reason = output.reason or "no reason given"
        text = reason if isinstance(reason, str) else err.shown(reason)
        again, message = output.retryable, output.user_message
        raise err.StageFailedError(text, retryable=again, user_message=message)
    if output.status is StageStatus.SKIPPED:
        return output
    wrong = f"the status {err.shown(output.status)}"
    if output.status is _COMPLETED:
        wrong = f"the outputs {err.shown(outputs)}"
    raise err.StageDefectError(
        f"returned a StageOutput with {wrong}; write StageOutput.ok(key=value), skip(reason) or"
        " fail(reason)",
        code="invalid_output",
    )


def holds(answer: object) -> bool:
    """Return whether a condition answers true; raise `StageDefectError` if it is async."""
    if type(answer) is CoroutineType:
        answer.close()  # else Python warns about it at some later time
        raise err.StageDefectError(
            "its condition returned a coroutine, which nobody awaits; make it a plain function",
            code="unawaited_output",
        )
    return bool(answer)


class Executable(Protocol):
    """The part of a `Stage` that the engine calls; its name and kind may come from the spec."""

    async def execute(self, ctx: StageContext, /) -> StageOutput:
        """Do the work."""


class Stage(Executable, Protocol):
    """One unit of work."""

    @property
    def name(self) -> str:
        """The stage's name."""

    @property
    def kind(self) -> StageKind:
        """The purpose of the stage."""


StageFunction = Callable[[StageContext], Awaitable[StageOutput]]
"""An async function of a `StageContext` that returns a `StageOutput`."""
Condition = Callable[[StageContext], bool]
"""A plain function of a `StageContext` that decides whether a stage runs."""


@dataclass(frozen=True, slots=True)
class StageSpec:
    """The definition of a stage in a pipeline, which validates it.

    Attributes:
        name: Unique in the pipeline; letters, digits, ``_`` and ``-``.
        runner: An async function of a `StageContext`, or an object with such an ``execute``.
        dependencies: Names of stages that must have ended before, besides the producers of inputs.
        inputs: Keys that the stage may read: outputs and streams of other stages, or inputs of the
            run. The producer of an input is a dependency. If the stage reads only streams of it,
            it starts once these are open, and does not wait for the producer's end.
        outputs: Keys that the stage writes; it writes all of them each time it completes.
        kind: The purpose of the stage.
        required: Whether the run fails when the stage does; otherwise its outputs are then absent.
        timeout_s: Limit of one execution in seconds, interceptors included. It takes effect where
            the stage awaits: code that blocks the loop cannot be interrupted.
        condition: Called before the stage runs; if it returns false, the stage is skipped.
        provider: Name of the provider that the stage calls, for interceptors such as the breaker.
        streams: Keys that the stage opens (`StageContext.open`) and writes item by item, each time
            it completes; dependents read them while it still runs.
    """

    name: str
    runner: StageFunction | Executable
    dependencies: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    kind: StageKind = StageKind.TRANSFORM
    required: bool = True
    timeout_s: float | None = None
    condition: Condition | None = None
    provider: str | None = None
    streams: tuple[str, ...] = ()

    # Not fields: only a `FunctionStage` has others, and every field costs each spec.
    needs: ClassVar[tuple[str, ...]] = ()
    optional: ClassVar[tuple[str, ...]] = ()
    interceptors: ClassVar[tuple[Interceptor, ...]] = ()

    def __post_init__(self) -> None:
        for field in ("dependencies", "inputs", "outputs", "streams"):
            if isinstance(names := getattr(self, field), list):
                object.__setattr__(self, field, tuple(names))

    @property
    def execute(self) -> StageFunction:
        """The async function that does the work."""
        return getattr(self.runner, "execute", self.runner)  # type: ignore[arg-type]

    @property
    def output_keys(self) -> OutputKeys:
        """The declared outputs, with the rule for values that the stage returns without a key."""
        return OutputKeys(self.outputs)


# Without methods of its own for equality and text: making them would slow `import stageflow`.
@dataclass(frozen=True, kw_only=True, eq=False, repr=False, match_args=False)
class FunctionStage(StageSpec, Generic[P, R]):
    """A stage that `stage` made of a function; call it to call the function itself.

    Attributes:
        function: The function as written.
        needs: The inputs without which the stage is skipped, as their producer was or failed.
        optional: The inputs that a run need not have.
        interceptors: Middleware around this stage alone, inside that of the orchestrator.
        problems: What is wrong with its declaration, and what to write; reported by the pipeline.
        none_is_output: Whether the function may return None as the value of its output.
    """

    function: Callable[P, R]
    needs: tuple[str, ...] = ()  # type: ignore[misc]
    optional: tuple[str, ...] = ()  # type: ignore[misc]
    interceptors: tuple[Interceptor, ...] = ()  # type: ignore[misc]
    problems: tuple[str, ...] = ()
    none_is_output: bool = False

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function, as in a test of its own."""
        return self.function(*args, **kwargs)

    @property
    def output_keys(self) -> OutputKeys:
        """The declared outputs; the function may return their values without a `StageOutput`."""
        keys = OutputKeys(self.outputs)
        keys.bare, keys.none = True, self.none_is_output
        return keys
