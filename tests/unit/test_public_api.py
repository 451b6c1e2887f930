"""The package's public names, and the cost of importing it."""

from __future__ import annotations

import inspect
import sys
import types

import pytest

import stageflow
from tests.utils.commands import run_command

#: Prints the top-level names of all modules that an import loads and that do not belong to Python.
_LOADED = """
import sys
before = set(sys.modules)
import stageflow
loaded = {name.partition(".")[0] for name in set(sys.modules) - before}
print(*sorted(loaded - sys.stdlib_module_names))
"""


@pytest.mark.parametrize("name", stageflow.__all__)
def test_every_public_name_exists_and_says_what_it_is(name: str) -> None:
    """It can be imported, comes from this package, and has a docstring."""
    public = getattr(stageflow, name)
    assert public.__module__.startswith("stageflow.")
    assert inspect.getdoc(public)


def test_every_name_that_the_package_holds_is_public() -> None:
    """Nothing is importable by accident: each name that is not a module is in the list."""
    held = {
        name
        for name in dir(stageflow)
        if not name.startswith("_")
        if not isinstance(getattr(stageflow, name), types.ModuleType)
    }
    assert held - {"TYPE_CHECKING", "lazy_names"} == set(stageflow.__all__)


def test_importing_the_package_loads_nothing_from_outside() -> None:
    """No third-party package is loaded, whichever are installed."""
    loaded = run_command([sys.executable, "-I", "-c", _LOADED], check=True)
    assert loaded.stdout.split() == ["stageflow"]
