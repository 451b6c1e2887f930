"""The command line is completed in real shells, by the script that it prints."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from stageflow.cli import completion_script, main
from tests.utils.asv_repo import ROOT
from tests.utils.commands import run_command

pytestmark = pytest.mark.slow

#: What is typed, and what is among the words that are offered for its last one.
TYPED = {
    "stageflow ": {"run", "init", "doctor", "pulse", "completion"},
    "stageflow do": {"doctor"},
    "stageflow pulse ga": {"gate"},
    "stageflow run voice --teleme": {"--telemetry"},
    "stageflow completion ": {"bash", "zsh", "fish"},
    "stageflow run voice --color ": {"always", "auto", "never"},
}


def completed_by_bash(line: str) -> set[str]:
    """Return the completions of a bash that has read the script."""
    words = line.split(" ")
    program = f"""
        {completion_script("bash")}
        COMP_WORDS=({" ".join(word or "''" for word in words)})
        COMP_CWORD={len(words) - 1}
        COMP_LINE={line!r} COMP_POINT={len(line)}
        spec=$(complete -p stageflow)
        function=${{spec#*-F }}
        ${{function%% *}} stageflow {words[-1]!r}
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = run_command(["bash", "--noprofile", "--norc", "-c", program], check=True)
    return {word.strip() for word in done.stdout.split("\n") if word.strip()}


@pytest.mark.parametrize("line", TYPED)
def test_bash_completes(line: str) -> None:
    """Commands, options and choices are offered as they are typed, at any depth."""
    offered = completed_by_bash(line)
    assert TYPED[line] <= offered
    last = line.rsplit(" ", maxsplit=1)[-1]
    assert all(word.startswith(last) for word in offered)


@pytest.mark.parametrize(("shell", "check"), [("bash", "-n"), ("zsh", "-n"), ("fish", "-n")])
def test_each_shell_can_read_its_script(
    shell: str, check: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The script names every command; the shell, if it is on this machine, finds no fault."""
    assert main(["completion", shell]) == 0
    text = capsys.readouterr().out
    for command in ("doctor", "timeline", "bisect", "replay"):
        assert command in text
    if shutil.which(shell) is not None:
        (tmp_path / "script").write_text(text)
        done = subprocess.run([shell, check, tmp_path / "script"], capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (0, b"")


def test_without_the_extra_the_fix_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where shtab is not installed, the error has the command that installs it."""
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 2
    assert f"pip install -e '{ROOT}[completion]'" in capsys.readouterr().err
