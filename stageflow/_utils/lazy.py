"""Names of a package whose modules are imported at first use."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any


def lazy_names(package: str, names: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return the ``__getattr__`` and ``__dir__`` of a package with lazy names (PEP 562).

    Each line of `names` has a module of `package`, a colon, and the names to import from it.
    """
    home_of: dict[str, str] = {}
    for line in names.strip().splitlines():
        module, _, handed_on = line.partition(":")
        home_of.update(dict.fromkeys(handed_on.split(), f"{package}.{module.strip()}"))

    def get(name: str) -> Any:
        if name not in home_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(home_of[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    def known() -> list[str]:
        return sorted({*vars(sys.modules[package]), *home_of})

    return get, known
