"""Wrappers: a provider that shows each call to a watcher, a context that opens other streams."""

from __future__ import annotations

import inspect
import re
import sys
import types
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property, lru_cache, partial, wraps
from typing import Any, Self, Union, cast, get_args, get_origin

from stageflow._utils.closing import close_stream, closing_stream
from stageflow.engine.stage_context import Argument, StageContext
from stageflow.engine.stream import CAPACITY, StreamWriter


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a provider."""

    provider: str
    method: str  # dotted if it belongs to a part of the provider
    arguments: tuple[Any, ...]
    options: Mapping[str, Any]
    forward: Callable[[], Any]  # makes the call


class WrappedProvider:
    """Has every attribute of a provider, and shows its calls to a watcher.

    Calls are those of callables, of the provider's parts, such as ``ai.chat.completions.create``,
    and of special methods. A call of an async function begins when it is first awaited or iterated
    over, any other one at once. The watcher's ``begin`` takes the method and returns the handler of
    a call, a `Fault`; its ``missed`` says that the fault does not fit a plain call.
    """

    __slots__ = ("__entered__", "__watched__", "__wrapped__")

    def __new__(cls, name: str, provider: Any, watcher: Any, path: str = "") -> Self:
        """Make an instance of a class that has the special methods of the provider."""
        return cast("Self", object.__new__(_like(provider.__class__)))

    def __init__(self, name: str, provider: Any, watcher: Any, path: str = "") -> None:
        object.__setattr__(self, "__wrapped__", provider)
        object.__setattr__(self, "__watched__", (name, watcher, path))
        object.__setattr__(self, "__entered__", [])

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        """The class of the provider, for ``isinstance``."""
        return type(self.__wrapped__)

    def __getattr__(self, name: str) -> Any:
        provider = self.__wrapped__
        static = inspect.getattr_static(provider.__class__, name, None)
        if isinstance(static, property | cached_property):
            getter = static.fget if isinstance(static, property) else static.func
            if _is_awaited(getter, provider):
                return _called(self, _call(self, name, partial(getattr, provider, name)), getter)
        value = getattr(provider, name)
        if isinstance(value, _FUNCTIONS):
            return _watched(self, name, value)
        if inspect.iscoroutine(value):
            return _called(self, _call(self, name, lambda: value), None)
        if isinstance(value, type) or not (callable(value) or _is_part(value)):
            return value
        known_as, watcher, path = self.__watched__
        return WrappedProvider(known_as, value, watcher, f"{path}{name}.")

    def __eq__(self, other: object) -> bool:
        return bool(self.__wrapped__ == getattr(other, "__wrapped__", other))

    def __hash__(self) -> int:
        return hash(self.__wrapped__)

    def __repr__(self) -> str:
        return f"<{self.__wrapped__!r} with {self.__watched__[1]!r}>"


def watcher_of(provider: Any) -> Any:
    """Return the watcher of a wrapped provider, or None."""
    return provider.__watched__[1] if issubclass(type(provider), WrappedProvider) else None


_SLOT = types.MethodWrapperType
_FUNCTIONS = types.FunctionType, types.MethodType, types.BuiltinFunctionType, _SLOT, partial


def _is_part(value: Any) -> bool:
    """Return whether an attribute is a part of the client, and not a value."""
    cls = value.__class__
    if isinstance(value, types.ModuleType | types.SimpleNamespace):
        return True
    standard = cls.__module__.partition(".")[0] in sys.stdlib_module_names
    # An object that compares by value is a value: an httpx.URL, a data class of settings.
    by_value = cls.__eq__ is not object.__eq__ and not _is_async(cls)
    if standard or by_value or isinstance(value, BaseException | Enum):
        return False
    return hasattr(cls, "__getattr__") or not all(name.startswith("_") for name in dir(value))


def _has(cls: type, name: str) -> bool:
    return any(vars(base).get(name) is not None for base in cls.__mro__)


@lru_cache(256)
def _like(cls: type) -> type:
    made = {name: make(name) for name, make in _SPECIAL.items() if _has(cls, name)}
    return type("WrappedProvider", (WrappedProvider,), {"__slots__": (), **made})


def _calling(name: str) -> Callable[..., Any]:
    def calling(self: WrappedProvider, /, *args: Any, **options: Any) -> Any:
        function = self.__wrapped__ if name == "__call__" else getattr(self.__wrapped__, name)
        return _called(self, _call(self, name, function, *args, **options), function)

    return calling


def _asking(name: str) -> Callable[..., Any]:
    def asking(self: WrappedProvider) -> Any:
        call = _call(self, name, lambda: self.__wrapped__)
        return getattr(_Answer(self, call, _begin(self, call)), name)()

    return asking


#: Special methods that are calls, that are answered, and that are neither.
_SPECIAL: Mapping[str, Callable[[str], Callable[..., Any]]] = {
    **dict.fromkeys(("__call__", "__enter__", "__iter__", "__next__", "__anext__"), _calling),
    **dict.fromkeys(("__getitem__", "__setitem__", "__delitem__", "__contains__"), _calling),
    **dict.fromkeys(("__await__", "__aiter__", "__aenter__"), _asking),
    **dict.fromkeys(
        ("__exit__", "__len__", "__bool__", "__setattr__", "__delattr__", "__dir__"),
        lambda name: lambda self, *args: getattr(self.__wrapped__, name)(*args),
    ),
    "__aexit__": lambda _: lambda self, *error: self.__entered__.pop().__aexit__(*error),
}


def _call(
    owner: WrappedProvider, name: str, function: Callable[..., Any], /, *args: Any, **options: Any
) -> Call:
    known_as, _, path = owner.__watched__
    method = path[:-1] if path and name == "__call__" else f"{path}{name}"
    return Call(known_as, method, args, options, partial(function, *args, **options))


def _begin(owner: WrappedProvider, call: Call) -> Any:
    return owner.__watched__[1].begin(call.method)


def _watched(owner: WrappedProvider, name: str, function: Callable[..., Any]) -> Any:
    async def answered(*args: Any, **options: Any) -> Any:
        call = _call(owner, name, function, *args, **options)
        return _again(owner, await _begin(owner, call).answer(call))

    async def streamed(*args: Any, **options: Any) -> AsyncIterator[Any]:
        call = _call(owner, name, function, *args, **options)
        async with closing_stream(_begin(owner, call).stream(call)) as pieces:
            async for piece in pieces:
                yield piece

    def called(*args: Any, **options: Any) -> Any:
        return _called(owner, _call(owner, name, function, *args, **options), function)

    if inspect.iscoroutinefunction(function):
        return wraps(function)(answered)
    return wraps(function)(streamed if inspect.isasyncgenfunction(function) else called)


def _called(owner: WrappedProvider, call: Call, function: Any) -> Any:
    """Begin a call of what is not an async function, and return what replaces its result."""
    handler = _begin(owner, call)
    provider = owner.__wrapped__
    if handler.replaces and function is not None:
        awaited = _is_awaited(function, provider)
        if awaited is None:
            awaited = handler.holds and _is_async(provider.__class__)
        return _Later(owner, call, handler) if awaited else handler.plain(call)
    found = call.forward()
    call = replace(call, forward=lambda: found)
    if inspect.isasyncgen(found):
        return handler.stream(call)
    if inspect.iscoroutine(found):
        return _coroutine(_Answer(owner, call, handler))
    again = _again(owner, found)
    if again is found and any(_has(found.__class__, name) for name in _ASYNC):
        return _Answer(owner, call, handler)
    if not handler.fits_plain:
        owner.__watched__[1].missed()
    return again if again is not found else handler.plain(call)


def _again(owner: WrappedProvider, found: Any) -> Any:
    """Return a result; wrapped if it is the provider, or another one of its class."""
    provider = owner.__wrapped__
    if found is provider:
        return owner
    same = found.__class__ is provider.__class__ and _is_part(found)
    return WrappedProvider(owner.__watched__[0], found, *owner.__watched__[1:]) if same else found


async def _coroutine(answer: _Answer) -> Any:
    try:
        return await answer
    finally:
        answer._call.forward().close()  # or Python warns that it was never awaited


class _Answer:
    """The result of a call: its use decides how the handler answers."""

    def __init__(self, owner: WrappedProvider, call: Call, handler: Any) -> None:
        self._owner, self._call, self._handler = owner, call, handler
        self._pieces: Any = None
        self._entered: Any = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call.forward(), name)

    async def _answer(self, call: Call) -> Any:
        return _again(self._owner, await self._handler.answer(call))

    def __await__(self) -> Any:
        return self._answer(self._call).__await__()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        self._pieces = self._pieces or self._handler.stream(self._call)
        return await anext(self._pieces)

    async def aclose(self) -> None:
        await close_stream(self._pieces)

    async def __aenter__(self) -> Any:
        try:
            value = await self._answer(replace(self._call, forward=self._enter))
        except BaseException:
            await self.__aexit__(*sys.exc_info())
            raise
        if self._call.method.endswith("__aenter__"):
            self._owner.__entered__.append(self)  # it is the provider that is left
        return value

    async def _enter(self) -> Any:
        found = self._call.forward()
        value = await found.__aenter__()
        self._entered = found
        return value

    async def __aexit__(self, *error: Any) -> Any:
        return None if self._entered is None else await self._entered.__aexit__(*error)


class _Later(_Answer, Coroutine[Any, Any, Any]):
    """The result of a call that is not made; its attributes and their calls lead to itself."""

    @cached_property
    def _running(self) -> Coroutine[Any, Any, Any]:
        return self._answer(self._call)

    def __getattr__(self, name: str) -> Self:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *args: Any, **options: Any) -> Self:
        return self

    def send(self, value: Any, /) -> Any:
        return self._running.send(value)

    def throw(self, *error: Any) -> Any:
        return self._running.throw(*error)

    def close(self) -> None:
        self._running.close()


_ASYNC = ("__await__", "__aiter__", "__aenter__")

#: Annotations of names that type checkers alone know.
_AWAITED = re.compile(
    r"\b(?:Awaitable|Coroutine|Task|Future|Self|(?:Abstract)?Async(?:Iter|Gen|Context)\w+)\b"
)


def _is_awaited(function: Any, provider: Any) -> bool | None:
    """Return whether a result is awaited, iterated over or entered; None if nothing says so.

    A client that an async client's method makes, such as ``with_options``, is such a result.
    """
    while isinstance(function, partial):
        function = function.func
    plain = isinstance(function, types.FunctionType | types.MethodType)
    if not plain and not _is_async_function(function):
        function = inspect.getattr_static(type(function), "__call__", None)
    code = inspect.unwrap(getattr(function, "__func__", function))
    if _is_async_function(code):
        return True
    hint = getattr(code, "__annotations__", {}).get("return", Any)
    if isinstance(hint, str):
        try:
            hint = eval(hint, code.__globals__)  # noqa: S307 - it is the provider's own code
        except Exception:
            hint = Awaitable if _AWAITED.search(hint) else Any
    if hint is Any:
        return None
    alternatives = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    kinds = [get_origin(one) or one for one in alternatives]
    if not _is_async(provider.__class__):
        # A sync client of Redis has the annotation of the async one: ``T | Awaitable[T]``.
        return all(_is_async_kind(kind) for kind in kinds)
    own = (Self, *provider.__class__.__mro__[:-1])
    return any(kind in own or _is_async_kind(kind) for kind in kinds)


def _is_async_kind(kind: Any) -> bool:
    return isinstance(kind, type) and any(hasattr(kind, name) for name in _ASYNC)


@lru_cache(256)
def _is_async(cls: type) -> bool:
    values = (getattr(v, "__func__", v) for base in cls.__mro__ for v in vars(base).values())
    functions = (v for v in values if isinstance(v, types.FunctionType))
    return any(_is_async_function(inspect.unwrap(function)) for function in functions)


def _is_async_function(function: Any) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)


def opening(ctx: StageContext, opens: Callable[[StageContext, str, int], Any]) -> StageContext:
    """Return a context for a stage whose streams `opens` opens, given context, key, capacity."""
    return cast("StageContext", _Context(ctx, opens))


class _Context:
    def __init__(self, ctx: StageContext, opens: Callable[..., StreamWriter]) -> None:
        self._ctx, self._opens = ctx, opens

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ctx, name)

    def __getitem__(self, key: str) -> Any:
        return self._ctx[key]

    def __setitem__(self, key: str, value: object) -> None:
        self._ctx[key] = value

    def arguments(self, wanted: Iterable[Argument]) -> list[Any]:
        return [self if one is self._ctx else one for one in self._ctx.arguments(wanted)]

    def open(self, key: str, *, capacity: int = CAPACITY) -> StreamWriter:
        return self._opens(self._ctx, key, capacity)
