"""The mutation operators: the mistakes that are planted in a line of code.

All that mutmut 3.8 does by default, and more: conditions negated, calls and raises deleted, return
values lost, exceptions not caught, decorators taken off. As there, annotations, docstrings, the
fixed parts of f-strings and calls of ``len`` and ``isinstance`` stay as they are.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

Node = TypeVar("Node", bound=ast.AST)


class Change(NamedTuple):
    """One way to change a node.

    Attributes:
        new: What comes in its place; None takes an item out of a list.
        field: The field of the node that `new` takes, or empty if it takes the whole node's place.
        index: The place in that field, if the field is a list.
    """

    new: ast.AST | None
    field: str = ""
    index: int | None = None  # type: ignore[assignment]


_BINARY: Mapping[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Div,
    ast.Mod: ast.Div,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitAnd,
    ast.Pow: ast.Mult,
}
_COMPARISON: Mapping[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_METHODS: Mapping[str, str] = {
    one: other
    for pair in (
        ("lower", "upper"),
        ("lstrip", "rstrip"),
        ("find", "rfind"),
        ("ljust", "rjust"),
        ("index", "rindex"),
        ("removeprefix", "removesuffix"),
        ("partition", "rpartition"),
    )
    for one, other in (pair, pair[::-1])
}
_SPLITS = {"split": "rsplit", "rsplit": "split"}
_LEFT_ALONE = frozenset({"len", "isinstance"})


def altered(node: Node, **fields: object) -> Node:
    """A copy of a node in which some fields differ."""
    values = {name: getattr(node, name, None) for name in node._fields}
    return ast.copy_location(type(node)(**{**values, **fields}), node)


def _none() -> ast.expr:
    return ast.Constant(None)


def _is_none(node: ast.AST | None) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _without(items: list[Any], index: int) -> list[Any]:
    return [*items[:index], *items[index + 1 :]]


def _constant(node: ast.Constant) -> Iterator[Change]:
    value = node.value
    if isinstance(value, bool):
        yield Change(ast.Constant(not value))
    elif isinstance(value, int | float | complex):
        yield Change(ast.Constant(value + 1))
    elif isinstance(value, str):
        for text in (f"XX{value}XX", value.lower(), value.upper()):
            if text != value:
                yield Change(ast.Constant(text))
    elif isinstance(value, bytes):
        yield Change(ast.Constant(b"XX" + value + b"XX"))


def _assignment(node: ast.Assign | ast.AnnAssign) -> Iterator[Change]:
    if node.value is not None:
        yield Change(ast.Constant("") if _is_none(node.value) else _none(), "value")


def _augmented(node: ast.AugAssign) -> Iterator[Change]:
    yield Change(ast.Assign([node.target], node.value))
    yield Change(altered(node, op=_BINARY[type(node.op)]()))


def _unary(node: ast.UnaryOp) -> Iterator[Change]:
    if isinstance(node.op, ast.USub | ast.UAdd):
        other = ast.UAdd() if isinstance(node.op, ast.USub) else ast.USub()
        yield Change(altered(node, op=other))
    else:
        yield Change(node.operand)


def _binary(node: ast.BinOp) -> Iterator[Change]:
    if type(node.op) in _BINARY:
        yield Change(altered(node, op=_BINARY[type(node.op)]()))


def _boolean(node: ast.BoolOp) -> Iterator[Change]:
    """Each ``and`` of ``a and b and c`` by itself becomes an ``or``, and the other way round."""
    other: ast.boolop = ast.Or() if isinstance(node.op, ast.And) else ast.And()
    for cut in range(1, len(node.values)):
        sides = [
            part[0] if len(part) == 1 else ast.BoolOp(node.op, part)
            for part in (node.values[:cut], node.values[cut:])
        ]
        yield Change(ast.BoolOp(other, sides))


def _comparison(node: ast.Compare) -> Iterator[Change]:
    for index, operator in enumerate(node.ops):
        yield Change(
            altered(
                node,
                ops=[*node.ops[:index], _COMPARISON[type(operator)](), *node.ops[index + 1 :]],
            )
        )


def _call(node: ast.Call) -> Iterator[Change]:
    for index, argument in enumerate(node.args):
        if not isinstance(argument, ast.Starred) and not _is_none(argument):
            yield Change(_none(), "args", index)
    for index, keyword in enumerate(node.keywords):
        if keyword.arg is not None and not _is_none(keyword.value):
            yield Change(altered(keyword, value=_none()), "keywords", index)
        yield Change(altered(node, keywords=_without(node.keywords, index)))
    if len(node.args) + len(node.keywords) > 1:
        for index in range(len(node.args)):
            yield Change(altered(node, args=_without(node.args, index)))
    if isinstance(node.func, ast.Name) and node.func.id == "dict":
        yield from _keys(node)
    if isinstance(node.func, ast.Attribute):
        yield from _method(node, node.func)


def _keys(node: ast.Call) -> Iterator[Change]:
    for index, keyword in enumerate(node.keywords):
        if keyword.arg is not None:
            yield Change(altered(keyword, arg=keyword.arg + "XX"), "keywords", index)


def _method(call: ast.Call, function: ast.Attribute) -> Iterator[Change]:
    other = _METHODS.get(function.attr)
    # From which end a string is split makes a difference only if it is not split everywhere.
    if len(call.args) == 2 or any(keyword.arg == "maxsplit" for keyword in call.keywords):
        other = other or _SPLITS.get(function.attr)
    if other is not None:
        yield Change(altered(function, attr=other), "func")


def _lambda(node: ast.Lambda) -> Iterator[Change]:
    yield Change(ast.Constant(0) if _is_none(node.body) else _none(), "body")


def _conditional(node: ast.IfExp) -> Iterator[Change]:
    for constant in (False, True):
        yield Change(ast.Constant(constant), "test")


def _condition(node: ast.If | ast.While) -> Iterator[Change]:
    yield Change(_negated(node.test), "test")


def _filter(node: ast.comprehension) -> Iterator[Change]:
    for index, test in enumerate(node.ifs):
        yield Change(_negated(test), "ifs", index)


def _negated(test: ast.expr) -> ast.expr:
    return ast.UnaryOp(ast.Not(), test)


def _statement(node: ast.Expr) -> Iterator[Change]:
    if isinstance(node.value, ast.Call | ast.Await):
        yield Change(ast.Pass())


def _deletion(node: ast.stmt) -> Iterator[Change]:
    yield Change(ast.Pass())


def _return(node: ast.Return) -> Iterator[Change]:
    if node.value is not None and not _is_none(node.value):
        yield Change(_none(), "value")


def _break(node: ast.Break) -> Iterator[Change]:
    yield Change(ast.Return(None))


def _continue(node: ast.Continue) -> Iterator[Change]:
    yield Change(ast.Break())


def _handler(node: ast.ExceptHandler) -> Iterator[Change]:
    if node.type is not None:
        yield Change(ast.Tuple([], ast.Load()), "type")


def _match(node: ast.Match) -> Iterator[Change]:
    if len(node.cases) > 1:
        for index in range(len(node.cases)):
            yield Change(None, "cases", index)


def _decorated(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> Iterator[Change]:
    for index in range(len(node.decorator_list)):
        yield Change(None, "decorator_list", index)


_OPERATORS: tuple[tuple[Any, Callable[[Any], Iterator[Change]]], ...] = (
    (ast.Constant, _constant),
    (ast.Assign, _assignment),
    (ast.AnnAssign, _assignment),
    (ast.AugAssign, _augmented),
    (ast.UnaryOp, _unary),
    (ast.BinOp, _binary),
    (ast.BoolOp, _boolean),
    (ast.Compare, _comparison),
    (ast.Call, _call),
    (ast.Lambda, _lambda),
    (ast.IfExp, _conditional),
    (ast.If, _condition),
    (ast.While, _condition),
    (ast.comprehension, _filter),
    (ast.Expr, _statement),
    (ast.Delete, _deletion),
    (ast.Raise, _deletion),
    (ast.Return, _return),
    (ast.Break, _break),
    (ast.Continue, _continue),
    (ast.ExceptHandler, _handler),
    (ast.Match, _match),
    (ast.FunctionDef, _decorated),
    (ast.AsyncFunctionDef, _decorated),
    (ast.ClassDef, _decorated),
)


def changes(node: ast.AST) -> Iterator[Change]:
    """Every way to change a node itself, not what is within it."""
    for kind, operator in _OPERATORS:
        if type(node) is kind:
            yield from operator(node)


def parts(node: ast.AST) -> Iterator[tuple[str, int | None, ast.AST]]:
    """The nodes directly within a node that may be changed: field, index, node."""
    function = node.func if isinstance(node, ast.Call) else None
    if isinstance(function, ast.Name) and function.id in _LEFT_ALONE:
        return
    for field, value in ast.iter_fields(node):
        if field in {"annotation", "returns"}:
            continue
        for index, item in enumerate(value) if isinstance(value, list) else ((None, value),):
            if isinstance(item, ast.AST) and not _is_text(item, node):
                yield field, index, item


def _is_text(node: ast.AST, parent: ast.AST) -> bool:
    """Whether it is a docstring, or the fixed part of an f-string."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant)
    return isinstance(parent, ast.JoinedStr) and isinstance(node, ast.Constant)
