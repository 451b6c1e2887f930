"""The remaining time in the output of ``bench``."""

from __future__ import annotations

import pytest

from stageflow.pulse.history import Commit
from stageflow.pulse.history.bench import _Progress


def test_what_is_left_is_estimated_while_a_commit_is_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From the first commit on: by the share that is done, for the commits to come as well."""
    now_s = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now_s)
    shown: list[str] = []
    commits = [Commit(f"{name}" * 40, 0, f"commit {name}") for name in "abc"]
    progress = _Progress(commits, shown.append)
    lines = {
        0.0: f"[ 0.00%] · For x commit {'a' * 8} <main>:",
        5.0: "[ 5.00%] ··· too soon for another estimate",
        20.0: "[25.00%] ··· a quarter",
        80.0: f"[ 0.00%] · For x commit {'b' * 8}:",
        120.0: "[25.00%] ··· half of the second",
    }
    for now_s, line in lines.items():  # noqa: B007 - the clock reads it
        progress.line(line)
    told = [line for line in shown if line.startswith("===")]
    assert told == [
        "=== 0:00 elapsed, an estimate of the rest follows",
        # A commit takes 80 s: 60 are left of this one, and 160 for the others.
        "=== 0:20 elapsed, about 3:40 to go",
        "=== 1:20 elapsed, about 2:40 to go",
        "=== 2:00 elapsed, about 2:00 to go",
    ]
