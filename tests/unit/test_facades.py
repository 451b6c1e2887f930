"""Users import from a package: each package hands on its public names, and nothing goes deeper."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.utils.commands import run_command

ROOT = Path(__file__).resolve().parents[2]

#: Tests of a module's inside. Elsewhere only these may look behind a facade.
INSIDE = ("tests/unit/", "tests/property/", "tests/cluster/")
ALSO_INSIDE = {
    "tests/contract/test_stage_contracts_blocking.py",
    "tests/contract/test_stage_contracts_fair.py",
    "tests/contract/test_stage_contracts_find.py",
    "tests/e2e/test_telemetry_guide.py",
    "tests/fault/test_barge_in.py",
    "tests/fault/test_long_conversations.py",
    "tests/integration/test_workflow_jobs.py",
    "tests/utils/http_llm.py",
    "tests/utils/terminal.py",
    "tools/cluster_figures.py",
}


def packages() -> list[str]:
    """Return the packages that hand on names, and so have an ``__all__``."""
    return [
        ".".join(path.parent.relative_to(ROOT).parts)
        for path in sorted((ROOT / "stageflow").rglob("__init__.py"))
        if "__all__ = [" in path.read_text(encoding="utf-8") and "template" not in path.parts
    ]


def test_users_can_import_from_each_package() -> None:
    """Every package has a facade, but those that only programs and workers import."""
    expected = "engine events errors interceptors resilience providers dlq kernels telemetry"
    expected += " timeline cluster testing"
    assert {f"stageflow.{name}" for name in expected.split()} <= set(packages())


@pytest.mark.parametrize("package", packages())
def test_the_names_of_a_package_are_sorted_and_exist(package: str) -> None:
    """Constants come first, then classes, then functions; each name once, each with a value."""
    module = importlib.import_module(package)
    names = list(module.__all__)
    assert names == sorted(
        set(names), key=lambda n: (not n.isupper() or len(n) == 1, not n[0].isupper(), n)
    )
    assert [name for name in names if getattr(module, name, None) is None] == []
    assert set(names) <= set(dir(module))
    undocumented = [
        name
        for name in names
        if inspect.isclass(value := getattr(module, name)) or inspect.isfunction(value)
        if not inspect.getdoc(value)
    ]
    assert undocumented == []


@pytest.mark.parametrize("package", packages())
def test_what_a_type_checker_sees_is_what_there_is(package: str) -> None:
    """A package with lazy names imports the same names from the same modules for type checkers."""
    module = importlib.import_module(package)
    path = ROOT.joinpath(*package.split("."), "__init__.py")
    seen: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(package):
            source = importlib.import_module(node.module)
            names = {alias.asname or alias.name: alias.name for alias in node.names}
            if "*" in names:
                listed = getattr(source, "__all__", vars(source))
                names = {name: name for name in listed if name in module.__all__}
            seen |= names.keys()
            for name, there in names.items():
                if not name.startswith("lazy_"):
                    assert getattr(module, name) is getattr(source, there), name
    defined_elsewhere = set(module.__all__) - seen
    for name in defined_elsewhere:
        assert name in vars(module), f"{package} lists {name} and hands it on from nowhere"


def test_an_unknown_name_is_an_attribute_error() -> None:
    """A package with lazy names answers as any other module does."""
    with pytest.raises(AttributeError, match=r"module 'stageflow\.telemetry' has no attribute"):
        importlib.import_module("stageflow.telemetry").nonsense  # noqa: B018


def _sources() -> Iterator[tuple[str, str]]:
    listing = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"]
    files = run_command(listing, check=True).stdout.splitlines()
    for file in files:
        inside = file.startswith("stageflow/") and "/template/" not in file
        path = ROOT / file
        if inside or not path.is_file():
            continue
        if path.suffix == ".py":
            yield file, path.read_text(encoding="utf-8")
        elif path.suffix == ".md":
            listings = re.findall(r"```py[^\n]*\n(.*?)```", path.read_text("utf-8"), re.DOTALL)
            yield from ((file, listing) for listing in listings)


def _deep_imports(source: str) -> Iterator[str]:
    try:
        tree = ast.parse(source)
    except SyntaxError:  # an excerpt of a page
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            modules = [node.module or ""]
        elif isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        else:
            continue
        for name in modules:
            if name.startswith("stageflow.") and not ROOT.joinpath(*name.split(".")).is_dir():
                yield name


def test_nothing_outside_of_the_package_imports_deeper_than_a_package() -> None:
    """Documents, examples, templates, benchmarks and tests of behaviour use the facades."""
    deep = [
        f"{file}: {name}"
        for file, source in _sources()
        if not file.startswith(INSIDE) and file not in ALSO_INSIDE
        for name in _deep_imports(source)
    ]
    assert deep == []


def test_the_tests_that_look_behind_a_facade_still_do() -> None:
    """No exception outlives its reason."""
    looking = {file for file, source in _sources() for _ in _deep_imports(source)}
    assert ALSO_INSIDE - looking == set()
