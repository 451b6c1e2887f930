"""Types as JSON schemas, and values of JSON as values of these types."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import json
import math
import types
import typing
from collections import abc
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias
from uuid import UUID

from stageflow.errors import Portable, nearest, shown

_SHOWN_CHARS = 60
_WORDS = {"integer": "an integer", "array": "an array", "object": "an object", "null": "null"}

Schema: TypeAlias = dict[str, Any]


class MisfitError(Portable, ValueError):
    """A value does not fit; `problems` has a sentence for each of its parts that does not."""

    def __init__(self, *problems: str) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class Form(NamedTuple):
    """A type: its schema, and what reads a value of it, given the value's path."""

    schema: Schema
    read: Callable[[Any, str], Any]


class Field(NamedTuple):
    """A field of an object."""

    name: str
    kind: Any
    required: bool
    description: str = ""


def form_of(kind: Any, defs: Schema) -> Form:
    """Return the form of a type; put what its schema refers to into `defs`.

    Raises:
        TypeError: JSON cannot hold its values.
    """
    origin = typing.get_origin(kind) or kind
    if origin in _SCALARS:
        return _SCALARS[origin]
    if make := _MAKERS.get(origin):
        return make(origin, typing.get_args(kind), defs)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return _scalar({"enum": [member.value for member in kind]}, kind)
    if hasattr(kind, "model_json_schema"):
        return _model(kind, defs)
    if typing.is_typeddict(kind) or dataclasses.is_dataclass(kind):
        return _record(kind, defs)
    name = getattr(kind, "__name__", shown(kind))
    raise TypeError(f"takes or returns a {name}, which JSON cannot hold")


def object_form(fields: Iterable[Field], defs: Schema) -> Form:
    """Return the form of an object with these fields, which is read as a dictionary."""
    known = {field.name: field for field in fields}
    forms = {field.name: form_of(field.kind, defs) for field in known.values()}
    needed = [field.name for field in known.values() if field.required]
    properties = {n: _noted(form.schema, known[n].description) for n, form in forms.items()}

    def read(value: Any, path: str) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            raise _misfit(value, path, {})
        within = f"{path}." if path else ""
        problems = []
        for name in [name for name in value if name not in known]:
            hint = nearest(name, known)
            fix = f"did you mean {hint!r}?" if hint else f"there are {', '.join(known) or 'none'}"
            problems.append(f"{within}{name} is not an argument, {fix}")
        problems += (
            f"{within}{name} is missing ({_wanted(forms[name].schema)})"
            for name in needed
            if name not in value
        )
        names = [name for name in known if name in value]
        parts = [(forms[name], value[name], within + name) for name in names]
        return dict(zip(names, _read(parts, problems), strict=True))

    schema = {"type": "object", "properties": properties, "required": needed}
    return Form({**schema, "additionalProperties": False}, read)


def as_json(value: object) -> str:
    """Return a value as JSON; raise `TypeError` or `ValueError` for one that JSON cannot hold."""
    return json.dumps(value, default=_plain, ensure_ascii=False, allow_nan=False)


def _read(parts: Iterable[tuple[Form, Any, str]], problems: Iterable[str] = ()) -> list[Any]:
    """Read the parts of a value; raise for all that do not fit."""
    read, found = [], list(problems)
    for form, value, path in parts:
        try:
            read.append(form.read(value, path))
        except MisfitError as error:
            found += error.problems
    if found:
        raise MisfitError(*found)
    return read


def _scalar(schema: Schema, convert: Callable[[Any], Any]) -> Form:
    def read(value: Any, path: str) -> Any:
        try:
            return convert(value)
        except (TypeError, ValueError, OverflowError):
            raise _misfit(value, path, schema) from None

    return Form(schema, read)


def _exactly(cls: type, parse: Callable[[Any], Any] = lambda value: value) -> Callable[[Any], Any]:
    """Return what reads values of a class; True is not a number."""

    def convert(value: Any) -> Any:
        if type(value) is not cls:
            raise TypeError
        return parse(value)

    return convert


def _number(cls: type[int] | type[float]) -> Callable[[Any], Any]:
    def convert(value: Any) -> Any:
        if type(value) not in (int, float) or not math.isfinite(value) or cls(value) != value:
            raise ValueError
        return cls(value)

    return convert


def _annotated(_origin: Any, args: Any, defs: Schema) -> Form:
    form = form_of(args[0], defs)
    notes = (getattr(note, "description", note) for note in args[1:])
    return Form(_noted(form.schema, next((n for n in notes if isinstance(n, str)), "")), form.read)


def _noted(schema: Schema, text: str) -> Schema:
    return {**schema, "description": text} if text else schema


def _literal(_origin: Any, args: Any, _defs: Schema) -> Form:
    by_type = {(type(one), one): one for one in args}

    def convert(value: Any) -> Any:
        if (type(value), value) not in by_type:
            raise ValueError
        return value

    return _scalar({"enum": list(args)}, convert)


def _union(_origin: Any, args: Any, defs: Schema) -> Form:
    forms = [form_of(one, defs) for one in args]
    schema = {"anyOf": [form.schema for form in forms]}

    def read(value: Any, path: str) -> Any:
        for form in forms:
            try:
                return form.read(value, path)
            except MisfitError:
                continue
        raise _misfit(value, path, schema)

    return Form(schema, read)


def _array(origin: Any, args: Any, defs: Schema) -> Form:
    if len(args) > 1 and args[1] is not ...:
        raise TypeError("takes or returns a tuple of several types; name a dataclass")
    item = form_of(args[0] if args else Any, defs)
    make = origin if origin in (list, tuple, set, frozenset) else list

    def read(value: Any, path: str) -> Any:
        if not isinstance(value, list):
            raise _misfit(value, path, {"type": "array"})
        return make(_read((item, one, f"{path}[{n}]") for n, one in enumerate(value)))

    return Form({"type": "array", "items": item.schema}, read)


def _mapping(_origin: Any, args: Any, defs: Schema) -> Form:
    if args and args[0] is not str:
        raise TypeError("takes or returns a mapping whose keys are not strings")
    item = form_of(args[1] if args else Any, defs)

    def read(value: Any, path: str) -> Any:
        if not isinstance(value, dict):
            raise _misfit(value, path, {})
        read = _read((item, one, f"{path}.{name}") for name, one in value.items())
        return dict(zip(value, read, strict=True))

    return Form({"type": "object", "additionalProperties": item.schema}, read)


def _record(kind: Any, defs: Schema) -> Form:
    """Return the form of a dataclass or a ``TypedDict``."""
    hints, none = typing.get_type_hints(kind, include_extras=True), dataclasses.MISSING
    if typing.is_typeddict(kind):
        optional, keys = typing.NotRequired, kind.__required_keys__
        fields = [
            Field(name, hint, name in keys and typing.get_origin(hint) is not optional)
            for name, hint in hints.items()
        ]
    else:
        fields = [
            Field(one.name, hints[one.name], one.default is none and one.default_factory is none)
            for one in dataclasses.fields(kind)
            if one.init
        ]
    form = object_form(fields, defs)

    def read(value: Any, path: str) -> Any:
        values = form.read(value, path)
        try:
            return kind(**values)
        except Exception as error:  # its own checks
            raise MisfitError(f"{path}: {shown(error, str)}") from error

    return Form(form.schema, read)


def _model(kind: Any, defs: Schema) -> Form:
    """Return the form of a pydantic model."""
    schema = dict(kind.model_json_schema())
    defs.update(schema.pop("$defs", {}))

    def read(value: Any, path: str) -> Any:
        try:
            return kind.model_validate(value)
        except ValueError as error:  # pydantic's ValidationError
            found: Any = error
            problems = [((path, *one["loc"]), one["msg"]) for one in found.errors()]
            texts = (f"{'.'.join(str(p) for p in at if p != '')}: {why}" for at, why in problems)
            raise MisfitError(*texts) from error

    return Form(schema, read)


_MAKERS: Mapping[Any, Callable[[Any, Any, Schema], Form]] = {
    typing.Annotated: _annotated,
    Literal: _literal,
    **dict.fromkeys((typing.Required, typing.NotRequired), _annotated),
    typing.Union: _union,
    types.UnionType: _union,
    **dict.fromkeys((list, tuple, set, frozenset), _array),
    **dict.fromkeys((abc.Sequence, abc.Collection, abc.Iterable), _array),
    **dict.fromkeys((dict, abc.Mapping), _mapping),
}

_SCALARS: Mapping[Any, Form] = {
    **dict.fromkeys((Any, object), Form({}, lambda value, _path: value)),
    **dict.fromkeys((None, type(None)), _scalar({"type": "null"}, _exactly(type(None)))),
    str: _scalar({"type": "string"}, _exactly(str)),
    bool: _scalar({"type": "boolean"}, _exactly(bool)),
    int: _scalar({"type": "integer"}, _number(int)),
    float: _scalar({"type": "number"}, _number(float)),
    **{
        kind: _scalar({"type": "string", "format": name}, _exactly(str, parse))
        for kind, name, parse in (
            (dt.datetime, "date-time", dt.datetime.fromisoformat),
            (dt.date, "date", dt.date.fromisoformat),
            (dt.time, "time", dt.time.fromisoformat),
            (UUID, "uuid", UUID),
        )
    },
}


def _misfit(value: object, path: str, schema: Schema) -> MisfitError:
    return MisfitError(f"{path or 'the whole'} is {_short(value)}, not {_wanted(schema)}")


def _wanted(schema: Schema) -> str:
    """Return what a schema allows, in words."""
    if "enum" in schema:
        return f"one of {', '.join(map(_short, schema['enum']))}"
    if "anyOf" in schema:
        return " or ".join(map(_wanted, schema["anyOf"]))
    name = schema.get("format") or schema.get("type", "object")
    return _WORDS.get(name, f"a {name}")


def _short(value: object) -> str:
    text = shown(value, lambda one: json.dumps(one, default=repr, ensure_ascii=False))
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}…"


#: How values are written that are not of JSON, by what they are or have.
_WRITERS: Iterable[tuple[Callable[[Any], bool], Callable[[Any], Any]]] = (
    (lambda v: hasattr(v, "model_dump"), lambda v: v.model_dump(mode="json", by_alias=True)),
    (
        lambda v: dataclasses.is_dataclass(v) and not isinstance(v, type),
        lambda v: {one.name: getattr(v, one.name) for one in dataclasses.fields(v)},
    ),
    (lambda v: isinstance(v, enum.Enum), lambda v: v.value),
    (lambda v: isinstance(v, Mapping), dict),
    (lambda v: isinstance(v, set | frozenset), lambda v: sorted(v, key=repr)),
    (lambda v: isinstance(v, dt.date | dt.time), lambda v: v.isoformat()),
    (lambda v: isinstance(v, UUID | Decimal | Path), str),
)


def _plain(value: Any) -> Any:
    for fits, write in _WRITERS:
        if fits(value):
            return write(value)
    raise TypeError(f"it holds a {type(value).__name__}")
