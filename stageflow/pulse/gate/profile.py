"""Where the time of an operation goes: flame graphs of two commits, side by side."""

from __future__ import annotations

import html
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from string import Template

from stageflow.pulse.errors import PulseError
from stageflow.pulse.gate.catalogue import discover
from stageflow.pulse.gate.measure import GATE_DIR
from stageflow.pulse.gate.series import resolve
from stageflow.pulse.gate.setting import Emit, resolved
from stageflow.pulse.gate.trees import tree
from stageflow.pulse.offline import STATIC_DIR
from stageflow.pulse.project import AsvProject

#: Samples a second. Not a multiple of what timers tick at, or the two would beat.
RATE_HZ = 487
_TITLE = re.compile(r'(<text id="title"[^>]*>)[^<]*')
_RECORD = ("record", "--rate", str(RATE_HZ), "--format", "flamegraph")
_PROGRAM = (
    "import sys; from benchmarks.worker import repeat; repeat(sys.argv[1], float(sys.argv[2]))"
)


def profile(
    project: AsvProject,
    part: str,
    ends: tuple[str | None, str],
    seconds: float,
    emit: Emit = print,
) -> Path:
    """Sample the stack of an operation on two commits, and draw a page with both flame graphs.

    Args:
        project: The repository.
        part: The operation, or a part of its name that no other has.
        ends: Revisions on the left (None takes the branch in asv.conf.json) and on the right.
        seconds: How long each is sampled.
        emit: Is told the progress.

    Returns:
        The page.

    Raises:
        PulseError: py-spy is missing or failed, or the operation is not known or not to be had.
    """
    sampler = _sampler()
    work = resolve(part, discover(project.benchmarks_dir, project.root).works)
    folder = project.root / GATE_DIR / "profiles" / work
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shown = {}
    for side, revision in (("base", ends[0] or project.branch), ("head", ends[1])):
        commit = resolved(project, revision)
        shown[side] = project.git("show", "--no-patch", "--format=%h %s", commit).strip()
        emit(f"Sampling {work} for {seconds:g} s on {shown[side]}")
        graph = folder / f"{side}.svg"
        with tree(project, commit, project.package) as files:
            _sample(
                [sampler, *_RECORD, "--output", str(graph), "--"],
                [work, str(seconds)],
                [files, project.benchmarks_dir.parent],
            )
        # py-spy's title is its whole command line.
        titled = _TITLE.sub(rf"\g<1>{work}, {side}", graph.read_text(encoding="utf-8"))
        graph.write_text(titled, encoding="utf-8")
    page = folder / "index.html"
    template = Template((STATIC_DIR / "profile.html").read_text(encoding="utf-8"))
    escaped = {side: html.escape(text) for side, text in shown.items()}
    page.write_text(template.substitute(escaped, work=html.escape(work)), encoding="utf-8")
    return page


def _sampler() -> str:
    beside = Path(sysconfig.get_path("scripts")) / "py-spy"
    found = str(beside) if beside.exists() else shutil.which("py-spy")
    if found is None:
        raise PulseError(
            "py-spy is not installed: pip install 'stageflow[bench]' "
            "(in a clone: pip install -e '.[bench]')"
        )
    return found


def _sample(sampler: list[str], arguments: list[str], path: list[Path]) -> None:
    """Let the sampler start a program that does the operation with the first package on `path`."""
    done = subprocess.run(  # noqa: S603 - a fixed program, and no shell
        [*sampler, sys.executable, "-P", "-c", _PROGRAM, *arguments],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, path))},
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        said = "\n".join((done.stderr or done.stdout).strip().splitlines()[-15:])
        raise PulseError(
            f"py-spy could not sample {arguments[0]} (it needs the right to look into a process "
            f"that it started: on macOS run it as root, in a container add SYS_PTRACE):\n{said}"
        )
