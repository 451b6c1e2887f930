"""Hints that name how to install an extra, for each kind of installation."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from stageflow._utils import extras
from tests.utils.asv_repo import ROOT
from tests.utils.commands import run_command


def test_in_a_clone_the_clone_is_named() -> None:
    """With its folder, so that the command works from everywhere."""
    assert extras.install_command("db") == f"pip install -e '{ROOT}[db]'"


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        (None, "pip install 'stageflow[db]'"),
        ("{", "pip install 'stageflow[db]'"),
        ('{"url": "https://x.y/s.whl"}', "pip install 'stageflow[db] @ https://x.y/s.whl'"),
        (
            '{"url": "https://x.y/s", "vcs_info": {"vcs": "git"}}',
            "pip install 'stageflow[db] @ git+https://x.y/s'",
        ),
    ],
)
def test_elsewhere_the_address_is_named_that_it_came_from(
    origin: str | None, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or its name, if it came from an index."""
    monkeypatch.setattr(extras, "__file__", str(tmp_path / "stageflow" / "_utils" / "extras.py"))
    found = SimpleNamespace(read_text=lambda name: origin)
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: found)
    assert extras.install_command("db") == expected


@pytest.mark.parametrize(
    ("library", "module", "extra"),
    [
        ("redis", "stageflow.cluster", "cluster"),
        ("psycopg", "stageflow.dlq.postgres", "db"),
        ("psycopg", "stageflow.telemetry.postgres", "db"),
        ("prometheus_client", "stageflow.telemetry.prometheus", "prometheus"),
        ("opentelemetry", "stageflow.telemetry.opentelemetry", "otel"),
        ("sqlalchemy", "stageflow.providers.database", "db"),
        ("hypothesis", "stageflow.testing.strategies", "testing"),
        ("pytest", "stageflow.testing.plugin", "testing"),
        ("asv", "stageflow.pulse.publisher", "bench"),
    ],
)
def test_a_module_without_its_library_names_the_extra(
    library: str, module: str, extra: str
) -> None:
    """In the text of the ModuleNotFoundError."""
    code = f"import sys; sys.modules[{library!r}] = None; import {module}"
    done = run_command([sys.executable, "-c", code], env=os.environ)
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ModuleNotFoundError: ")
    assert last.endswith(extras.install_command(extra))
