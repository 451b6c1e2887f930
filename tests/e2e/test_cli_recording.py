"""``stageflow run --record`` and ``--replay``, with fakes and a service; locally: test_journeys."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stageflow.providers import read_wav
from tests.e2e.test_cli_providers import MODELS, run
from tests.utils.openai_server import KEY, OpenAIServer

pytestmark = pytest.mark.slow

TURNS = {
    "voice": (),
    "voice, whole": ("--whole",),
    "a failing model": ("--inject", "llm=error"),
    "a stream that breaks": ("--inject", "llm=cut"),
    "a deadline": ("--deadline-s", "0.05"),
}


@pytest.mark.parametrize("options", TURNS.values(), ids=TURNS)
def test_a_turn_is_kept_and_taken_again(options: tuple[str, ...], tmp_path: Path) -> None:
    """The replay prints and writes what the turn did, and ends with its exit code."""
    kept = ("--record", "turn.json", "--out", "a.wav", "--scale", "0.2")
    first = run("run", "voice", *options, *kept, cwd=tmp_path)
    whole = ("--whole",) if "--whole" in options else ()
    again = run("run", "voice", *whole, "--replay", "turn.json", "--out", "b.wav", cwd=tmp_path)
    assert again.returncode == first.returncode
    assert again.stderr == first.stderr
    assert again.stdout.splitlines()[:1] == first.stdout.splitlines()[:1]
    if first.returncode == 0:
        assert read_wav(tmp_path / "b.wav") == read_wav(tmp_path / "a.wav")


def test_a_turn_that_was_slow_is_replayed_without_the_limits_that_it_kept(tmp_path: Path) -> None:
    """As one with local providers, which have longer limits than the kernel."""
    path = tmp_path / "turn.json"
    run("run", "voice", "--record", path.name, "--scale", "0", cwd=tmp_path)
    turn = json.loads(path.read_text(encoding="utf-8"))
    hearing = next(call for call in turn["calls"] if call["provider"] == "stt")
    hearing["pieces"][0][0] = hearing["ending_ms"] = 9_000.0
    path.write_text(json.dumps(turn), encoding="utf-8")
    again = run("run", "voice", "--replay", path.name, cwd=tmp_path)
    assert (again.returncode, again.stderr) == (0, b"")


def test_a_turn_with_a_service(tmp_path: Path, server: OpenAIServer) -> None:
    """Nothing is asked of the service again, and its key is not in the file."""
    service = ("--provider", "openai", "--base-url", server.url, *MODELS)
    text = ("--text", f"My key is {KEY}.")
    first = run("run", "chat", *service, *text, "--record", "turn.json", cwd=tmp_path)
    assert (first.returncode, first.stderr) == (0, b"")
    assert KEY not in (tmp_path / "turn.json").read_text()
    asked = len(server.seen)
    again = run("run", "chat", "--replay", "turn.json", cwd=tmp_path, key=None)
    assert (again.returncode, again.stderr) == (0, b"")
    assert again.stdout.startswith("My key is ….\n".encode())
    assert len(server.seen) == asked


@pytest.mark.parametrize(
    ("argv", "code", "told"),
    [
        (("voice", "--text", "x"), 2, "everything from its file; leave --text out"),
        (("voice", "--provider", "local"), 2, "everything from its file; leave --provider out"),
        (("voice", "--inject", "llm=error"), 2, "everything from its file; leave --inject out"),
        (("voice", "--whole"), 1, "is a turn of the pipeline 'streaming_voice', not of 'voice'"),
    ],
)
def test_what_does_not_fit_a_replay(
    argv: tuple[str, ...], code: int, told: str, tmp_path: Path
) -> None:
    """It is an error of one line, before anything runs."""
    assert (
        run("run", "voice", "--scale", "0", "--record", "turn.json", cwd=tmp_path).returncode == 0
    )
    done = run("run", *argv, "--replay", "turn.json", cwd=tmp_path)
    assert done.returncode == code
    assert told in done.stderr.decode()
    assert done.stdout == b""


def test_a_file_of_another_version(tmp_path: Path) -> None:
    """Is refused with the way out."""
    run("run", "chat", "--scale", "0", "--record", "turn.json", cwd=tmp_path)
    path = tmp_path / "turn.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 9}))
    done = run("run", "chat", "--replay", "turn.json", cwd=tmp_path)
    assert done.returncode == 1
    assert b"turn.json: it is of version 9, and this stageflow reads version 1;" in done.stderr


def test_a_turn_that_cannot_be_kept(tmp_path: Path) -> None:
    """Where the file cannot be written, the command fails and says so."""
    done = run("run", "chat", "--scale", "0", "--record", "none/turn.json", cwd=tmp_path)
    assert done.returncode == 1
    assert b"none/turn.json: it cannot be written (No such file or directory)" in done.stderr
    assert list(tmp_path.iterdir()) == []
