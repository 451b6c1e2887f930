"""Types that the codec stores: the built-in ones, and classes of plain data.

The classes are enums, dataclasses, named tuples, pydantic models and subclasses of built-ins. A
stored value names its class as ``module:name``. Reading finds the class in an imported module,
creates an empty object and sets its attributes. No code of the class runs.
"""

from __future__ import annotations

import base64
import dataclasses
import sys
from array import array
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, Flag
from fractions import Fraction
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import MappingProxyType, MemberDescriptorType, ModuleType, SimpleNamespace
from typing import Any, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo

from stageflow.engine.dead_letter import DATA_MARKS, Unstorable, attributes_of
from stageflow.engine.stream import Stream
from stageflow.providers.ports import Audio, Message

Clock = TypeVar("Clock", datetime, time)

UNSTORABLE = "unstorable"
#: A multiple of three, for which base64 needs no padding.
_PIECE_BYTES = 300_000
#: Larger fractions would take seconds to read.
_MOST_BITS = 100_000
#: Factories of a stored defaultdict.
_FACTORIES = {
    cls.__name__: cls for cls in (bool, bytes, dict, float, frozenset, int, list, set, str, tuple)
}


@dataclass(frozen=True, slots=True)
class StoredType:
    """How values of one class are stored.

    Attributes:
        tag: Names the type in the stored letter; it must not change afterwards.
        cls: The class, without its subclasses.
        to_plain: Turns a value into one that the codec can store.
        from_plain: The reverse.
    """

    tag: str
    cls: type[Any]
    to_plain: Callable[[Any], Any]
    from_plain: Callable[[Any], Any]


def _from_base64(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _to_base64(data: bytes | bytearray) -> str:
    # In pieces, so that other threads can run.
    pieces = (data[at : at + _PIECE_BYTES] for at in range(0, len(data), _PIECE_BYTES))
    return "".join(base64.b64encode(piece).decode("ascii") for piece in pieces)


def _clock_parts(at: datetime | time) -> Any:
    zone = at.tzinfo
    # ISO 8601 has neither names of zones nor `fold`.
    if not at.fold and (
        zone is None or (type(zone) is timezone and len(zone.__getinitargs__()) == 1)  # type: ignore[attr-defined]
    ):
        return at.isoformat()
    return [at.replace(tzinfo=None).isoformat(), zone, at.fold]


def _clock(cls: type[Clock], plain: Any) -> Clock:
    if type(plain) is str:
        return cls.fromisoformat(plain)
    text, zone, fold = plain
    return cls.fromisoformat(text).replace(tzinfo=zone, fold=fold)


def _default_parts(value: defaultdict[Any, Any]) -> list[Any]:
    factory = value.default_factory
    name = getattr(factory, "__name__", "")
    if factory is not None and _FACTORIES.get(name) is not factory:
        raise ValueError(f"its factory {name} is not one of {', '.join(_FACTORIES)}")
    return [name if factory else None, dict(value)]


def _items(plain: Any) -> list[Any]:
    """Return `plain`, which must be a list: a short text can mean an endless range."""
    if type(plain) is not list:
        raise TypeError(f"its items are {type(plain).__name__}, not a list")
    return plain


def _ratio(numerator: int, denominator: int) -> list[int]:
    # A text is refused, too: it can mean a number with as many digits as it says.
    if max(numerator.bit_length(), denominator.bit_length()) > _MOST_BITS:
        raise ValueError(f"it has more than {_MOST_BITS} bits")
    return [numerator, denominator]


def _default(parts: list[Any]) -> defaultdict[Any, Any]:
    name, items = parts
    return defaultdict(None if name is None else _FACTORIES[name], items)


_BUILT_IN: Iterable[tuple[str, type, Callable[[Any], Any], Callable[[Any], Any]]] = (
    ("bytes", bytes, _to_base64, _from_base64),
    ("bytearray", bytearray, _to_base64, lambda text: bytearray(_from_base64(text))),
    ("tuple", tuple, list, tuple),
    ("set", set, list, set),
    ("frozenset", frozenset, list, frozenset),
    ("mapping", MappingProxyType, dict, MappingProxyType),
    ("ordereddict", OrderedDict, lambda d: list(map(list, d.items())), OrderedDict),
    ("defaultdict", defaultdict, _default_parts, _default),
    ("counter", Counter, dict, Counter),
    ("deque", deque, lambda d: [list(d), d.maxlen], lambda p: deque(_items(p[0]), p[1])),
    ("range", range, lambda r: [r.start, r.stop, r.step], lambda p: range(*p)),
    ("slice", slice, lambda s: [s.start, s.stop, s.step], lambda p: slice(*p)),
    ("array", array, lambda a: [a.typecode, a.tolist()], lambda p: array(p[0], _items(p[1]))),
    ("namespace", SimpleNamespace, vars, lambda plain: SimpleNamespace(**plain)),
    ("datetime", datetime, _clock_parts, lambda plain: _clock(datetime, plain)),
    ("time", time, _clock_parts, lambda plain: _clock(time, plain)),
    ("date", date, date.isoformat, date.fromisoformat),
    (
        "timedelta",
        timedelta,
        lambda d: [d.days, d.seconds, d.microseconds],
        lambda p: timedelta(*p),
    ),
    ("timezone", timezone, lambda z: list(z.__getinitargs__()), lambda p: timezone(*p)),
    ("zoneinfo", ZoneInfo, lambda zone: ZoneInfo(zone.key).key, ZoneInfo),
    ("decimal", Decimal, str, Decimal),
    (
        "rational",
        Fraction,
        lambda f: _ratio(*f.as_integer_ratio()),
        lambda p: Fraction(*_ratio(*p)),
    ),
    ("uuid", UUID, str, UUID),
    ("complex", complex, lambda z: [z.real, z.imag], lambda p: complex(*p)),
    ("path", type(Path()), str, Path),
    ("pureposixpath", PurePosixPath, str, PurePosixPath),
    ("purewindowspath", PureWindowsPath, str, PureWindowsPath),
    ("audio", Audio, lambda a: [a.pcm, a.sample_rate_hz], lambda p: Audio(*p)),
    ("message", Message, lambda m: [m.role, m.content], lambda p: Message(*p)),
    # A stream that is not whole refuses, and is described.
    (
        "stream",
        Stream,
        lambda s: [s.key, s.producer, [*s.items()]],
        lambda p: Stream.of(_items(p[2]), key=p[0], producer=p[1]),
    ),
    (UNSTORABLE, Unstorable, lambda u: [u.type_name, u.description], lambda p: Unstorable(*p)),
)

BUILT_IN = tuple(StoredType(*row) for row in _BUILT_IN)


#: Built-in types whose subclasses are stored, each with a way around overridden methods.
_BASES: Mapping[type, Callable[[Any], Any]] = {
    str: str.__str__,
    int: int.__int__,
    float: float.__float__,
    bytes: lambda value: bytes.__getitem__(value, slice(None)),
    tuple: lambda value: tuple(tuple.__iter__(value)),
    list: lambda value: list(list.__iter__(value)),
    dict: lambda value: dict(dict.items(value)),
    set: lambda value: set(set.__iter__(value)),
    frozenset: lambda value: frozenset(frozenset.__iter__(value)),
}
#: Kinds of numpy's types for numbers, texts, bytes and times; no objects or records.
_NUMPY_KINDS = frozenset("biufcSUmM")


class UnknownClassError(Exception):
    """A class is not imported here, or has other fields."""


class NotDataError(UnknownClassError):
    """Objects of a class may be more than data."""


def name_of(cls: type) -> str:
    """Return the name by which a stored value refers to its class."""
    return f"{cls.__module__}:{cls.__qualname__}"


def imported(name: str) -> type:
    """Return the class ``module:name`` of an imported module.

    Only dictionaries are read, because `getattr` could run code.
    """
    module, _, path = name.partition(":")
    place: Any = sys.modules.get(module)
    for part in path.split("."):
        known = isinstance(place, ModuleType | type)
        place = object.__getattribute__(place, "__dict__").get(part) if known else None
    if not isinstance(place, type):
        local = "is local to a function; define it at the top of a module"
        problem = local if "<locals>" in name else "is not imported here; import it first"
        raise UnknownClassError(f"class {name} {problem}")
    return place


@lru_cache(1024)
def base_of(cls: Any) -> Any:
    """Return the built-in type that creates the objects of a class of plain data."""
    base = next((known for known in cls.__mro__ if known in _BASES), object)
    names = {name for known in cls.__mro__ for name in vars(known)}
    is_data = base is not object or issubclass(cls, Enum) or not names.isdisjoint(DATA_MARKS)
    if not is_data or "__del__" in names:
        raise NotDataError(f"{name_of(cls)} is not a class of plain data")
    if base is object and not issubclass(cls, Enum):
        object.__new__(cls)  # raises TypeError for what another built-in type has to create
    return base


def parts_of(value: Any) -> list[Any]:
    """Return the parts from which `made_of` creates an equal value."""
    cls: type = type(value)
    base = base_of(cls)
    if isinstance(value, Enum):
        return [value.value if isinstance(value, Flag) else value.name]
    attributes = {
        name: item
        for name, item in attributes_of(value).items()
        if _static(cls, name, cached_property) is None
    }
    content = [_BASES[base](value)] if base in _BASES else []
    _check_fields(cls, attributes, *content)
    return [attributes, *content]


def made_of(cls: type, parts: list[Any]) -> Any:
    """Return a value of a class from the result of `parts_of`."""
    base = base_of(cls)
    if issubclass(cls, Enum):
        (member,) = parts
        if issubclass(cls, Flag) and type(member) is int:
            known = cls._value2member_map_.get(member)
            return known if known is not None else Flag._missing_.__func__(cls, member)  # type: ignore[attr-defined]
        if member not in cls.__members__:
            raise UnknownClassError(f"{name_of(cls)} has no member {member!r} now")
        return cls.__members__[member]
    attributes, *content = parts
    if [type(part) for part in content] != ([base] if base in _BASES else []):
        raise TypeError(f"{name_of(cls)} does not extend the type of its content")
    _check_fields(cls, attributes, *content)
    made = base.__new__(cls, *content)
    if base in (list, dict, set):
        base.__init__(made, *content)
    for name, item in attributes.items():
        slot = _static(cls, name, MemberDescriptorType)  # type: ignore[arg-type]
        if slot is None:
            object.__getattribute__(made, "__dict__")[name] = item
        else:
            slot.__set__(made, item)
    return made


def _check_fields(cls: type, attributes: Mapping[str, Any], content: Any = None) -> None:
    needed: Iterable[str] = getattr(cls, "__pydantic_fields__", ())
    if dataclasses.is_dataclass(cls):
        needed = [field.name for field in dataclasses.fields(cls) if field.init]
    lacking = [name for name in needed if name not in attributes]
    if issubclass(cls, tuple) and len(getattr(cls, "_fields", content)) != len(content):
        lacking = list(getattr(cls, "_fields", ()))
    if lacking:
        raise UnknownClassError(
            f"{name_of(cls)} has the fields {', '.join(lacking)}, which it lacks"
        )


@lru_cache(4096)
def _static(cls: Any, name: str, kind: Any) -> Any:
    """Return the attribute of a class or its bases that is a `kind`."""
    found = (vars(base).get(name) for base in cls.__mro__)
    return next((attribute for attribute in found if isinstance(attribute, kind)), None)


def numpy_parts(value: Any) -> list[Any] | None:
    """Return the parts of an array or scalar for `numpy_made`; None for other values."""
    numpy = sys.modules.get("numpy")
    if numpy is None or not (type(value) is numpy.ndarray or isinstance(value, numpy.generic)):
        return None
    if value.dtype.kind not in _NUMPY_KINDS:
        raise ValueError(f"arrays of {value.dtype} are not stored")
    shape = list(value.shape) if type(value) is numpy.ndarray else None
    return [value.dtype.str, shape, value.tobytes()]


def numpy_made(parts: list[Any]) -> Any:
    """Return an array or scalar from the result of `numpy_parts`."""
    text, shape, content = parts
    numpy = sys.modules.get("numpy")
    if numpy is None:
        raise UnknownClassError("numpy is not imported here; import it first")
    dtype = numpy.dtype(text)
    if dtype.kind not in _NUMPY_KINDS or (shape and not dtype.itemsize):
        raise ValueError(f"arrays of {dtype} are not stored")
    array = numpy.ndarray(tuple(shape or ()), dtype, content).copy()
    return array[()] if shape is None else array
