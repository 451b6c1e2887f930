"""Values as JSON: plain values as they are, other types with a tag, never a pickle.

A value that cannot be stored is replaced by an `Unstorable` that describes it.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from json import scanner
from types import MappingProxyType
from typing import Any

from stageflow.codec import types as typed
from stageflow.engine.dead_letter import Unstorable, unstorable_in
from stageflow.errors import CorruptDeadLetterError

#: Marks a tagged value: ``{"$": tag, "v": …}``.
_TAG = "$"
#: Beginning of a placeholder in JSON. A user's own key "$" is stored as a list of pairs.
PLACEHOLDER = '{"$": "unstorable"'
#: Deeper nesting than this is not stored; the JSON parser has a limit, too.
_DEPTH = 60
#: Most containers in a value, where a shared one counts each time.
_CONTAINERS = 1_000_000
_DESCRIBED_CHARS = 200
#: Above this, encoding takes about 5 ms: 2 µs for a number or a list, 20 ns for a byte of sound.
_LARGE_BYTES, _PART_BYTES = 256_000, 100
#: How many numbers or characters are written at once, which takes less than 5 ms.
_PIECE = 4_000
#: Integers with more bits are written in hexadecimal: Python limits decimal ones.
_DECIMAL_BITS = 1_024
#: Tags of what can hold placeholders as well as values.
_OPEN = frozenset(
    ["object", "tuple", "set", "frozenset", "mapping", "ordereddict", "deque", "namespace"]
)
_TEXTS, _NUMBERS = frozenset({str, bool, type(None)}), frozenset({int, float})


class _TooLargeError(Exception):
    pass


class _Walk:
    def __init__(self) -> None:
        self.outer: list[int] = []  # identities of the containers around the present part
        self.left = _CONTAINERS  # how many more the value may have
        self.lost = 0  # how many parts could not be stored
        self.reason = ""  # why the latest of them could not


class ValueCodec:
    """Turns values into what JSON can hold, and back."""

    def __init__(
        self, types: Iterable[typed.StoredType | type] = (), *, declared_only: bool = False
    ) -> None:
        """Choose types beside the built-in ones.

        Args:
            types: A `StoredType` for objects of any kind, or a class of plain data.
            declared_only: Whether to refuse classes that are not in `types`. By default each class
                of plain data of an imported module can be stored and read.
        """
        everything = list(types)
        declared = [known for known in everything if isinstance(known, type)]
        stored = [
            *typed.BUILT_IN,
            *(known for known in everything if isinstance(known, typed.StoredType)),
        ]
        self._by_class = {known.cls: known for known in stored}
        self._by_tag = {known.tag: known for known in stored}
        self._classes = {typed.name_of(cls): cls for cls in declared}
        self._declared_only = declared_only

    def to_plain(self, value: Any) -> Any:
        """Return `value` as JSON can hold it, with a placeholder for each part that it cannot."""
        walk = _Walk()
        try:
            return self._plain(value, walk)
        except Exception as error:  # such as a dict that another thread changes
            return _placeholder(value, walk, _text(error))

    def _plain(self, value: Any, walk: _Walk) -> Any:
        kind = type(value)
        if value is None or kind is bool or kind is str:
            return value
        if kind is int or kind is float:
            return _plain_number(value)
        if len(walk.outer) >= _DEPTH or id(value) in walk.outer:
            deep = id(value) not in walk.outer
            reason = "nested too deep, or within itself" if deep else "it is within itself"
            return _placeholder(value, walk, reason)
        walk.left -= 1
        if walk.left < 0:
            raise _TooLargeError(f"it has more than {_CONTAINERS} lists and objects")
        walk.outer.append(id(value))
        try:
            if kind is list:
                kinds = set(map(type, value))
                if kinds <= _TEXTS or (kinds <= _NUMBERS and _are_finite(value)):
                    return value.copy()
                return [self._plain(item, walk) for item in value]
            store = self._plain_dict if kind is dict else self._plain_object
            return store(value, walk)
        finally:
            walk.outer.pop()

    def _plain_dict(self, value: dict[Any, Any], walk: _Walk) -> Any:
        if all(type(key) is str for key in value) and _TAG not in value:
            return {key: self._plain(item, walk) for key, item in value.items()}
        pairs = [[self._plain(key, walk), self._plain(item, walk)] for key, item in value.items()]
        return _tagged("dict", pairs)

    def _plain_object(self, value: Any, walk: _Walk) -> Any:
        if type(value) is Unstorable and value.plain is not None:
            return value.plain
        lost = walk.lost
        try:
            tag, parts = self._parts(value)
            plain = self._plain(parts, walk)
            if tag in ("set", "frozenset"):
                alike = set(map(type, plain)) in ({int}, {str})
                plain.sort(key=None if alike else canonical)
            if walk.lost != lost:
                self.from_plain(_tagged(tag, plain))
        except _TooLargeError:
            raise
        except typed.NotDataError:
            return _placeholder(value, walk)
        except Exception as error:
            # If a part was lost, the value cannot be read from the others.
            return _placeholder(value, walk, walk.reason if walk.lost != lost else _text(error))
        return _tagged(tag, plain)

    def _parts(self, value: Any) -> tuple[str, Any]:
        cls = type(value)
        if (known := self._by_class.get(cls)) is not None:
            return known.tag, known.to_plain(value)
        if (parts := typed.numpy_parts(value)) is not None:
            return "numpy", parts
        name, parts = typed.name_of(cls), typed.parts_of(value)
        if self._class(name) is not cls:
            raise typed.UnknownClassError(f"another class is called {name}; name each differently")
        return "object", [name, *parts]

    def _class(self, name: str) -> type:
        known = self._classes.get(name)
        if known is None and self._declared_only:
            raise typed.UnknownClassError(f"{name} is not declared; give it to Codec([…])")
        return typed.imported(name) if known is None else known

    def from_plain(self, plain: Any) -> Any:
        """Return the value that `to_plain` was given.

        Raises `CorruptDeadLetterError` for an unknown tag, or a class that is not imported here.
        """
        try:
            return self._value(plain, strict=True)
        except typed.UnknownClassError as error:
            raise CorruptDeadLetterError(str(error)) from error

    def _value(self, plain: Any, *, strict: bool) -> Any:
        if isinstance(plain, list):
            return [self._value(item, strict=strict) for item in plain]
        if not isinstance(plain, dict):
            return plain
        if _TAG not in plain:
            return {key: self._value(item, strict=strict) for key, item in plain.items()}
        tag = plain[_TAG]
        try:
            return self._untagged(tag, plain["v"], strict)
        except CorruptDeadLetterError:
            raise
        except typed.UnknownClassError as error:
            if strict:
                raise
            name = str(plain["v"][0]).replace(":", ".") if tag == "object" else str(tag)
            return Unstorable(name, str(error), plain)
        except Exception as error:
            raise CorruptDeadLetterError(
                f"a value tagged {tag!r} ({type(error).__name__}: {error})"
            ) from error

    def _untagged(self, tag: str, inner: Any, strict: bool) -> Any:
        if tag == "int":
            return int(inner, 16)
        if tag == "float":
            return float(inner)
        if tag == "dict":
            pairs = [[self._value(part, strict=strict) for part in pair] for pair in inner]
            return dict(pairs)
        parts = self._value(inner, strict=strict or tag not in _OPEN)
        if tag == "object":
            return typed.made_of(self._class(parts[0]), parts[1:])
        if tag == "numpy":
            return typed.numpy_made(parts)
        known = self._by_tag[tag]
        if type(parts) is range and known in typed.BUILT_IN:  # its items would not fit into memory
            raise TypeError("its content is a range")
        return known.from_plain(parts)

    def plain_items(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return a mapping whose values are those of `to_plain`."""
        # A user's key "$" is not a tag here.
        return {key: self.to_plain(value) for key, value in values.items()}

    def items_from_plain(self, plain: Mapping[str, Any], *, strict: bool = True) -> dict[str, Any]:
        """Return the mapping that `plain_items` was given.

        Unless `strict`, a value whose class is not imported here is an `Unstorable`, which
        `plain_items` stores as that value.
        """
        read = self.from_plain if strict else partial(self._value, strict=False)
        return {key: read(value) for key, value in plain.items()}

    def lost(self, where: str, plain: Mapping[str, Any]) -> dict[str, Unstorable]:
        """Return the placeholders in what `plain_items` returned, by path from `where`."""
        return dict(unstorable_in(where, self.items_from_plain(plain, strict=False)))


def canonical(plain: Any) -> str:
    """Return a stored form as text that is the same for equal values in any order."""
    return json.dumps(_ordered(plain), sort_keys=True)


def _ordered(plain: Any) -> Any:
    if isinstance(plain, list):
        return [_ordered(item) for item in plain]
    if not isinstance(plain, dict):
        return plain
    ordered = {key: _ordered(item) for key, item in plain.items()}
    if plain.get(_TAG) == "dict":
        ordered["v"].sort(key=lambda pair: json.dumps(pair, sort_keys=True))
    return ordered


def is_large(value: Any) -> bool:
    """Return whether `value` may take milliseconds to encode, so that a thread should do it."""
    left, waiting = _LARGE_BYTES, [value]
    while waiting and left > 0:
        value = waiting.pop()
        if isinstance(value, str | bytes | bytearray):
            left -= len(value)
        elif isinstance(value, list | tuple | set | frozenset | deque | dict | MappingProxyType):
            left -= _PART_BYTES * len(value)
            if left > 0:
                kinds = dict, MappingProxyType
                waiting += (*value, *value.values()) if isinstance(value, kinds) else value
        elif value is not None and type(value) not in (int, float, bool):
            left -= _PART_BYTES
            try:
                left -= int(getattr(value, "nbytes", 0))
                names = [*getattr(value, "__dict__", ()), *getattr(value, "__slots__", ())]
                waiting += [getattr(value, name, None) for name in names]
            except Exception:  # noqa: S112 - raised by the value's own code, which says no size
                continue
    return left <= 0


def dumps(plain: Any, *, large: bool = False) -> str:
    """Return the JSON of a stored form; if it is large, yield to other threads meanwhile."""
    return "".join(_pieces(plain)) if large else json.dumps(plain)


def loads(text: str, *, large: bool = False) -> Any:
    """Return what JSON holds; if it is large, yield to other threads meanwhile."""
    decoder: Any = json.JSONDecoder()
    if large:  # the scanner written in C holds the interpreter until it is done
        decoder.scan_once = scanner.py_make_scanner(decoder)  # type: ignore[attr-defined]
    return decoder.decode(text)


def _pieces(plain: Any) -> Iterator[str]:
    """Yield the text of `json.dumps`, which does not yield to other threads, in pieces."""
    if isinstance(plain, dict) and plain:
        for number, (key, item) in enumerate(plain.items()):
            yield f"{', ' if number else '{'}{json.dumps(key)}: "
            yield from _pieces(item)
        yield "}"
    elif isinstance(plain, list) and not set(map(type, plain)) <= _NUMBERS:
        for number, item in enumerate(plain):
            yield ", " if number else "["
            yield from _pieces(item)
        yield "]"
    elif isinstance(plain, list | str) and len(plain) > _PIECE:
        (first, last), between = ('""', "") if isinstance(plain, str) else ("[]", ", ")
        for at in range(0, len(plain), _PIECE):
            yield f"{between if at else first}{json.dumps(plain[at : at + _PIECE])[1:-1]}"
        yield last
    else:
        yield json.dumps(plain)


def _placeholder(value: Any, walk: _Walk, reason: str | None = None) -> Any:
    cls = type(value)
    try:
        text = reason if reason is not None else repr(value)
    except Exception as error:
        text = f"its repr() raises {type(error).__name__}"
    walk.lost, walk.reason = walk.lost + 1, text[:_DESCRIBED_CHARS]
    return _tagged(typed.UNSTORABLE, [f"{cls.__module__}.{cls.__qualname__}", walk.reason])


def _text(error: Exception) -> str:
    known = isinstance(error, typed.UnknownClassError | _TooLargeError)
    return str(error) if known else f"{type(error).__name__}: {error}"


def _tagged(tag: str, plain: Any) -> dict[str, Any]:
    return {_TAG: tag, "v": plain}


def _are_finite(numbers: list[Any]) -> bool:
    try:
        return all(map(math.isfinite, numbers))
    except OverflowError:
        return False


def _plain_number(value: int | float) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else _tagged("float", repr(value))
    return value if value.bit_length() <= _DECIMAL_BITS else _tagged("int", hex(value))
