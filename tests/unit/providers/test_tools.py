"""A function as a tool: its schema, the arguments that it takes, and the results that it has."""

from __future__ import annotations

import datetime as dt
import functools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any, Literal, NotRequired, TypedDict
from uuid import UUID

import pydantic
import pytest

from stageflow.errors import InvalidConfigError, ToolError
from stageflow.providers import Tool, Toolbox
from stageflow.providers.tools import MAX_RESULT_CHARS

if TYPE_CHECKING:
    from stageflow import StageContext


class Size(Enum):
    SMALL = "s"
    LARGE = "l"


@dataclass
class Place:
    city: str
    zips: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.city:
            raise ValueError("a city has a name")


class Window(TypedDict):
    start: dt.date
    days: NotRequired[int]


class Item(pydantic.BaseModel):
    name: str
    count: int = pydantic.Field(default=1, ge=1)


class Order(pydantic.BaseModel):
    items: list[Item]


def taking(kind: Any) -> Tool:
    """A tool with one argument of a type, which it returns as its repr."""

    async def tool(value: Any) -> str:
        return repr(value)

    tool.__annotations__["value"] = kind
    return Tool(tool, description="Take it.")


async def find_order(
    number: str, limit: int = 3, *, ctx: StageContext, idempotency_key: str
) -> dict[str, str]:
    """Return where an order is.

    It takes a moment.

    Args:
        number: Its number, such as
            "A 7".
        limit (int): How many: at most 9.
        ctx: Not shown to the model.
        idempotency_key: Nor is this.

    Returns:
        Its state.
    """
    return {"number": number}


def test_the_schema_is_the_signature_and_the_docstring() -> None:
    """As chat services take it; what the loop fills in is left out."""
    assert Tool(find_order).to_dict() == {
        "type": "function",
        "function": {
            "name": "find_order",
            "description": "Return where an order is. It takes a moment.",
            "parameters": {
                "type": "object",
                "properties": {
                    "number": {"type": "string", "description": 'Its number, such as "A 7".'},
                    "limit": {"type": "integer", "description": "How many: at most 9."},
                },
                "required": ["number"],
                "additionalProperties": False,
            },
        },
    }


TYPES: Iterable[tuple[Any, dict[str, Any], Any, Any]] = [
    (str, {"type": "string"}, "a", "a"),
    (bool, {"type": "boolean"}, True, True),
    (int, {"type": "integer"}, 3.0, 3),
    (float, {"type": "number"}, 3, 3.0),
    (None, {"type": "null"}, None, None),
    (Any, {}, {"a": [1]}, {"a": [1]}),
    (int | None, {"anyOf": [{"type": "integer"}, {"type": "null"}]}, None, None),
    (int | str, {"anyOf": [{"type": "integer"}, {"type": "string"}]}, "7", "7"),
    (Literal["C", 1], {"enum": ["C", 1]}, "C", "C"),
    (Size, {"enum": ["s", "l"]}, "l", Size.LARGE),
    (list[int], {"type": "array", "items": {"type": "integer"}}, [1], [1]),
    (tuple[str, ...], {"type": "array", "items": {"type": "string"}}, ["a"], ("a",)),
    (set[int], {"type": "array", "items": {"type": "integer"}}, [1, 1], {1}),
    (Sequence[bool], {"type": "array", "items": {"type": "boolean"}}, [True], [True]),
    (list, {"type": "array", "items": {}}, [1, "a"], [1, "a"]),
    (
        Mapping[str, int],
        {"type": "object", "additionalProperties": {"type": "integer"}},
        {"a": 1},
        {"a": 1},
    ),
    (Annotated[str, "its name"], {"type": "string", "description": "its name"}, "a", "a"),
    (
        dt.datetime,
        {"type": "string", "format": "date-time"},
        "2026-01-02T03:04:05+00:00",
        dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC),
    ),
    (UUID, {"type": "string", "format": "uuid"}, str(UUID(int=1)), UUID(int=1)),
    (Window, None, {"start": "2026-01-02"}, {"start": dt.date(2026, 1, 2)}),  # type: ignore[list-item]
    (Place, None, {"city": "Rome", "zips": [1]}, Place("Rome", [1])),  # type: ignore[list-item]
    (
        Order,
        None,  # type: ignore[list-item]
        {"items": [{"name": "pen"}]},
        Order(items=[Item(name="pen", count=1)]),
    ),
]


@pytest.mark.parametrize(("kind", "schema", "given", "read"), TYPES, ids=str)
async def test_arguments_have_the_types_of_the_signature(
    kind: Any, schema: dict[str, Any] | None, given: Any, read: Any
) -> None:
    """Each type has its schema, and the function gets a value of it."""
    tool = taking(kind)
    arguments = tool.read(json.dumps({"value": given}))
    assert arguments == {"value": given}
    assert await tool.call(arguments) == repr(read)
    if schema is not None:
        assert tool.parameters["properties"] == {"value": schema}
    json.dumps(tool.parameters)


def test_what_a_model_of_pydantic_refers_to_is_found() -> None:
    """A reference of its schema begins at the whole schema's root."""
    parameters = taking(Order).parameters
    assert parameters["properties"]["value"]["properties"]["items"]["items"] == {
        "$ref": "#/$defs/Item"
    }
    assert parameters["$defs"]["Item"]["required"] == ["name"]


@pytest.mark.parametrize(
    ("kind", "given", "problem"),
    [
        (int, '"7"', 'value is "7", not an integer'),
        (int, "true", "value is true, not an integer"),
        (int, "1.5", "value is 1.5, not an integer"),
        (int, "1e999", "value is Infinity, not an integer"),
        (float, "null", "value is null, not a number"),
        (bool, "1", "value is 1, not a boolean"),
        (str, "7", "value is 7, not a string"),
        (dt.date, '"soon"', 'value is "soon", not a date'),
        (Size, '"m"', 'value is "m", not one of "s", "l"'),
        (Literal["C", 1], "true", 'value is true, not one of "C", 1'),
        (int | None, '"x"', 'value is "x", not an integer or null'),
        (list[int], '[1, "a", "b"]', 'value[1] is "a", not an integer; value[2] is "b"'),
        (list[int], "{}", "value is {}, not an array"),
        (dict[str, int], '{"a": "b"}', 'value.a is "b", not an integer'),
        (Place, '{"zips": ["x"]}', 'value.city is missing (a string); value.zips[0] is "x"'),
        (Place, '{"city": ""}', "value: a city has a name"),
        (Place, "[]", "value is [], not an object"),
        (Order, '{"items": [{"count": 0}]}', "value.items.0.name: Field required; value.items.0"),
        (str, '"a", "valeu": 1', "valeu is not an argument, did you mean 'value'?"),
        (str, '"a", "zzz": 1', "zzz is not an argument, there are value"),
    ],
)
def test_arguments_that_do_not_fit_are_named(kind: Any, given: str, problem: str) -> None:
    """Each with its path, what it is, and what it has to be."""
    with pytest.raises(ToolError) as raised:
        taking(kind).read(f'{{"value": {given}}}')
    assert raised.value.code == "invalid_tool_arguments"
    assert problem in str(raised.value)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "value is missing (a string)"),
        ("{}", "value is missing"),
        ("[]", "the whole is [], not an object"),
        ("null", "the whole is null"),
        ('{"value": "a', "they are not JSON"),
        ('{"value": NaN}', "NaN is not a number"),
        ("<html>", "they are not JSON"),
        ("[" * 100_000, "they are not JSON"),
    ],
)
def test_what_is_not_an_object_of_arguments(text: str, problem: str) -> None:
    with pytest.raises(ToolError, match="do not fit") as raised:
        taking(str).read(text)
    assert problem in str(raised.value)


def returning(kind: Any, value: Any) -> Tool:
    async def tool() -> Any:
        return value

    tool.__annotations__["return"] = kind
    return Tool(tool)


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        (str, "sunny", "sunny"),
        (str, "", ""),
        (None, None, "null"),
        (int, 7, "7"),
        (dict[str, int], {"ä": 1}, '{"ä": 1}'),
        (dict[str, int], '{"a": 1}', '{"a": 1}'),
        (Place, Place("Rome"), '{"city": "Rome", "zips": []}'),
        (Item, Item(name="pen"), '{"name": "pen", "count": 1}'),
        (list[Size], [Size.SMALL], '["s"]'),
        (set[int], {2, 1}, "[1, 2]"),
        (dt.date, dt.date(2026, 1, 2), '"2026-01-02"'),
        (Decimal, Decimal("1.10"), '"1.10"'),
        (Any, (1, None), "[1, null]"),
    ],
)
async def test_results_are_text_or_json(kind: Any, value: Any, text: str) -> None:
    assert await returning(kind, value).call({}) == text


CIRCLE: list[Any] = []
CIRCLE.append(CIRCLE)


@pytest.mark.parametrize(
    ("kind", "value", "problem"),
    [
        (Any, b"x", "it holds a bytes"),
        (Any, object(), "it holds a object"),
        (Any, float("nan"), "not JSON compliant"),
        (Any, CIRCLE, "Circular"),
        (Any, {(1, 2): 3}, "keys must be"),
        (Any, "x" * (MAX_RESULT_CHARS + 1), "characters"),
        (int, None, "it is null, not an integer"),
        (int, "x", "Expecting value"),
        (str, 7, "it is 7, not a string"),
        (list[int], ["a"], 'it[0] is "a", not an integer'),
    ],
)
async def test_results_that_cannot_be_used(kind: Any, value: Any, problem: str) -> None:
    with pytest.raises(ToolError, match="the result of tool cannot be used") as raised:
        await returning(kind, value).call({})
    assert raised.value.code == "invalid_tool_result"
    assert problem in str(raised.value)


async def test_context_and_key_reach_the_function() -> None:
    """And a plain function runs in a thread; what it returns may be awaited."""

    def plain(ctx: Any, idempotency_key: str, n: int) -> str:
        return f"{ctx} {idempotency_key} {n}"

    assert await Tool(plain).call({"n": 1}, ctx="c", idempotency_key="k") == "c k 1"
    later = Tool(lambda: returning(str, "later").call({}), name="later")
    assert await later.call({}) == "later"


class Weather:
    """A client of a service."""

    async def of(self, city: str) -> str:
        """Return the weather."""
        return f"sunny in {city}"

    async def __call__(self, city: str) -> str:
        """Return the weather."""
        return await self.of(city)


@pytest.mark.parametrize(
    "tool",
    [
        Tool(Weather().of),
        Tool(Weather(), name="weather"),
        Tool(functools.partial(Weather.of, Weather()), name="weather"),
    ],
)
async def test_methods_objects_and_partials_are_tools(tool: Tool) -> None:
    assert await tool.call({"city": "Rome"}) == "sunny in Rome"


def untyped(city) -> None:  # type: ignore[no-untyped-def]
    pass


def many(*cities: str) -> None:
    pass


def of_bytes(data: bytes) -> None:
    pass


def of_numbers(data: dict[int, str]) -> None:
    pass


def unknown(city: Nowhere) -> None:  # type: ignore[name-defined] # noqa: F821
    pass


def yielding() -> Iterator[int]:
    yield 1


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: Tool(untyped), "annotate it"),
        (lambda: Tool(many), "give each argument a name"),
        (lambda: Tool(of_bytes), "takes or returns a bytes, which JSON cannot hold"),
        (lambda: Tool(of_numbers), "whose keys are not strings"),
        (lambda: Tool(unknown), "annotations that cannot be read"),
        (lambda: Tool(yielding), "return a list"),
        (lambda: Tool(lambda: 1), "give up to 64 letters"),
        (lambda: Tool(Place), "give a function"),
        (lambda: Tool(7), "give a function"),  # type: ignore[arg-type]
        (lambda: Tool(len), "not written in Python"),
        (lambda: Tool(find_order, timeout_s=0), "positive number of seconds"),
        (lambda: Tool(find_order, on_error="ignore"), "give 'report' or 'fail'"),  # type: ignore[arg-type]
        (lambda: Tool(find_order, retry=3), "give a RetryPolicy"),  # type: ignore[arg-type]
        (lambda: Toolbox([find_order, find_order]), "two tools have this name"),
        (lambda: Toolbox("find_order"), "give a list of functions"),  # type: ignore[arg-type]
        (lambda: Toolbox([find_order], max_rounds=0), "give a positive integer"),
        (lambda: Toolbox([find_order], timeout_s=-1), "positive number of seconds"),
    ],
)
def test_what_cannot_be_a_tool_says_why(make: Callable[[], object], problem: str) -> None:
    with pytest.raises(InvalidConfigError) as raised:
        make()
    assert problem in str(raised.value)
