"""``stageflow run`` with real providers: sound and text go in, an answer and its sound come out."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from stageflow.providers import read_wav
from tests.utils.openai_server import KEY, OpenAIServer

pytestmark = pytest.mark.slow

MODELS = ("--model", "echo", "--stt-model", "ears", "--tts-model", "mouth")


def run(
    *argv: str, cwd: Path, stdin: bytes = b"", key: str | None = KEY
) -> subprocess.CompletedProcess[bytes]:
    environment = {k: v for k, v in os.environ.items() if k != "OPENAI_API_KEY"}
    environment |= {"PYTHONWARNINGS": "error", "NO_PROXY": "127.0.0.1"}
    if key is not None:
        environment["OPENAI_API_KEY"] = key
    return subprocess.run(
        [sys.executable, "-m", "stageflow", *argv],
        cwd=cwd,
        env=environment,
        input=stdin,
        capture_output=True,
        timeout=600,
        check=False,
    )


def test_a_question_in_letters_is_spoken_first(tmp_path: Path, server: OpenAIServer) -> None:
    """By the service's own voice; its ears understand it, and its model answers."""
    service = ("--provider", "openai", "--base-url", server.url, *MODELS)
    done = run("run", "voice", *service, "--text", "Is it raining?", "--out", "a.wav", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"heard: Is it raining?\nIs it raining?\n")
    assert [request.path for request in server.seen[-4:]] == [
        "/v1/audio/speech",
        "/v1/audio/transcriptions",
        "/v1/chat/completions",
        "/v1/audio/speech",
    ]
    heard = read_wav(tmp_path / "a.wav")
    question = (tmp_path / "a.wav").read_bytes()
    again = run("run", "voice", *service, "--in", "-", cwd=tmp_path, stdin=question)
    assert again.stdout.startswith(b"heard: Is it raining?\nIs it raining?\n")
    assert heard.sample_rate_hz == 24_000


def test_a_chat_reads_the_standard_input(tmp_path: Path, server: OpenAIServer) -> None:
    """As UTF-8, without the line's end."""
    service = ("--provider", "openai", "--base-url", server.url, *MODELS)
    done = run("run", "chat", *service, "--text", "-", cwd=tmp_path, stdin="Grüße\n".encode())
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode().startswith("Grüße\n")


def test_the_error_of_a_wrong_key_does_not_show_it(tmp_path: Path, server: OpenAIServer) -> None:
    """Neither in what is printed nor in the file of events."""
    done = run(
        "run", "chat", "--provider", "openai", "--base-url", server.url, *MODELS,
        "--events", "e.jsonl",
        cwd=tmp_path, key="sk-wrong",
    )  # fmt: skip
    assert done.returncode == 1
    assert b"see the key in OPENAI_API_KEY" in done.stderr
    assert b"sk-wrong" not in done.stdout + done.stderr + (tmp_path / "e.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("argv", "code", "told"),
    [
        (("chat", "--provider", "openai"), 1, "set the environment variable OPENAI_API_KEY"),
        (("chat", "--model", "x"), 2, "--model is for --provider openai only"),
        (("chat", "--voice", "de"), 2, "--voice is for --provider local and openai only"),
        (("chat", "--in", "x.wav"), 2, "does not use --in: it has no input 'audio'"),
        (("chat", "--out", "x.wav"), 2, "does not use --out: no output is 'speech'"),
        (("voice", "--in", "x.wav", "--text", "x"), 2, "give either --in or --text, not both"),
        (("voice", "--in", "x.wav"), 1, "x.wav: it cannot be read"),
        (("voice", "--in", "-"), 1, "it is empty; give a WAV file"),
        (("voice", "--out", "none/x.wav", "--scale", "0"), 1, "none/x.wav: it cannot be written"),
    ],
)
def test_a_misfit_is_reported(argv: tuple[str, ...], code: int, told: str, tmp_path: Path) -> None:
    """In one line, without a traceback, and no file is left."""
    done = run("run", *argv, cwd=tmp_path, key=None)
    assert done.returncode == code
    assert told in done.stderr.decode()
    assert b"Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_question_is_spoken_into_a_file_and_asked(tmp_path: Path, server: OpenAIServer) -> None:
    """`say` makes what `run --in` takes, by a service as by any other voice."""
    service = ("--provider", "openai", "--base-url", server.url)
    said = run(
        *("say", "Is it raining?", "--out", "q.wav", "--tts-model", "mouth"), *service, cwd=tmp_path
    )
    assert (said.returncode, said.stderr) == (0, b"")
    assert said.stdout.startswith(b"q.wav: ")
    asked = run("run", "voice", *service, *MODELS, "--in", "q.wav", cwd=tmp_path)
    assert asked.stdout.startswith(b"heard: Is it raining?\n")
