"""Finds the mutants of a file, names them, and makes each of them on demand."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import CodeType
from typing import Any, NamedTuple

from tools.mutation.operators import Change, changes, parts

Function = ast.FunctionDef | ast.AsyncFunctionDef
_NOT_CODE = frozenset({"__slots__", "__all__", "__match_args__"})


class Identity(NamedTuple):
    """The identity of a mutant as long as its line stays: no line number, no running number.

    Attributes:
        module: Path of the file, from the root.
        function: Qualified name of the function, or of the class, or empty.
        before: The line (or lines), with each run of blanks as one.
        after: The line as the mutant has it.
        nth: Which one, from 1, if the function has several that read the same.
    """

    module: str
    function: str
    before: str
    after: str
    nth: int = 1


class _Place(NamedTuple):
    """Where the search is: the file's tree seen from one node."""

    function: str
    #: The outermost function around; None where code runs at import.
    unit: Function | None
    #: The lines of which a test must run one to notice.
    lines: range


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change of one place.

    Attributes:
        identity: Its name.
        line: The number of its first line.
        lines: The lines of which a test must run one to notice.
        at_import: Whether the changed code runs when the module is imported.
        default: The changed default of a parameter: the index of the parameter, or its name.
    """

    identity: Identity
    line: int
    lines: range
    unit: Function | None
    at_import: bool
    default: int | str | None
    _holder: ast.AST
    _field: str
    _index: int | None
    _new: ast.AST | None

    @property
    def value(self) -> Any:
        """The new value of a changed default."""
        return ast.literal_eval(self._new) if isinstance(self._new, ast.expr) else None

    def make(self, tree: ast.Module, filename: str) -> CodeType:
        """Compile the file with the change. The tree stays changed: for use in a child process."""
        if self._index is None:
            setattr(self._holder, self._field, self._new)
        else:
            items: list[ast.AST] = getattr(self._holder, self._field)
            items[self._index : self._index + 1] = [] if self._new is None else [self._new]
        ast.fix_missing_locations(tree)
        return compile(tree, filename, "exec", dont_inherit=True)

    def __str__(self) -> str:
        where = f"{self.identity.module}:{self.line}"
        if self.identity.function:
            where += f" {self.identity.function}"
        return f"{where}\n    - {self.identity.before}\n    + {self.identity.after}"


class Source:
    """One file, its tree, and the mutants of it.

    Attributes:
        path: Where it is.
        name: How its mutants name it.
        module: How it is imported.
        tree: What the parser made of it.
        mutants: All of them.
    """

    def __init__(self, path: Path, name: str) -> None:
        """Read and parse a file.

        Args:
            path: Where it is.
            name: How its mutants name it, usually the path from the root.
        """
        self.path = path
        self.name = name
        self.module = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        text = path.read_bytes()
        self.tree = ast.parse(text, str(path))
        self._lines = text.splitlines()
        found = self._search(self.tree, _Place("", None, range(0)))
        self.mutants = tuple(self._numbered(found))

    @staticmethod
    def _numbered(found: Iterator[Mutant]) -> Iterator[Mutant]:
        """Leave out what two operators do alike; tell apart what only reads alike."""
        seen: set[tuple[Identity, int]] = set()
        count: Counter[Identity] = Counter()
        for mutant in found:
            key = (mutant.identity, mutant.line)
            if key not in seen:
                seen.add(key)
                count[mutant.identity] += 1
                number = count[mutant.identity]
                yield replace(mutant, identity=mutant.identity._replace(nth=number))

    def _search(self, node: ast.AST, place: _Place) -> Iterator[Mutant]:
        for field, index, child in parts(node):
            if field == "decorator_list" or (place.unit is None and _is_no_code(child)):
                continue
            within = _enter(child, place)
            if _may_change(child, within):
                for change in changes(child):
                    yield self._mutant((node, field, index), child, change, within)
            yield from self._search(child, within)

    def _mutant(
        self,
        slot: tuple[ast.AST, str, int | None],
        node: ast.AST,
        change: Change,
        place: _Place,
    ) -> Mutant:
        (holder, field, index), old = slot, node
        if change.field:
            holder, field, index = node, change.field, change.index
            value = getattr(node, field)
            old = value if index is None else value[index]
        if change.new is not None:
            ast.copy_location(change.new, old)
        before, after = self._texts(old, change.new, field)
        unit = place.unit
        default = _default(holder, field, index) if unit and holder is unit.args else None
        # A decorator of the outermost function runs at import, its body does not.
        at_import = unit is None or (field == "decorator_list" and node is unit)
        return Mutant(
            identity=Identity(self.name, place.function, before, after),
            line=_span(old).start,
            lines=place.lines,
            unit=place.unit,
            at_import=at_import,
            default=default,
            _holder=holder,
            _field=field,
            _index=index,
            _new=change.new,
        )

    def _texts(self, old: ast.AST, new: ast.AST | None, field: str) -> tuple[str, str]:
        """The lines of a node, before and after it is replaced."""
        if isinstance(old, ast.match_case):
            return ast.unparse(old), ""
        assert isinstance(old, ast.expr | ast.stmt | ast.excepthandler | ast.keyword)
        assert old.end_lineno is not None
        assert old.end_col_offset is not None
        if field == "decorator_list":
            return f"@{ast.unparse(old)}", ""
        lines = self._lines[old.lineno - 1 : old.end_lineno]
        head = lines[0][: old.col_offset]
        tail = lines[-1][old.end_col_offset :]
        text = ast.unparse(new).encode() if new is not None else b""
        return _flat(b"\n".join(lines)), _flat(head + text + tail)


def _flat(text: bytes) -> str:
    return " ".join(text.decode().split())


def _span(node: ast.AST) -> range:
    start = getattr(node, "lineno", 0)
    return range(start, (getattr(node, "end_lineno", None) or start) + 1)


def _enter(node: ast.AST, place: _Place) -> _Place:
    """The place within a node."""
    function, unit, _ = place
    if isinstance(node, Function | ast.ClassDef):
        name = f"{function}.{node.name}" if function else node.name
        inner = node if isinstance(node, Function) else None
        body = range(node.body[0].lineno, (node.end_lineno or node.lineno) + 1)
        return _Place(name, unit or inner, body)
    if isinstance(node, ast.stmt) and unit is not None:
        first = getattr(node, "body", None)
        # Of a statement with a body, the part before it.
        end = first[0].lineno if first else (node.end_lineno or node.lineno) + 1
        return _Place(function, unit, range(node.lineno, max(end, node.lineno + 1)))
    if isinstance(node, ast.ExceptHandler) and unit is not None:
        return _Place(function, unit, range(node.lineno, node.lineno + 1))
    return place


def _is_no_code(node: ast.AST) -> bool:
    """Whether a statement at import is not for a test to judge: it names, it does nothing."""
    if isinstance(node, ast.Assign):
        return any(
            isinstance(target, ast.Name) and target.id in _NOT_CODE for target in node.targets
        )
    return isinstance(node, ast.Import | ast.ImportFrom)


def _may_change(node: ast.AST, place: _Place) -> bool:
    """At import only constants, operators and decorators: the rest breaks the import."""
    if place.unit is not None:
        return True
    return isinstance(
        node, ast.Constant | ast.BinOp | ast.UnaryOp | ast.Compare | ast.ClassDef | Function
    )


def _default(holder: ast.AST, field: str, index: int | None) -> int | str | None:
    """Which parameter's default is replaced: its place from the end, or its name."""
    if isinstance(holder, ast.arguments) and index is not None:
        if field == "defaults":
            return index
        if field == "kw_defaults":
            return holder.kwonlyargs[index].arg
    return None
