"""Puts a mutant into a running process, in place of the code that it was made from.

Nothing on disk changes. A mutant within a function gets its code into the functions that live
already, wherever they are held: in a class, a closure, a table. One in code that runs at import
takes effect when the module is imported again.
"""

from __future__ import annotations

import gc
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import CodeType, FunctionType, ModuleType

from tools.mutation.mutants import Mutant, Source

#: Set by ``types.coroutine`` on the code of a generator function; the compiler knows nothing of it.
_CO_ITERABLE_COROUTINE = 0x100

Key = tuple[str, int]


def _key(code: CodeType) -> Key:
    return code.co_qualname, code.co_firstlineno


def _codes(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from _codes(constant)


class LiveFunctions:
    """The functions of some files that live in this process."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._found: dict[str, list[FunctionType]] = {str(path): [] for path in paths}
        for thing in gc.get_objects():
            if isinstance(thing, FunctionType):
                found = self._found.get(thing.__code__.co_filename)
                if found is not None:
                    found.append(thing)

    def activate(self, mutant: Mutant, source: Source) -> bool:
        """Put a mutant into place; False if no function lives that it is in."""
        code = mutant.make(source.tree, str(source.path))
        unit = mutant.unit
        assert unit is not None, "code that runs at import has no function"
        first = min([unit.lineno, *(node.lineno for node in unit.decorator_list)])
        lines = range(first, (unit.end_lineno or first) + 1)
        fresh = {_key(part): part for part in _codes(code) if part.co_firstlineno in lines}
        return (
            sum(_replace(function, mutant, fresh) for function in self._found[str(source.path)]) > 0
        )


def _replace(function: FunctionType, mutant: Mutant, fresh: Mapping[Key, CodeType]) -> bool:
    old = function.__code__
    new = fresh.get(_key(old))
    if new is None:
        return False
    if mutant.default is not None:
        return _replace_default(function, mutant)
    flags = new.co_flags | (old.co_flags & _CO_ITERABLE_COROUTINE)
    # A function keeps its closure, also if the mutant no longer looks at it.
    function.__code__ = new.replace(co_flags=flags, co_freevars=old.co_freevars)
    return True


def _replace_default(function: FunctionType, mutant: Mutant) -> bool:
    assert mutant.unit is not None
    if function.__name__ != mutant.unit.name:
        return False
    if isinstance(mutant.default, str):
        function.__kwdefaults__ = {**(function.__kwdefaults__ or {}), mutant.default: mutant.value}
    elif mutant.default is not None:
        defaults = list(function.__defaults__ or ())
        defaults[mutant.default] = mutant.value
        function.__defaults__ = tuple(defaults)
    return True


class MutantFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports one module as a mutant has it, and leaves all others to the usual way."""

    def __init__(self, module: str, code: CodeType) -> None:
        self._module = module
        self._code = code

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        """Claim the one module."""
        if fullname != self._module:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None:
            spec.loader = self
        return spec

    def exec_module(self, module: ModuleType) -> None:
        """Run the mutant."""
        exec(self._code, module.__dict__)


def forget(folder: Path, but: str) -> None:
    """Forget all modules of a folder but those of one package, so that they are imported again.

    What is installed stays, also if the virtual environment is in the folder: pytest itself does.
    """
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if not file or f"{name}.".startswith(f"{but}."):
            continue
        if Path(file).is_relative_to(folder) and not Path(file).is_relative_to(sys.prefix):
            del sys.modules[name]
