"""What a stage is, where it stands in a pipeline, and what it returns."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple, Protocol, Self, TypeAlias, overload

from stageflow.context import StageContext
from stageflow.errors import (
    InvalidConfigError,
    InvalidOutputError,
    OutputMismatchError,
    StageFailedError,
)
from stageflow.events import StageStatus


class StageKind(StrEnum):
    """What a stage is for; drawn in graphs and carried in telemetry, never acted upon."""

    TRANSFORM = "transform"
    ENRICH = "enrich"
    ROUTE = "route"
    GUARD = "guard"
    WORK = "work"
    AGENT = "agent"


# Looking up a member of an enumeration costs several times as much as a global name.
_COMPLETED = StageStatus.COMPLETED


class StageOutput(NamedTuple):
    """What a stage returns.

    Attributes:
        status: COMPLETED, SKIPPED or FAILED.
        outputs: The declared outputs by key; empty unless completed.
        reason: Why the stage was skipped or failed.
        retryable: Whether a failed stage may succeed when it is run again.
    """

    status: StageStatus
    outputs: Mapping[str, Any]
    reason: str | None = None
    retryable: bool = False

    @classmethod
    def ok(cls, outputs: Mapping[str, Any] | None = None, /, **named: Any) -> Self:
        """A completed stage with its outputs, given as a mapping, by name, or both.

        Raises:
            InvalidConfigError: What stands in the mapping's place is none.
        """
        if outputs is not None and not isinstance(outputs, Mapping):
            raise InvalidConfigError(
                "StageOutput.ok", "outputs", outputs, "name each output: StageOutput.ok(key=value)"
            )
        everything = {**outputs, **named} if outputs else named
        # Each stage of each run comes by here, and this is half the price of cls(…).
        return tuple.__new__(cls, (_COMPLETED, everything, None, False))

    @classmethod
    def skip(cls, reason: str) -> Self:
        """A stage that had nothing to do; dependents see its outputs as absent."""
        return cls(StageStatus.SKIPPED, {}, reason)

    @classmethod
    def fail(cls, reason: str, *, retryable: bool = False) -> Self:
        """A stage that failed, for those who would rather not raise."""
        return cls(StageStatus.FAILED, {}, reason, retryable)

    def to_dict(self) -> dict[str, Any]:
        """The output as plain values; serialisable as far as the outputs are."""
        return {
            "status": str(self.status),
            "outputs": dict(self.outputs),
            "reason": self.reason,
            "retryable": self.retryable,
        }


def check_output(output: object, declared: frozenset[str]) -> StageOutput:
    """Let a stage's success pass.

    Args:
        output: Whatever the stage returned.
        declared: The outputs that it declares.

    Returns:
        The same, if it is a completed or skipped `StageOutput`.

    Raises:
        InvalidOutputError: It is no `StageOutput`, or one that no stage can return.
        StageFailedError: The stage says that it failed.
        OutputMismatchError: Its outputs are not the declared ones.
    """
    if not isinstance(output, StageOutput):
        raise InvalidOutputError(output)
    outputs = output.outputs
    # An abstract class is slow to ask: a dict is what nearly every stage returns.
    if output.status is _COMPLETED and (type(outputs) is dict or isinstance(outputs, Mapping)):
        if outputs.keys() != declared:
            returned = set(outputs)
            raise OutputMismatchError(
                undeclared=sorted(map(str, returned - declared)),
                missing=sorted(declared - returned),
            )
        return output
    if output.status is StageStatus.FAILED:
        raise StageFailedError(output.reason or "no reason given", retryable=output.retryable)
    if output.status is StageStatus.SKIPPED:
        return output
    raise InvalidOutputError(output)


class Stage(Protocol):
    """One unit of work."""

    @property
    def name(self) -> str:
        """The stage's name."""

    @property
    def kind(self) -> StageKind:
        """What the stage is for."""

    async def execute(self, ctx: StageContext, /) -> StageOutput:
        """Do the work."""


class Executable(Protocol):
    """The part of a `Stage` that the engine calls; its name and kind may come from the spec."""

    async def execute(self, ctx: StageContext, /) -> StageOutput:
        """Do the work."""


StageFunction: TypeAlias = Callable[[StageContext], Awaitable[StageOutput]]
Condition: TypeAlias = Callable[[StageContext], bool]


@dataclass(frozen=True, slots=True)
class StageSpec:
    """A stage's place in a pipeline.

    Nothing is judged here: the pipeline does, so that it can report all that is wrong at once.

    Attributes:
        name: Unique in the pipeline; letters, digits, ``_`` and ``-``.
        runner: An async function of a `StageContext`, or an object with such an ``execute``.
        dependencies: Names of the stages that must have ended before this one starts.
        inputs: Keys that the stage may read: outputs and streams of ancestors, or inputs of the
            run. If these are streams of a dependency and none of its outputs, the stage starts
            once they are open, and not only when that dependency has ended.
        outputs: Keys that the stage writes, all of them, each time it completes.
        kind: What the stage is for.
        required: Whether the run fails when the stage does. The dependents of a stage that is
            not required see its outputs as absent when it failed.
        timeout_s: Limit of one execution in seconds, interceptors included; None for no limit.
            It strikes where the stage awaits: code that blocks the loop cannot be interrupted.
        condition: Asked before the stage runs; when it says no, the stage is skipped.
        provider: Name of the provider that the stage calls, if it is one: interceptors that keep
            an eye on providers, such as the circuit breaker, go by it.
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

    def __post_init__(self) -> None:
        # Every spec of every pipeline comes by here, and hardly any has a list.
        given: Any = self
        if (
            isinstance(given.dependencies, list)
            or isinstance(given.inputs, list)
            or isinstance(given.outputs, list)
            or isinstance(given.streams, list)
        ):
            for field in ("dependencies", "inputs", "outputs", "streams"):
                names = getattr(self, field)
                if isinstance(names, list):
                    object.__setattr__(self, field, tuple(names))

    @property
    def execute(self) -> StageFunction:
        """The async function that does the work."""
        return getattr(self.runner, "execute", self.runner)  # type: ignore[arg-type]


@overload
def stage(name: StageFunction, /) -> StageSpec: ...


@overload
def stage(
    name: str | None = None,
    *,
    dependencies: Sequence[str] = (),
    inputs: Sequence[str] = (),
    outputs: Sequence[str] = (),
    kind: StageKind = StageKind.TRANSFORM,
    required: bool = True,
    timeout_s: float | None = None,
    condition: Condition | None = None,
    provider: str | None = None,
    streams: Sequence[str] = (),
) -> Callable[[StageFunction], StageSpec]: ...


def stage(
    name: str | StageFunction | None = None,
    *,
    dependencies: Sequence[str] = (),
    inputs: Sequence[str] = (),
    outputs: Sequence[str] = (),
    kind: StageKind = StageKind.TRANSFORM,
    required: bool = True,
    timeout_s: float | None = None,
    condition: Condition | None = None,
    provider: str | None = None,
    streams: Sequence[str] = (),
) -> Callable[[StageFunction], StageSpec] | StageSpec:
    """Declare a stage where its function stands.

    Example:
        >>> @stage(inputs=["audio"], outputs=["transcript"], timeout_s=2.0)
        ... async def stt(ctx):
        ...     return StageOutput.ok(transcript=await ctx.stt.transcribe(ctx["audio"]))

    Args:
        name: The stage's name; the function's own if left out, as in a bare ``@stage``.
        dependencies: See `StageSpec`, as for everything else.
        inputs: Keys that the stage may read.
        outputs: Keys that the stage writes.
        kind: What the stage is for.
        required: Whether the run fails when the stage does.
        timeout_s: Limit of one execution in seconds.
        condition: Asked before the stage runs.
        provider: Name of the provider that the stage calls.
        streams: Keys that the stage opens and writes item by item.

    Returns:
        A decorator that turns an async function into a `StageSpec`.
    """

    def declare(function: StageFunction) -> StageSpec:
        return StageSpec(
            name=name if isinstance(name, str) else getattr(function, "__name__", repr(function)),
            runner=function,
            # Whatever is no list is left for the pipeline to judge: a text is not its letters.
            dependencies=dependencies,  # type: ignore[arg-type]
            inputs=inputs,  # type: ignore[arg-type]
            outputs=outputs,  # type: ignore[arg-type]
            kind=kind,
            required=required,
            timeout_s=timeout_s,
            condition=condition,
            provider=provider,
            streams=streams,  # type: ignore[arg-type]
        )

    return declare(name) if callable(name) else declare
