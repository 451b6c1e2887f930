"""Tools: typed functions that a language model may call."""

from __future__ import annotations

import asyncio
import inspect
import json
import re
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Literal

from stageflow._utils.checks import is_async
from stageflow._utils.tasks import off_loop, shielded
from stageflow.errors import InvalidConfigError, ToolError
from stageflow.errors.data import require_counts, require_durations
from stageflow.providers.forms import Field, MisfitError, as_json, form_of, object_form
from stageflow.resilience.retry import RetryPolicy

#: A longer result would fill the window of most models.
MAX_RESULT_CHARS = 20_000

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
#: Parameters that the loop fills in, and not the model.
_OWN = ("ctx", "idempotency_key")
_SECTION = re.compile(r"^\s*(Args|Arguments|Returns|Yields|Raises|Examples?):\s*$", re.MULTILINE)
_ARGUMENT = re.compile(r"(\w+)(?: \(.*?\))?: (.*)")


class Tool:
    """A function that a language model may call: its signature and docstring are the schema.

    Arguments are texts, numbers, truth values, dates, UUIDs, enums, ``Literal``, lists, mappings,
    dataclasses, ``TypedDict`` or pydantic models, also ``Annotated[…, "description"]``. A parameter
    ``ctx`` gets the stage's context, and ``idempotency_key`` a text that is the same each time that
    this call is made again. A plain function runs in a thread. The result is text, or JSON.

    Args:
        function: The function; its docstring describes it, and ``Args:`` its arguments.
        name: The name that the model sees; None takes the function's.
        description: What it does; None takes the docstring.
        timeout_s: Limit of one attempt, in seconds.
        retry: Which failures to try again, with the same key; None tries once.
        on_error: Whether a call that fails is reported to the model, or fails the turn. The model
            reads the text of a `ToolError`, and of any other error only its code.

    Raises:
        InvalidConfigError: The function cannot be a tool; the text says why.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        name: str | None = None,
        description: str | None = None,
        timeout_s: float = 10.0,
        retry: RetryPolicy | None = None,
        on_error: Literal["report", "fail"] = "report",
    ) -> None:
        require_durations("Tool", timeout_s=timeout_s)
        if not callable(function) or isinstance(function, type):
            raise InvalidConfigError("Tool", "function", function, "give a function")
        if on_error not in ("report", "fail"):
            raise InvalidConfigError("Tool", "on_error", on_error, "give 'report' or 'fail'")
        if retry is not None and not isinstance(retry, RetryPolicy):
            raise InvalidConfigError("Tool", "retry", retry, "give a RetryPolicy, or None")
        found = getattr(function, "__name__", "") if name is None else name
        if not isinstance(found, str) or not _NAME.fullmatch(found):
            fix = "give up to 64 letters, digits, '_' and '-'"
            raise InvalidConfigError("Tool", "name", found, fix)
        self.name, self.timeout_s, self.retry, self.on_error = found, timeout_s, retry, on_error
        self._function = function
        head, *sections = _SECTION.split(inspect.getdoc(function) or "")
        self.description = " ".join(head.split()) if description is None else description
        texts = dict(zip(sections[::2], sections[1::2], strict=True))
        self._own: list[str] = []
        defs: dict[str, Any] = {}
        try:
            fields = list(self._fields(_described(texts.get("Args", ""))))
            self._arguments, self._returned = object_form(fields, defs), form_of(Any, {})
        except TypeError as error:
            raise InvalidConfigError("Tool", "function", function, f"it {error}") from error
        with suppress(TypeError):  # JSON has no form of the result, so any will do
            self._returned = form_of(self._hints().get("return", Any), {})
        self.parameters = {**self._arguments.schema, **({"$defs": defs} if defs else {})}

    def to_dict(self) -> dict[str, Any]:
        """Return the tool as chat services take it."""
        names = "name", "description", "parameters"
        return {"type": "function", "function": {name: getattr(self, name) for name in names}}

    def read(self, arguments: str) -> dict[str, Any]:
        """Return the arguments, as JSON holds them; raise `ToolError` if they do not fit."""
        try:
            found = json.loads(arguments or "{}", parse_constant=_refuse)
        except (TypeError, ValueError, RecursionError) as error:
            raise self._misfit(f"they are not JSON ({error}); send one object") from error
        self._values(found)
        return typing.cast("dict[str, Any]", found)

    async def call(
        self, arguments: Mapping[str, Any], *, ctx: Any = None, idempotency_key: str = ""
    ) -> str:
        """Call the function, and return its result as text.

        Raises:
            ToolError: The arguments, or the result, do not fit.
            Exception: What the function raises.
        """
        given = dict(zip(_OWN, (ctx, idempotency_key), strict=True))
        own = {name: given[name] for name in self._own}
        work = partial(self._function, **self._values(arguments), **own)
        if is_async(self._function):
            return self.text(await work())
        # A thread cannot be interrupted, and nothing may run after the stage has ended.
        done, cancelled = await shielded(off_loop(work, large=True))
        result = done.result()
        if cancelled:
            raise asyncio.CancelledError
        return self.text(await result if inspect.isawaitable(result) else result)

    def text(self, result: object) -> str:
        """Return a result as text; raise `ToolError` if it has none, or is of another type."""
        try:
            text = str(result) if isinstance(result, str) else as_json(result)
            # A text may be that of a value of the annotated type.
            is_text = self._returned.schema.get("type", "string") == "string"
            plain = text if isinstance(result, str) and is_text else json.loads(text)
            self._returned.read(plain, "it")
            if len(text) > MAX_RESULT_CHARS:
                problem = f"it has {len(text)} characters; return at most {MAX_RESULT_CHARS}"
                raise ValueError(problem)
        except (TypeError, ValueError, RecursionError) as error:
            what = f"the result of {self.name} cannot be used: {error}"
            raise ToolError(what, code="invalid_tool_result") from error
        return text

    def _values(self, found: object) -> dict[str, Any]:
        try:
            return typing.cast("dict[str, Any]", self._arguments.read(found, ""))
        except MisfitError as error:
            raise self._misfit(str(error)) from error

    def _misfit(self, problem: str) -> ToolError:
        text = f"the arguments of {self.name} do not fit: {problem}"
        return ToolError(text, code="invalid_tool_arguments")

    def _hints(self) -> dict[str, Any]:
        """Return the types of the function's parameters and result."""
        function: Any = self._function
        while isinstance(function, partial):
            function = function.func
        if not hasattr(function, "__annotations__"):
            function = type(function).__call__
        code = inspect.unwrap(getattr(function, "__func__", function))
        if not inspect.isfunction(code):
            raise TypeError("is not written in Python; call it in a function")
        if inspect.isasyncgenfunction(code) or inspect.isgeneratorfunction(code):
            raise TypeError("yields; return a list")
        # The type of a context may be imported for type checkers alone.
        given = {name: kind for name, kind in code.__annotations__.items() if name not in _OWN}
        holder = types.SimpleNamespace(__annotations__=given)
        try:
            return typing.get_type_hints(holder, code.__globals__, include_extras=True)
        except Exception as error:
            raise TypeError(f"has annotations that cannot be read ({error})") from error

    def _fields(self, described: Mapping[str, str]) -> Iterator[Field]:
        hints = self._hints()
        for name, parameter in inspect.signature(self._function).parameters.items():
            if name in _OWN:
                self._own.append(name)
                continue
            if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                raise TypeError(f"takes {parameter}; give each argument a name")
            if name not in hints:
                raise TypeError(f"does not say of what type {name!r} is; annotate it")
            required = parameter.default is parameter.empty
            yield Field(name, hints[name], required, described.get(name, ""))

    def __repr__(self) -> str:
        return f"Tool({self.name!r})"


def _described(text: str) -> dict[str, str]:
    """Return what a docstring says of each argument."""
    found: dict[str, str] = {}
    name = ""
    for line in inspect.cleandoc(text).splitlines():
        if match := _ARGUMENT.fullmatch(line):
            name = match[1]
            found[name] = match[2]
        elif name:
            found[name] = f"{found[name]} {line.strip()}".strip()
    return found


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a number")


class Toolbox(Mapping[str, Tool]):
    """The tools of a turn, by name, and how long the model may go on calling them.

    Args:
        tools: Tools, or functions of which tools are made.
        max_rounds: How often the model may ask for calls before it has to answer.
        max_calls: How many calls a turn may have.
        timeout_s: Limit of a turn's stage, its model's time included, in seconds.

    Raises:
        InvalidConfigError: A function cannot be a tool, or two have one name.
    """

    def __init__(
        self,
        tools: Iterable[Tool | Callable[..., Any]],
        *,
        max_rounds: int = 8,
        max_calls: int = 32,
        timeout_s: float = 60.0,
    ) -> None:
        require_durations("Toolbox", timeout_s=timeout_s)
        require_counts("Toolbox", max_rounds=max_rounds, max_calls=max_calls)
        self.max_rounds, self.max_calls, self.timeout_s = max_rounds, max_calls, timeout_s
        if isinstance(tools, str | Mapping) or not isinstance(tools, Iterable):
            raise InvalidConfigError("Toolbox", "tools", tools, "give a list of functions")
        self._tools: dict[str, Tool] = {}
        for given in tools:
            tool = given if isinstance(given, Tool) else Tool(given)
            if tool.name in self._tools:
                fix = "two tools have this name; give one another: Tool(…, name=…)"
                raise InvalidConfigError("Toolbox", "tools", tool.name, fix)
            self._tools[tool.name] = tool

    @classmethod
    def of(cls, tools: Toolbox | Iterable[Tool | Callable[..., Any]] | None) -> Toolbox | None:
        """Return a toolbox as it is, or of these tools; None for no tools."""
        found = tools if isinstance(tools, Toolbox) or tools is None else cls(tools)
        return found or None

    def __getitem__(self, name: str) -> Tool:
        return self._tools[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tools)

    def __len__(self) -> int:
        return len(self._tools)

    __hash__, __eq__ = object.__hash__, object.__eq__
