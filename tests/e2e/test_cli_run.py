"""The command as a user runs it: a process of its own, a real clock, a real signal."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import stageflow
from stageflow.telemetry import TelemetryStore, read_events
from tests.utils.asv_repo import heed_interrupts
from tests.utils.commands import run_command

pytestmark = pytest.mark.slow

#: What must be importable in the process: the package, and nothing of the folder it runs in.
SOURCE = Path(stageflow.__file__).parents[1]


def environment() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("COV_", "COVERAGE"))}
    return kept | {"PYTHONPATH": str(SOURCE), "COLUMNS": "90", "PYTHONUTF8": "1"}


def python(*args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return run_command([sys.executable, *args], cwd=cwd, env=environment())


@pytest.mark.parametrize(
    ("kernel", "pipeline", "stages"),
    [
        (
            "voice",
            "streaming_voice",
            ["stt", "profile", "memory", "llm", "tts", "speak", "persist"],
        ),
        ("chat", "chat", ["guard", "memory", "llm", "persist"]),
    ],
)
def test_a_turn_in_real_time(kernel: str, pipeline: str, stages: list[str], tmp_path: Path) -> None:
    """``python -m stageflow run`` runs a turn from any folder and prints answer and timeline."""
    done = python("-m", "stageflow", "run", kernel, "--text", "Is it raining?", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    answer, _, heading, *chart = done.stdout.splitlines()
    assert answer == "You said: Is it raining?"
    assert heading.startswith(f"{pipeline}: completed in ")
    rows = [line.split()[1] for line in chart if line.count("│") == 2]
    assert sorted(rows) == sorted(stages)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_turn(tmp_path: Path) -> None:
    """A run past its deadline exits with 1, and its files are written all the same."""
    events, svg = tmp_path / "turn.jsonl", tmp_path / "turn.svg"
    files = ("--events", str(events), "--svg", str(svg))
    done = python("-m", "stageflow", "run", "voice", "--deadline-s", "0.05", *files, cwd=tmp_path)
    assert done.returncode == 1
    assert "deadline of 0.05 s" in done.stderr
    assert "Traceback" not in done.stderr
    last = json.loads(events.read_text("utf-8").splitlines()[-1])
    assert (last["type"], last["data"]["error_code"]) == ("pipeline.failed", "deadline_exceeded")
    assert "voice: failed" in svg.read_text("utf-8")


def test_a_run_is_recorded(tmp_path: Path) -> None:
    """In SQLite and as JSON lines; a failed run with its dead letter, and the replay after it."""
    database, lines = tmp_path / "runs.db", tmp_path / "runs.jsonl"
    letters = ("--dlq", str(tmp_path / "letters.db"))
    run = ("-m", "stageflow", "run", "chat", "--scale", "0")
    for more in ((), ("--inject", "llm=error", *letters)):
        for file in (database, lines):
            python(*run, *more, "--telemetry", str(file), cwd=tmp_path)
    with TelemetryStore(database) as store:
        window = store.covered()
        assert window is not None
        (runs,) = store.errors(window, pipeline="chat", stage="")
        assert dict(runs.outcomes) == {"completed": 1, "failed": 1}
        (letter,) = store.dead_letters(waiting=True)
    kept = list(read_events(lines))
    ends = [event.type for event in kept if event.what in ("completed", "failed", "waiting")]
    assert [end for end in ends if not end.startswith("stage.")] == [
        "pipeline.completed",
        "pipeline.failed",
        "dead_letter.waiting",
    ]
    replay = ("-m", "stageflow", "dlq", "replay", letter.dead_letter_id, "--store", letters[1])
    done = python(*replay, "--scale", "0", "--telemetry", str(database), cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    with TelemetryStore(database) as store:
        (replayed,) = store.dead_letters()
        assert replayed.replay_run_id is not None
        assert store.run(replayed.replay_run_id).status == "completed"
        assert store.dead_letters(waiting=True) == ()


def test_a_name_that_does_not_tell_what_the_file_is_to_be(tmp_path: Path) -> None:
    """Nothing is run, and the error says which names do."""
    done = python("-m", "stageflow", "run", "chat", "--telemetry", "x.txt", cwd=tmp_path)
    assert done.returncode == 2
    assert "give a name that ends in .db or .jsonl" in done.stderr
    assert (done.stdout, list(tmp_path.iterdir())) == ("", [])


OWN = """\
from stageflow import Pipeline, StageOutput, stage

@stage()
async def waits(ctx):
    import asyncio
    print("waiting", flush=True)
    try:
        await asyncio.sleep(60)
    finally:
        print("cleaned up", flush=True)
    return StageOutput.ok()

forever = Pipeline("forever", [waits])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="sends a signal as a terminal does")
def test_interrupt(tmp_path: Path) -> None:
    """Ctrl-C cancels the run, lets its stages clean up, and exits with 130 without a traceback."""
    (tmp_path / "own.py").write_text(OWN, encoding="utf-8")
    with subprocess.Popen(
        [sys.executable, "-m", "stageflow", "run", "own:forever"],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        preexec_fn=heed_interrupts,  # noqa: PLW1509 - before any thread
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=600)
    assert (process.returncode, out, err) == (130, "cleaned up\n", "Interrupted.\n")


@pytest.mark.skipif(sys.platform == "win32", reason="uses a shell's pipe")
def test_reader_that_goes_away(tmp_path: Path) -> None:
    """Piped into a program that reads no further, the command ends without a traceback."""
    command = f"'{sys.executable}' -m stageflow graph voice | true"
    done = run_command(["/bin/sh", "-c", command], cwd=tmp_path, env=environment())
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


IMPORTED = """\
import sys
before = set(sys.modules)
import {module}
print(*sorted({{name.partition('.')[0] for name in set(sys.modules) - before}}))
print(*sorted(name for name in sys.modules if name.startswith('stageflow.')))
"""


def imported(module: str, cwd: Path) -> tuple[set[str], set[str]]:
    """The top-level packages, and the modules of ours, that importing `module` loads."""
    done = python("-c", IMPORTED.format(module=module), cwd=cwd)
    assert done.returncode == 0, done.stderr
    packages, ours = done.stdout.splitlines()
    return set(packages.split()), set(ours.split())


@pytest.mark.parametrize("module", ["stageflow", "stageflow.cli"])
def test_import_loads_no_third_party(module: str, tmp_path: Path) -> None:
    """Neither the package nor its command line imports what is not in the standard library."""
    packages, _ = imported(module, tmp_path)
    assert packages - set(sys.stdlib_module_names) == {"stageflow"}


def test_package_import_stays_light(tmp_path: Path) -> None:
    """Importing the package loads neither fakes, kernels and charts nor the command line."""
    _, ours = imported("stageflow", tmp_path)
    heavy = ("providers.fake", "providers.latency", "kernels", "timeline", "telemetry", "cli")
    assert [name for name in ours if name.startswith(tuple(f"stageflow.{h}" for h in heavy))] == []


@pytest.mark.parametrize("argv", [["--version"], ["--help"]])
def test_version_and_help_import_no_command(argv: list[str], tmp_path: Path) -> None:
    """Only the table of commands is read, so that they answer at once."""
    program = f"""
import sys
from stageflow.cli import main
try:
    main({argv!r})
except SystemExit:
    print(*sorted(name for name in sys.modules if name.startswith("stageflow.")), file=sys.stderr)
"""
    ours = set(python("-c", program, cwd=tmp_path).stderr.split())
    packages = ("kernels", "telemetry", "pulse", "testing", "timeline", "dlq", "codec")
    assert "stageflow.cli.app" in ours
    assert [n for n in ours if n.startswith(tuple(f"stageflow.{p}" for p in packages))] == []
    assert {n for n in ours if n.startswith("stageflow.cli.")} == {
        "stageflow.cli.app",
        "stageflow.cli.common",
    }
