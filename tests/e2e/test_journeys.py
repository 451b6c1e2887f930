"""Journeys of users from beginning to end, as they would go: commands, scripts, files.

The table in tests/README.md names all journeys; those that are not here need a browser or a
terminal, or stand beside other tests of the same command.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from stageflow.providers import read_wav, write_wav
from stageflow.telemetry import TelemetryStore
from tests.e2e.test_cli_run import environment
from tests.utils.asv_repo import ROOT
from tests.utils.commands import run_command
from tests.utils.llm_server import Reply
from tests.utils.local import spoken
from tests.utils.openai_server import KEY, OpenAIServer
from tests.utils.webhook import webhook

pytestmark = pytest.mark.slow


def run(*argv: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """A Python process with these arguments, in that folder."""
    return run_command(
        [sys.executable, "-W", "error", *argv],
        cwd=cwd,
        env=environment() | {"OPENAI_API_KEY": KEY, "NO_PROXY": "*"} | variables,
    )


def stageflow(*argv: str, cwd: Path, code: int = 0, **variables: str) -> str:
    """Run the command with the given exit code, and return its output."""
    done = run("-m", "stageflow", *argv, cwd=cwd, **variables)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def script(text: str, *argv: str, cwd: Path) -> list[str]:
    """The lines that a program of a user prints."""
    (cwd / "script.py").write_text(text, encoding="utf-8")
    done = run("script.py", *argv, cwd=cwd)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_a_spoken_question_is_answered_and_the_answer_understood(tmp_path: Path) -> None:
    """From a WAV to a WAV on this machine, which is then heard like any other; nothing is left.

    The turn is recorded, too, and then taken again without recogniser, model or voice.
    """
    write_wav(tmp_path / "question.wav", spoken("how many days are in a week"))
    local = ("run", "voice", "--provider", "local", "--json")
    files = ("--out", "answer.wav", "--record", "turn.json")
    turn = json.loads(stageflow(*local, "--in", "question.wav", *files, cwd=tmp_path))
    answer = turn["outputs"]["answer"]
    assert turn["outputs"]["transcript"] == "how many days are in a week"
    assert read_wav(tmp_path / "answer.wav").duration_s > 0.5
    heard = json.loads(stageflow(*local, "--in", "answer.wav", cwd=tmp_path))["outputs"]
    common = words(answer) & words(heard["transcript"])
    assert common & {"day", "days", "week", "seven", "hours"}
    replay = ("run", "voice", "--replay", "turn.json", "--out", "again.wav")
    assert stageflow(*replay, cwd=tmp_path).startswith(f"{answer}\n")
    assert read_wav(tmp_path / "again.wav") == read_wav(tmp_path / "answer.wav")
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["again.wav", "answer.wav", "question.wav", "turn.json"]


def words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


CHAT = """\
import asyncio, sys

from stageflow import PipelineContext
from stageflow.kernels.chat import chat
from stageflow.kernels.defaults import default_providers
from stageflow.providers.database import SqlDatabase


async def main() -> None:
    async with SqlDatabase("sqlite:///memory.db") as database:
        providers = default_providers(scale=0)
        providers.register("db", database)
        inputs = {"text": sys.argv[1], "user_id": "ada"}
        result = await chat().run(PipelineContext(inputs, providers=providers))
        print(result.unwrap()["answer"])


asyncio.run(main())
"""


def test_a_chat_remembers_across_processes(tmp_path: Path) -> None:
    """Each turn is a process of its own; what they share is a file of SQLite."""
    said = ["My name is Ada.", "I like bees.", "What do I like?"]
    answers = [script(CHAT, text, cwd=tmp_path) for text in said]
    assert answers == [
        ["You said: My name is Ada."],
        ["You said: I like bees. (Before that: My name is Ada.)"],
        ["You said: What do I like? (Before that: I like bees.)"],
    ]


BARGE_IN = """\
import asyncio, sys

from stageflow import PipelineContext
from stageflow.kernels.defaults import default_providers
from stageflow.kernels.streaming_voice import streaming_voice
from stageflow.providers.database import SqlDatabase
from stageflow.providers.fake import FakeLLM, speech_of_text


def answer(messages) -> str:
    return " / ".join(message.content for message in messages[1:])


async def main(text: str, breaks_in: bool) -> None:
    async with SqlDatabase("sqlite:///memory.db") as database:
        providers = default_providers(scale=0.1)
        providers.register("db", database)
        providers.register("llm", FakeLLM(answer))
        inputs = {"audio": speech_of_text(text), "user_id": "ada"}
        run = asyncio.create_task(
            streaming_voice().run(PipelineContext(inputs, providers=providers))
        )
        speaker = providers["speaker"]
        while breaks_in and not (speaker.heard and speaker.sounding):
            await asyncio.sleep(0.005)
        if breaks_in:
            run.cancel()
            await asyncio.wait([run])
        else:
            print((await run).unwrap()["answer"])


asyncio.run(main(sys.argv[1], breaks_in=len(sys.argv) > 2))
"""


def test_somebody_breaks_in_and_is_answered_with_that_in_mind(tmp_path: Path) -> None:
    """The text that was heard is kept, and the next turn's model knows where it broke off."""
    story = "It began so. " + "And it went on and on and on and on and on. " * 9
    assert script(BARGE_IN, story, "breaks in", cwd=tmp_path) == []
    (answer,) = script(BARGE_IN, "Stop!", cwd=tmp_path)
    told, kept, now = answer.split(" / ")
    assert (told, now) == (story.strip(), "Stop!")
    heard, cut = kept.split(" [")
    assert cut == "interrupted here; the user has not heard the rest]"
    assert heard.startswith("It began so.")
    assert story.startswith(heard)
    assert len(heard) < len(story) - 40


RETRY = """\
import asyncio, sys

from stageflow import PipelineContext, PipelineOrchestrator
from stageflow.interceptors import RetryInterceptor
from stageflow.kernels.chat import chat
from stageflow.providers.fake import FakeDatabase
from stageflow.providers.openai import OpenAIService
from stageflow.providers.registry import ProviderRegistry


async def main() -> None:
    async with OpenAIService(sys.argv[1]) as service:
        providers = ProviderRegistry(llm=service.llm("echo"), db=FakeDatabase())
        orchestrator = PipelineOrchestrator(chat().build(), interceptors=[RetryInterceptor()])
        inputs = {"text": "Good morning!", "user_id": "ada"}
        result = await orchestrator.run(PipelineContext(inputs, providers=providers, seed=1))
        print(result.unwrap()["answer"])
        print(*(event.what for event in result.events if event.stage == "llm"))


asyncio.run(main())
"""


def test_a_service_that_fails_once_is_asked_again(tmp_path: Path, server: OpenAIServer) -> None:
    """The user gets the answer, and the events tell that it took two attempts."""
    server.script.append(Reply(500))
    answer, events = script(RETRY, server.url, cwd=tmp_path)
    assert answer == "Good morning!"
    assert events.split()[0] == "started"
    assert "retry" in events
    assert events.split()[-1] == "completed"
    assert len(server.seen) == 2


BREAKER = """\
import asyncio, sys
from pathlib import Path

from stageflow import EventDispatcher, PipelineContext, PipelineOrchestrator
from stageflow.resilience.circuit_breaker import BreakerPolicy, BreakerRegistry
from stageflow.interceptors import BreakerInterceptor
from stageflow.kernels.chat import chat
from stageflow.providers.fake import FakeDatabase
from stageflow.providers.openai import OpenAIService
from stageflow.providers.registry import ProviderRegistry
from stageflow.telemetry.sqlite import SQLiteSink

POLICY = BreakerPolicy(failures=2, cooldown_s=60.0)


async def main(dispatcher: EventDispatcher) -> None:
    async with OpenAIService(sys.argv[1]) as service:
        providers = ProviderRegistry(llm=service.llm("echo"), db=FakeDatabase())
        orchestrator = PipelineOrchestrator(
            chat().build(),
            interceptors=[BreakerInterceptor(BreakerRegistry(POLICY))],
            dispatcher=dispatcher,
        )
        loop = asyncio.get_running_loop()
        for number in range(4):
            inputs = {"text": "Are you there?", "user_id": "ada"}
            result = await orchestrator.run(PipelineContext(inputs, providers=providers))
            print(result.failure.code if result.failure else result.outputs["answer"])
            if number == 2:
                # The cool-down passes at once, and no machine is so slow that it passes before.
                loop.time = lambda before=loop.time: before() + POLICY.cooldown_s


with EventDispatcher([SQLiteSink(Path("runs.db"))]) as dispatcher:
    asyncio.run(main(dispatcher))
"""


def test_a_breaker_opens_spares_the_service_and_closes(
    tmp_path: Path, server: OpenAIServer
) -> None:
    """After two failures nothing is asked until one probe succeeds; telemetry shows each change."""
    server.script += [Reply(500), Reply(500)]
    printed = script(BREAKER, server.url, cwd=tmp_path)
    assert printed == ["service_unavailable"] * 2 + ["circuit_open", "Are you there?"]
    assert len(server.seen) == 3
    with TelemetryStore(tmp_path / "runs.db") as store:
        window = store.covered()
        assert window is not None
        changes = [(c.before, c.after) for c in store.breaker_changes(window)]
    assert changes == [("closed", "open"), ("open", "half_open"), ("half_open", "closed")]


AUTHOR = ("-c", "user.name=A", "-c", "user.email=a@example.invalid")

SERVICES = """\
import os

from stageflow.providers.fake import FakeDatabase
from stageflow.providers.openai import OpenAIService
from stageflow.providers.registry import ProviderRegistry


class Model:
    # Opens a connection for each answer, as nothing here closes it at the end.
    async def complete(self, messages):
        async with OpenAIService(os.environ["SERVICE_URL"]) as service:
            return await service.llm("echo").complete(messages)

    async def stream(self, messages):
        yield await self.complete(messages)


def real() -> ProviderRegistry:
    return ProviderRegistry(llm=Model(), db=FakeDatabase())
"""


def test_a_turn_that_failed_for_good_is_taken_up_again(
    tmp_path: Path, server: OpenAIServer
) -> None:
    """It is reported, kept, counted, replayed once the service is back, and then resolved."""
    stageflow("init", "shop", "--stageflow", str(ROOT), cwd=tmp_path)
    shop = tmp_path / "shop"
    (shop / "services.py").write_text(SERVICES)
    for command in (
        ("init", "--quiet", "--initial-branch", "main"),
        ("add", "--all"),
        ("commit", "--quiet", "-m", "First"),
    ):
        subprocess.run(["git", *AUTHOR, *command], cwd=shop, check=True)
    where = ("--provider", "openai", "--base-url", server.url, "--model", "echo")
    kept = ("--dlq", "letters.db", "--telemetry", "runs.db")
    server.script.append(Reply(500))
    failed = stageflow("run", "chat", "--text", "Hello?", *where, *kept, cwd=shop, code=1)
    assert "message for the user: A service we need is having trouble." in failed
    (dead_letter_id,) = re.findall(r"stored as dead letter (\w{32})", failed)
    store = ("--store", "letters.db")
    assert f"{dead_letter_id}  " in stageflow("dlq", "list", *store, "--state", "waiting", cwd=shop)
    wrong = stageflow("pulse", "check", "--store", "runs.db", cwd=shop, code=3)
    assert "✗ 1 dead letters waiting" in wrong
    replay = ("dlq", "replay", dead_letter_id[:8], *store, "--providers", "services:real")
    again = stageflow(*replay, "--telemetry", "runs.db", cwd=shop, SERVICE_URL=server.url)
    assert again.startswith("Hello?\n")
    assert len(server.seen) == 2
    stageflow(*replay, cwd=shop, code=1, SERVICE_URL=server.url)
    assert len(server.seen) == 2
    assert "replayed" in stageflow("dlq", "list", *store, cwd=shop)
    sound = stageflow("pulse", "check", "--store", "runs.db", cwd=shop)
    assert "✓ 0 dead letters waiting" in sound


def test_what_the_user_hears_when_the_model_hangs_is_seen_beforehand(tmp_path: Path) -> None:
    """A fault is put on a turn; the turn is kept, and replayed in no time."""
    fault = ("--inject", "llm=timeout", "--record", "turn.json")
    seen = stageflow("run", "voice", *fault, cwd=tmp_path, code=1)
    assert "message for the user: That took too long. Please try again." in seen
    again = stageflow("run", "voice", "--replay", "turn.json", cwd=tmp_path, code=1)
    assert seen.splitlines()[-2:] == again.splitlines()[-2:]


TURNS = """\
import asyncio, time
from pathlib import Path

from stageflow import EventDispatcher, PipelineContext, PipelineOrchestrator
from stageflow.kernels.chat import chat
from stageflow.kernels.defaults import default_providers
from stageflow.telemetry.sqlite import SQLiteSink
from stageflow.testing.faults import inject_fault


def two_minutes_ago() -> float:
    return time.time() - 120


async def main(dispatcher: EventDispatcher) -> None:
    orchestrator = PipelineOrchestrator(chat().build(), dispatcher=dispatcher)
    providers = default_providers(scale=0)
    with inject_fault("llm", "error"):
        for number in range(50):
            inputs = {"text": "Are you there?", "user_id": "ada"}
            await orchestrator.run(
                PipelineContext(inputs, providers=providers, wall_clock=two_minutes_ago)
            )


with EventDispatcher([SQLiteSink(Path("runs.db"))]) as dispatcher:
    asyncio.run(main(dispatcher))
"""


def test_an_alert_is_received(tmp_path: Path) -> None:
    """Turns fail, and Slack gets one message that says why and what to do."""
    assert script(TURNS, cwd=tmp_path) == []
    rules = str(ROOT / "benchmarks" / "alerts.toml")
    alert = ("pulse", "alert", "--store", "runs.db", "--rules", rules, "--to", "slack")
    with webhook() as receiver:
        secret = {"STAGEFLOW_SLACK_WEBHOOK": receiver.url}
        first = stageflow(*alert, cwd=tmp_path, code=3, **secret)
        assert stageflow(*alert, cwd=tmp_path, code=3, **secret) == ""
    assert "FIRING ErrorBudgetBurnsFast: " in first
    texts = [str(payload) for payload in receiver.payloads]
    assert len([text for text in texts if "FIRING 1: ErrorBudgetBurnsFast" in text]) == 1
    assert all("/runbook.html#" in text for text in texts)


OWN = """\
from stageflow import Message, Pipeline, StageOutput, stage


@stage(inputs=["text"], outputs=["answer"], timeout_s=5.0, provider="llm")
async def reply(ctx):
    asked = [Message("system", "{prompt}"), Message("user", ctx["text"])]
    return StageOutput.ok(answer=await ctx.llm.complete(asked))


shop = Pipeline("shop", [reply], inputs=["text"])
"""

TEST = """\
from shop import shop
from stageflow.testing.recording import recorded


def test_monday():
    assert recorded("monday.json").replay(shop).outputs["answer"] == "Where is my parcel?"
"""


def test_a_turn_with_a_service_becomes_a_test_that_notices_an_edit(
    tmp_path: Path, server: OpenAIServer
) -> None:
    """Recorded over HTTP, replayed without: green while the same is asked, then red, and why."""
    (tmp_path / "shop.py").write_text(OWN.format(prompt="You sell books."))
    (tmp_path / "test_monday.py").write_text(TEST)
    where = ("--provider", "openai", "--base-url", server.url, "--model", "echo")
    turn = ("run", "shop:shop", "--text", "Where is my parcel?", "--record", "monday.json")
    stageflow(*turn, *where, cwd=tmp_path)
    asked = len(server.seen)
    pytest_here = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:asyncio")
    green = run(*pytest_here, cwd=tmp_path)
    assert green.returncode == 0, green.stdout
    (tmp_path / "shop.py").write_text(OWN.format(prompt="You sell bread."))
    red = run(*pytest_here, cwd=tmp_path)
    assert red.returncode == 1
    problem = (
        "monday.json: call 1, llm.complete, asks something else than when the turn was recorded:"
        " argument 1[0].content was 'You sell books.', and is 'You sell bread.'"
    )
    assert problem in red.stdout
    assert problem in stageflow("run", "shop:shop", "--replay", "monday.json", cwd=tmp_path, code=1)
    assert len(server.seen) == asked


def test_the_table_names_the_journeys() -> None:
    """Each that is named is a test, and each that stands here is named."""
    table = (ROOT / "tests" / "README.md").read_text(encoding="utf-8")
    named = re.findall(r"^\|[^|]+\| `(test_\w+\.py)::(\w+)` \|$", table, re.MULTILINE)
    assert 10 <= len(named) <= 30
    for file, test in named:
        assert f"\ndef {test}(" in (ROOT / "tests" / "e2e" / file).read_text("utf-8"), test
    here = {name for name in globals() if name.startswith("test_")}
    here.remove("test_the_table_names_the_journeys")
    assert {("test_journeys.py", test) for test in here} <= set(named)
