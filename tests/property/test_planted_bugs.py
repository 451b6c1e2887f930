"""The stress test finds bugs that are planted in the engine, each within its budget."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.property.planted import BUGS, MOST_SCHEDULES, STREAM_BUGS
from tests.utils.asv_repo import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.untraced]

# In processes of their own: Hypothesis draws constants from whatever modules are loaded, so the
# examples of a seed depend on which other tests were collected. They are forks of one that has
# imported all, which takes as long as a search.
_SEARCHES = """
import os, sys
from tests.property.planted import search

for line in sys.stdin:
    child = os.fork()
    if not child:
        try:
            print(search(line.strip()), flush=True)
            os._exit(0)
        finally:
            os._exit(1)
    if os.waitpid(child, 0)[1]:
        print("the search failed", flush=True)
"""


@pytest.fixture(scope="module")
def searches() -> Iterator[subprocess.Popen[str]]:
    """A process that searches for each bug whose name it reads, and prints what it found."""
    command = [sys.executable, "-c", _SEARCHES]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, encoding="utf-8", stdin=pipe, stdout=pipe) as process:
        yield process


@pytest.mark.parametrize("name", [*BUGS, *STREAM_BUGS])
def test_a_planted_bug_is_found(searches: subprocess.Popen[str], name: str) -> None:
    """Within 2,000 schedules; without it the same schedules hold, as test_stress.py shows."""
    assert searches.stdin is not None
    assert searches.stdout is not None
    print(name, file=searches.stdin, flush=True)
    found = searches.stdout.readline().strip()
    assert found != "None", f"not found in {MOST_SCHEDULES} schedules"
    assert int(found) <= MOST_SCHEDULES


def test_there_are_bugs_of_every_promise() -> None:
    """At least a dozen of them."""
    assert len(BUGS) >= 12
