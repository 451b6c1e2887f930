"""A project that has stageflow installed, as its pytest plugin meets it."""

from __future__ import annotations

import pytest
import pytest_asyncio.plugin

from stageflow.testing import plugin


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A project whose pytest knows this plugin and the one for asyncio, and no other."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makeini(
        "[pytest]\naddopts = --strict-markers\nasyncio_mode = auto\nfilterwarnings = error\n"
        "asyncio_default_fixture_loop_scope = function\n"
    )
    return pytester


def run_tests(project: pytest.Pytester, tests: str, *args: str) -> pytest.RunResult:
    """Run pytest over one file of tests."""
    project.makepyfile(tests)
    return project.runpytest_inprocess(
        "-p", "no:cacheprovider", *args, plugins=[pytest_asyncio.plugin, plugin]
    )
