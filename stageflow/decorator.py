"""Declare a stage where its function is defined: its parameters are inputs."""

from __future__ import annotations

import asyncio
import builtins
import inspect
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from keyword import iskeyword
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, ParamSpec, TypeVar, cast, overload

from stageflow._utils.checks import is_async
from stageflow._utils.closing import close_stream
from stageflow._utils.tasks import off_loop, shielded
from stageflow.engine.interceptor import Interceptor
from stageflow.engine.stage import Condition, FunctionStage, StageFunction, StageKind, StageOutput
from stageflow.engine.stage_context import REQUIRED, Argument, StageContext
from stageflow.engine.stream import StreamWriter
from stageflow.errors import InvalidConfigError, StageDefectError, shown

if TYPE_CHECKING:
    from typing import TypedDict, Unpack

    from stageflow.interceptors.breaker import BreakerInterceptor
    from stageflow.interceptors.retry import RetryInterceptor
    from stageflow.resilience.circuit_breaker import BreakerPolicy, BreakerRegistry
    from stageflow.resilience.retry import RetryPolicy

    class _Options(TypedDict, total=False):
        inputs: Sequence[str]
        outputs: Sequence[str] | None
        streams: Sequence[str]
        dependencies: Sequence[str]
        after: Sequence[str]
        kind: StageKind
        required: bool
        timeout_s: float | None
        when: Callable[..., bool] | None
        provider: str | None
        retry: RetryPolicy | RetryInterceptor | None
        breaker: BreakerPolicy | BreakerRegistry | BreakerInterceptor | None


P = ParamSpec("P")
R = TypeVar("R")
#: What an async function returns, or one that yields.
A = TypeVar("A", bound=Awaitable[Any] | AsyncIterator[Any])

#: What may be around a class: ``Optional[…]``, ``Annotated[…, …]``, ``… | None``.
_AROUND = re.compile(r"[\w.]*(?:Optional|Annotated|Union)\[|None(?:, | \| )| \| None|,.*|\]")
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


@overload
def stage(name: Callable[P, A], /) -> FunctionStage[P, A]: ...


@overload
def stage(
    name: str | None = None, *, thread: Literal[False] = False, **options: Unpack[_Options]
) -> Callable[[Callable[P, A]], FunctionStage[P, A]]: ...


@overload
def stage(
    name: str | None = None, *, thread: Literal[True], **options: Unpack[_Options]
) -> Callable[[Callable[P, R]], FunctionStage[P, R]]: ...


def stage(
    name: str | Callable[P, R] | None = None,
    *,
    inputs: Sequence[str] = (),
    outputs: Sequence[str] | None = None,
    streams: Sequence[str] = (),
    dependencies: Sequence[str] = (),
    after: Sequence[str] = (),
    kind: StageKind = StageKind.TRANSFORM,
    required: bool = True,
    timeout_s: float | None = None,
    when: Callable[..., bool] | None = None,
    provider: str | None = None,
    retry: RetryPolicy | RetryInterceptor | None = None,
    breaker: BreakerPolicy | BreakerRegistry | BreakerInterceptor | None = None,
    thread: bool = False,
) -> Callable[[Callable[P, R]], FunctionStage[P, R]] | FunctionStage[P, R]:
    """Make a stage of a function: its parameters are inputs, its return value is the output.

    A parameter that is annotated `StageContext`, or is called ``ctx`` without another annotation,
    gets the context. A parameter with a default is optional; if a required one is absent, because
    its producer was skipped or failed, the stage is skipped too. A function that yields writes a
    stream. Any function may return a `StageOutput`.

    Example:
        >>> @stage(timeout_s=2.0, retry=RetryPolicy(attempts=3))
        ... async def answer(question: str, facts: list[str]) -> str:
        ...     return f"{question} {facts[0]}."

    Args:
        name: The stage's name; the function's own by default, as in a bare ``@stage``.
        inputs: Further keys that the stage may read, by ``ctx[key]``.
        outputs: Keys that the stage writes. By default the stage's name, unless the function is
            annotated to return None or a `StageOutput`, or has no parameter but the context and no
            annotation. One output is the returned value; several are returned as a mapping, a
            dataclass or a NamedTuple with these fields.
        streams: Keys that the stage opens and writes item by item, or that it yields.
        dependencies: Stages that must have ended before, besides the producers of the inputs.
        after: The same as `dependencies`.
        kind: The purpose of the stage.
        required: Whether the run fails when the stage does.
        timeout_s: Limit of one execution in seconds, retries included.
        when: A plain function of inputs; the stage is skipped if it returns false.
        provider: Name of the provider that the stage calls.
        retry: When to run this stage again after a failure.
        breaker: The circuit breaker of the provider, inside the retry; shared by a registry.
        thread: Run a plain function in a thread. Cancelling the stage waits for its end.

    Raises:
        InvalidConfigError: The name, `retry` or `breaker` is something else.
    """
    if name is not None and not isinstance(name, str) and not callable(name):
        raise InvalidConfigError("stage", "name", name, "give a text, or decorate a function")
    around = () if retry is None and breaker is None else _interceptors(retry, breaker)

    def declare(function: Callable[P, R]) -> FunctionStage[P, R]:
        function = function.__func__ if isinstance(function, staticmethod) else function
        own = function.name if isinstance(function, FunctionStage) else _name(function)
        called = name if isinstance(name, str) else own if own.isidentifier() else "unnamed"
        signature = _Signature.of(function)
        misfits = [] if called in (name, own) else ["has no name; give one: stage('name')(…)"]
        misfits += signature.problems(thread, outputs is not None, len(streams))
        problems = [f"its function {misfit}" for misfit in misfits]
        condition, conditions = None, _Signature((), (), (), "_empty", True)
        if when is not None:
            conditions = _Signature.of(when)
            problems += (f"its condition {problem}" for problem in conditions.misfits)
            if is_async(when):
                problems.append("its condition is async, and nobody awaits it; write 'def'")
            # The pipeline reports what cannot be called.
            plain = conditions.alone or not callable(when)
            condition = cast("Condition", when) if plain else _call(when, conditions)
        if breaker is not None and provider is None:
            problems.append("its function has a breaker and no provider; name it: provider='llm'")
        written: Sequence[str] = () if outputs is None else outputs
        yields = _yields(function)
        items: Sequence[str] = streams
        if yields and not streams:
            items = (called,)
        elif outputs is None and not yields and not streams and signature.returns_value:
            written = (called,)
        arguments = signature.arguments
        read = [argument for argument in (*arguments, *conditions.arguments) if argument.key]
        if read:
            problems += _not_identifiers(own, written, items)
        needs = dict.fromkeys(one.key for one in read if one.default is REQUIRED)
        keys = dict.fromkeys(one.key for one in read)
        return FunctionStage(
            name=called,
            runner=_runner(function, signature, items[0] if yields and items else None, thread),
            # The pipeline reports what is not a list; tuple() would split a text into letters.
            dependencies=_joined(dependencies, after),
            inputs=_joined([key for key in keys if key not in inputs], inputs),
            outputs=written,  # type: ignore[arg-type]
            kind=kind,
            required=required,
            timeout_s=timeout_s,
            condition=condition,
            provider=provider,
            streams=items,  # type: ignore[arg-type]
            needs=tuple(needs),
            optional=tuple(key for key in keys if key not in needs and key not in inputs),
            interceptors=around,
            function=function,
            problems=tuple(problems),
            none_is_output=signature.none_fits(output=bool(written)),
        )

    return declare(name) if callable(name) else declare


def _interceptors(retry: object, breaker: object) -> tuple[Interceptor, ...]:
    """Return the interceptors of one stage, the outermost first."""
    # Not at the top, to keep `import stageflow` quick.
    from stageflow.interceptors import BreakerInterceptor, RetryInterceptor  # noqa: PLC0415
    from stageflow.resilience import BreakerPolicy, BreakerRegistry, RetryPolicy  # noqa: PLC0415

    if isinstance(retry, RetryPolicy):
        retry = RetryInterceptor(retry)
    if isinstance(breaker, BreakerPolicy):
        breaker = BreakerRegistry(breaker)
    if isinstance(breaker, BreakerRegistry):
        breaker = BreakerInterceptor(breaker)
    if not isinstance(retry, RetryInterceptor | None):
        raise InvalidConfigError("stage", "retry", retry, "give RetryPolicy(attempts=…)")
    if not isinstance(breaker, BreakerInterceptor | None):
        raise InvalidConfigError("stage", "breaker", breaker, "give BreakerPolicy(…)")
    return tuple(one for one in (retry, breaker) if one is not None)


def _joined(first: Any, second: Any) -> Any:
    """Return two lists of names as one; the one that is not a list, to be reported."""
    for names in (first, second):
        if not isinstance(names, list | tuple):
            return names
    return (*first, *second)


def _not_identifiers(function: str, *lists: object) -> list[str]:
    return [
        f"the key {key!r} of {function}() is not an identifier, so no parameter can read it;"
        " name it with outputs=[…] or streams=[…]"
        for names in lists
        if isinstance(names, list | tuple)
        for key in names
        if isinstance(key, str) and (not key.isidentifier() or iskeyword(key))
    ]


class _Signature(NamedTuple):
    """The parameters and the return annotation of a function."""

    #: What to call it with, positional ones first.
    arguments: tuple[Argument, ...]
    #: The names of the last of them, which are passed by keyword.
    names: tuple[str, ...]
    #: Parameters that no stage can fill, and what to write.
    misfits: tuple[str, ...]
    #: The return annotation as a text; "_empty" without one, as `inspect` calls that.
    returns: str
    #: Whether it takes the context and nothing else.
    alone: bool
    function: Any = None

    @classmethod
    def of(cls, function: Any) -> _Signature:
        try:
            if isinstance(function, type) and function.__module__ == "builtins":
                raise ValueError  # from Python 3.13 on, some of them have a signature
            signature = inspect.signature(function)
        except (TypeError, ValueError):  # Python cannot tell: an object written in C
            return cls((Argument("", REQUIRED),), (), (), "_empty", True, function)
        positional: list[Argument] = []
        named: dict[str, Argument] = {}
        misfits: list[str] = []
        for one in signature.parameters.values():
            default = REQUIRED if one.default is inspect.Parameter.empty else one.default
            argument = Argument("" if _is_context(one, function) else one.name, default)
            if one.name == "self" and not positional:
                fix = f"give stage(instance.{_name(function)}), without @stage in the class"
                misfits.append(f"is a method; {fix}")
            elif one.kind in _POSITIONAL:
                if one.kind is inspect.Parameter.POSITIONAL_ONLY and argument.key:
                    fix = f"remove the '/' from {_name(function)}()"
                    misfits.append(f"takes {one.name!r} by position alone; {fix}")
                positional.append(argument)
            elif one.kind is inspect.Parameter.KEYWORD_ONLY:
                named[one.name] = argument
            else:
                stars = "**" if one.kind is inspect.Parameter.VAR_KEYWORD else "*"
                fix = f"name each input as a parameter of {_name(function)}()"
                misfits.append(f"takes {stars}{one.name}; {fix}")
        arguments = (*positional, *named.values())
        returns = _text(_annotation(signature.return_annotation, function))
        alone = [argument.key for argument in arguments] == [""]
        return cls(arguments, tuple(named), tuple(misfits), returns, alone, function)

    @property
    def returns_value(self) -> bool:
        """Whether the function returns the value of an output."""
        if self.returns == "_empty" or _ends(self.returns, "Any"):
            return not self.alone
        return self.returns != "None" and not _ends(self.returns, "StageOutput")

    def none_fits(self, *, output: bool) -> bool:
        """Return whether the function may return None, as the value of an output or of none."""
        if output:
            return self.returns_value and not _is_builtin(self.returns)
        return (
            not _ends(self.returns, "StageOutput")
            or re.search("None|Opt", self.returns) is not None
        )

    def problems(self, thread: bool, outputs: bool, streams: int) -> Iterable[str]:
        """Return what is wrong with a function that is to be a stage."""
        if isinstance(self.function, FunctionStage | type):
            yield "is a class, or a stage already; give the function"
            return
        yield from self.misfits
        plain = not is_async(self.function)
        if _yields(self.function):
            if outputs or streams > 1:
                fix = "write streams=[…] instead of outputs=[…], with one key"
                yield f"yields, so it writes a stream; {fix}"
            if _is_builtin(self.returns):
                yield f"yields, and is annotated to return {self.returns}; write AsyncIterator[…]"
        elif thread and not plain:
            yield "is async and needs no thread; remove thread=True"
        elif thread and inspect.isgeneratorfunction(self.function):
            yield "yields in a thread; return a list, or write 'async def'"
        elif not thread and plain and not self.alone:
            yield "is a plain function; write 'async def', or @stage(thread=True)"
        if thread and "" in (argument.key for argument in self.arguments):
            yield "runs in a thread, which cannot use a context; take the inputs as parameters"


def _name(function: Any) -> str:
    return str(getattr(function, "__name__", shown(function)))


def _yields(function: Any) -> bool:
    call = getattr(function, "__call__", None)  # noqa: B004 - the question is whether it yields
    return inspect.isasyncgenfunction(function) or inspect.isasyncgenfunction(call)


def _annotation(annotation: Any, function: Any) -> Any:
    """Return what an annotation says; as text, if its names do not exist yet."""
    if isinstance(annotation, str):
        text = annotation.strip("'\"")
        function = inspect.unwrap(getattr(function, "func", function))
        names = getattr(function, "__globals__", getattr(function.__call__, "__globals__", {}))
        frame, scopes = inspect.currentframe(), []
        while frame is not None:  # outwards from where the stage is declared
            scopes += [frame.f_locals] if frame.f_globals is names else []
            frame = frame.f_back
        for scope in (*scopes, names):
            with suppress(Exception):
                annotation = eval(text, names, scope)  # noqa: S307 - as without the quotes
                break
        else:
            return text
    return getattr(annotation, "__value__", annotation)  # of an alias: ``type X = …``


def _text(annotation: object) -> str:
    if isinstance(annotation, str):
        return annotation
    return annotation.__qualname__ if isinstance(annotation, type) else repr(annotation)


def _ends(annotation: str, name: str) -> bool:
    """Return whether an annotation is that name, perhaps optional or annotated."""
    around, _, last = _AROUND.sub("", annotation).rpartition(".")
    return last == name and not {"[", "|"} & {*around}


def _is_builtin(annotation: str) -> bool:
    """Return whether an annotation is a built-in class, of which None is not a value."""
    root, _, _ = annotation.partition("[")
    built_in = root != "object" and isinstance(getattr(builtins, root, None), type)
    return built_in and "|" not in annotation


def _is_context(parameter: inspect.Parameter, function: Any) -> bool:
    annotation = _annotation(parameter.annotation, function)
    text = _text(annotation)
    unknown = text == "_empty" or isinstance(annotation, str) or _ends(text, "Any")
    return _ends(text, "StageContext") or (parameter.name == "ctx" and unknown)


def _runner(
    function: Any, signature: _Signature, stream: str | None, thread: bool
) -> StageFunction:
    """Return the function of the context that calls `function` with its inputs."""
    if signature.alone and not thread and stream is None:
        return cast("StageFunction", function)
    call = _call(function, signature)
    if stream is not None:

        async def write(ctx: StageContext) -> StageOutput:
            return await _write(call(ctx), ctx.open(stream))

        return write
    if thread:

        def off_loop_with(*values: Any, **named: Any) -> Awaitable[Any]:
            return off_loop(partial(function, *values, **named), large=True)

        threaded = _call(off_loop_with, signature)

        async def run_in_thread(ctx: StageContext) -> StageOutput:
            # A thread cannot be interrupted, and nothing may run after its run has ended.
            done, cancelled = await shielded(threaded(ctx))
            if cancelled:
                raise asyncio.CancelledError
            try:
                return cast("StageOutput", done.result())
            finally:
                del done  # it holds the error whose traceback holds this frame

        return run_in_thread
    return call


async def _write(items: Any, writer: StreamWriter) -> StageOutput:
    """Put what a generator yields into a stream; what cancels a put is raised by the yield."""
    # Without asyncio's hooks: nothing can await the end of a generator that the run abandons.
    hooks = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(None, None)
    step = items.__anext__()
    sys.set_asyncgen_hooks(*hooks)
    try:
        while True:
            item = await step
            if type(item) is StageOutput:
                problem = f"yielded {shown(item)}, which is not an item; raise an error instead"
                raise StageDefectError(problem, code="invalid_output")
            try:
                if not await writer.put(item):
                    break  # no reader is left
                step = items.__anext__()
            except asyncio.CancelledError as error:
                step = items.athrow(error)
    except StopAsyncIteration:
        pass
    finally:
        del step  # it may hold the error whose traceback holds this frame
        if not isinstance(sys.exception(), GeneratorExit):
            await close_stream(items)
    return StageOutput.ok()


def _call(function: Any, signature: _Signature) -> Callable[[StageContext], Any]:
    arguments, names = signature.arguments, signature.names
    if names:
        count = len(arguments) - len(names)

        def call_by_name(ctx: StageContext) -> Any:
            values = ctx.arguments(arguments)
            return function(*values[:count], **dict(zip(names, values[count:], strict=True)))

        return call_by_name

    def call(ctx: StageContext) -> Any:
        return function(*ctx.arguments(arguments))

    return call
