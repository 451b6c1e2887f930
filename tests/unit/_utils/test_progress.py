"""The line that says what a command waits for."""

from __future__ import annotations

import io
import sys

import pytest

from stageflow._utils.progress import waiting


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_the_elapsed_seconds_and_then_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stderr", out := Terminal())
    with waiting("Finding the benchmarks", each_s=1e-4):
        while "\rFinding the benchmarks: 0 s " not in out.getvalue():
            pass
    assert out.getvalue().endswith("\r\x1b[K")


def test_a_log_gets_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    with waiting("Finding the benchmarks", each_s=1e-4):
        pass
    assert capsys.readouterr() == ("", "")
