"""Dead letters from a hostile writer: they are refused, or exported as nothing but literals."""

from __future__ import annotations

import ast
import json
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stageflow import PipelineContext, RunStatus, StageStatus
from stageflow import errors as err
from stageflow.cli import main
from stageflow.cluster import Address, Job, JobResult
from stageflow.cluster.job import PROTOCOL, Wire, decode_worker_info
from stageflow.codec import DEFAULT_CODEC
from stageflow.dlq import (
    DeadLetter,
    FailureRecord,
    InMemoryDeadLetterStore,
    SQLiteDeadLetterStore,
    StageRecord,
    pytest_file,
)
from stageflow.dlq.store import restore_dead_letter
from tests.utils.commands import run_command
from tests.utils.dead_letters import make_letter
from tests.utils.errors import raises_code

#: Runs where it is evaluated or stands as a statement, and leaves a file behind.
CALL = '__import__("pathlib").Path("ran").touch()'

HOSTILE = {
    "expression": CALL,
    "statement": f"\n{CALL}\n",
    "docstring": f'"""\n{CALL}\n"""',
    "single quotes": f"'''\n{CALL}\n'''",
    "quote": f'", {CALL}, "',
    "apostrophe": f"', {CALL}, '",
    "backslash": f'\\"""\n{CALL}\n#\\',
    "trailing backslash": "\\",
    "carriage return": f"# \r{CALL}\r",
    "line separators": f"\u2028{CALL}\u2029\x85{CALL}\x0c{CALL}\x0b",
    "bidi": f"\u202e\u2066{CALL}\u2069\u202c",
    "control": f"\x00\x1b[2J\x7f{CALL}",
    "surrogate": f"\ud800{CALL}",
    "test name": f"a() or {CALL}",
    "short test name": "():ran()#",
    "braces": "{seed}{0}{letter.__class__}",
    "empty": "",
}


def hostile_letter(text: str, **fields: Any) -> DeadLetter:
    """Return a letter in which every field of text is `text`."""
    stages = {
        text: StageRecord(StageStatus.COMPLETED, True, text, {text: text}),
        f"{text}2": StageRecord(StageStatus.FAILED, False, text),
    }
    given: dict[str, Any] = {
        "id": text,
        "pipeline": text,
        "pipeline_run_id": text,
        "correlation_id": text,
        "failed_stage": text,
        "error": FailureRecord(text, text, text, text, False, text),
        "inputs": {text: [text, (text, {text: text.encode("utf-8", "surrogatepass")})]},
        "stages": stages,
    }
    return make_letter(**{**given, **fields})


def exported(letter: DeadLetter) -> str:
    """Return the file that `export` makes of a letter of a ready pipeline."""
    line = "from stageflow.kernels.chat import chat"
    return pytest_file(letter, import_line=line, pipeline="chat()")


def skeleton(text: str) -> str:
    """Return the statements of a file, in which every literal and the test's name are blank."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant):
            node.value = None
        elif isinstance(node, ast.FunctionDef):
            assert node.name.startswith("test_dead_letter_")
            node.name = "test"
    return ast.dump(tree)


LETTERS: dict[str, Callable[[str], DeadLetter]] = {
    "fault": hostile_letter,
    "bug": lambda text: hostile_letter(
        text, error=FailureRecord(text, "logic", text, text, False, text)
    ),
    "deadline": lambda text: hostile_letter(text, failed_stage=None),
    "numbers": lambda text: hostile_letter(text, seed=text, deadline_s=text),
    "numbers of a deadline": lambda text: hostile_letter(
        text, failed_stage=None, seed=text, deadline_s=text
    ),
}


@pytest.mark.parametrize("kind", LETTERS)
@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_an_exported_letter_fills_nothing_but_literals(kind: str, text: str) -> None:
    """For any content of its fields, the file has the statements of a harmless letter's file."""
    found = exported(LETTERS[kind](text))
    assert skeleton(found) == skeleton(exported(LETTERS[kind]("harmless")))
    assert found.isascii()
    assert "ran" not in {
        node.id for node in ast.walk(ast.parse(found)) if isinstance(node, ast.Name)
    }
    assert all(sign == "\n" or sign.isprintable() for sign in found)


@pytest.mark.parametrize("kind", LETTERS)
def test_nothing_of_a_hostile_letter_runs(kind: str, tmp_path: Path) -> None:
    """Each file is imported and its test is called; no text of the letter is evaluated."""
    for number, text in enumerate(HOSTILE.values()):
        (tmp_path / f"letter_{number}.py").write_text(exported(LETTERS[kind](text)), "utf-8")
    runner = (
        "import glob, runpy\n"
        "for path in sorted(glob.glob('letter_*.py')):\n"
        "    try:\n"
        "        found = runpy.run_path(path)\n"
        "        [test] = [found[name] for name in found if name.startswith('test_')]\n"
        "        test()\n"
        "    except Exception as error:\n"
        "        assert not isinstance(error, (SyntaxError, NameError)), (path, error)\n"
    )
    done = run_command([sys.executable, "-c", runner], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "ran").exists()


def test_an_exported_letter_holds_its_values() -> None:
    """The literals are those of the letter, also where they are escaped."""
    text = HOSTILE["bidi"]
    found = exported(hostile_letter(text, seed=2**4000))
    constants = {
        node.value for node in ast.walk(ast.parse(found)) if isinstance(node, ast.Constant)
    }
    assert {text, 2**4000} <= constants


def test_a_number_that_is_not_a_literal_is_refused() -> None:
    """An object whose repr is code is not written."""

    class Seed(int):
        def __repr__(self) -> str:
            return CALL

    with pytest.raises(TypeError, match="a Seed cannot be written as a literal"):
        exported(make_letter(seed=Seed(3)))

    class Text(str):
        def __repr__(self) -> str:
            return CALL

    found = exported(make_letter(failed_stage=Text("pay")))
    assert skeleton(found) == skeleton(exported(make_letter()))


LETTER = DEFAULT_CODEC.encode(make_letter())


def paths(plain: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of each field in the JSON of a letter, without the values of a user."""
    if path[-1:] in (("inputs",), ("outputs",), ("data",)):
        return [path]
    keys: Any = ()
    if isinstance(plain, dict | list):
        keys = plain if isinstance(plain, dict) else range(len(plain))
    own = [path] if path else []
    return own + [inner for key in keys for inner in paths(plain[key], (*path, key))]


def changed(path: tuple[Any, ...], value: Any) -> str:
    """Return the JSON of a letter with another value at `path`."""
    data = place = json.loads(LETTER)
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return json.dumps(data)


def wrong_values(path: tuple[Any, ...]) -> list[Any]:
    """Return values whose types are wrong at `path`."""
    place = json.loads(LETTER)
    for key in path:
        place = place[key]
    right: tuple[type, ...] = (str,) if place is None else (type(place),)
    if path[-1] in ("deadline_s", "offset_ms"):
        right = (int, float)
    return [value for value in (CALL, 7, True, [CALL], {"x": CALL}) if type(value) not in right]


FIELDS = {
    ".".join(map(str, path)): path for path in paths(json.loads(LETTER)) if path[-1] != "inputs"
}


@pytest.mark.parametrize("path", FIELDS.values(), ids=FIELDS)
def test_a_field_of_the_wrong_type_is_refused_by_name(path: tuple[Any, ...]) -> None:
    """A text, a number, a boolean, a list and an object, wherever they do not belong."""
    named = str(path[-1]) if isinstance(path[-1], str) else f"[{path[-1]}]"
    for value in wrong_values(path):
        with pytest.raises(err.CorruptDeadLetterError) as caught:
            DEFAULT_CODEC.decode(changed(path, value))
        assert named in str(caught.value)


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        (("seed",), CALL, "TypeError: seed is str, not int or dict or null"),
        (("seed",), {"$": "float", "v": "nan"}, "TypeError: seed is float, not int or null"),
        (("error", "code"), 7, "TypeError: error.code is int, not str"),
        (("error",), [], "TypeError: error is list, not dict"),
        (("stages", "pay", "final"), 1, "TypeError: stages.pay.final is int, not bool"),
        (("stages", "pay"), 1, "TypeError: stages.pay is int, not an object"),
        (("events", 0, "sequence"), 1.5, "TypeError: events[0].sequence is float, not int"),
        (("deadline_s",), float("inf"), "TypeError: deadline_s is not a finite number"),
        (("deadline_s",), float("nan"), "TypeError: deadline_s is not a finite number"),
        (("deadline_s",), 10**400, "TypeError: deadline_s is not a finite number"),
        (("created_at",), "0001-01-01T00:00:00+05:00", "ValueError: created_at is not a date: "),
        (("events", 0, "timestamp"), "soon", "ValueError: events[0].timestamp is not a date: "),
    ],
)  # fmt: skip
def test_the_error_names_field_and_type(path: tuple[Any, ...], value: Any, problem: str) -> None:
    """Which field, what it is, and what it has to be."""
    with pytest.raises(err.CorruptDeadLetterError) as caught:
        DEFAULT_CODEC.decode(changed(path, value))
    assert str(caught.value).startswith(f"a stored dead letter cannot be read: {problem}")


def test_a_missing_field_is_named() -> None:
    """The error names the first field that is not there."""
    data = json.loads(LETTER)
    del data["error"]["message"]
    with pytest.raises(err.CorruptDeadLetterError, match=r"error\.message is missing"):
        DEFAULT_CODEC.decode(json.dumps(data))


@pytest.mark.parametrize(
    ("standing", "field"),
    [
        (("waiting", "1", None, None), "attempts"),
        (("waiting", None, None, None), "attempts"),
        (("replaying", 1, True, None), "lease_until"),
        (("replayed", 1, None, 7), "replay_run_id"),
    ],
)
def test_what_a_store_keeps_beside_a_letter_is_checked(
    standing: tuple[Any, ...], field: str
) -> None:
    """All stores read letters by this function."""
    with pytest.raises(err.CorruptDeadLetterError, match=rf"TypeError: {field} is "):
        restore_dead_letter(DEFAULT_CODEC, (make_letter().id, LETTER, *standing))


async def test_stores_refuse_a_letter_of_the_wrong_types(tmp_path: Path) -> None:
    """A letter that another program has put there is refused by name, in memory and in SQLite."""
    hostile = make_letter(seed=CALL)
    memory = InMemoryDeadLetterStore()
    async with SQLiteDeadLetterStore(tmp_path / "letters.db") as sqlite:
        for store in (memory, sqlite):
            await store.put(hostile)
            with pytest.raises(err.CorruptDeadLetterError, match=f"{hostile.id} .*seed is str"):
                await store.get(hostile.id)
            await store.put(make_letter(2))
            assert await store.letters() == (make_letter(2),)
            (lost,) = await store.unreadable()
            assert (lost.id, json.loads(lost.body)["seed"]) == (hostile.id, CALL)
            assert "seed is str" in lost.problem
            await store.delete(hostile.id)
            assert await store.unreadable() == ()


def test_the_command_exports_a_hostile_letter_as_it_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A body that was changed in the file is written as JSON, not as a test."""
    monkeypatch.chdir(tmp_path)
    assert main(["run", "chat", "--deadline-s", "0.001", "--dlq", "letters.db"]) == 1
    with closing(sqlite3.connect("letters.db")) as connection, connection:
        (body,) = connection.execute("SELECT body FROM dead_letters").fetchone()
        data = {**json.loads(body), "seed": CALL}
        connection.execute("UPDATE dead_letters SET body = ?", (json.dumps(data),))
    capsys.readouterr()
    assert main(["dlq", "export", "", "--store", "letters.db", "-o", "letter.json"]) == 0
    assert "seed is str, not int" in capsys.readouterr().err
    assert json.loads(Path("letter.json").read_text("utf-8")) == data


class OddError(err.StageflowError):
    """An error of a user, whose fields have types of their own."""

    code = 7  # type: ignore[assignment]
    user_message = None  # type: ignore[assignment]
    retryable = 1  # type: ignore[assignment]


def test_what_a_run_leaves_can_be_read_whatever_its_types() -> None:
    """A user's own types in fields of text are written as text, and lose no letter."""
    odd = replace(
        make_letter(),
        correlation_id=5,  # type: ignore[arg-type]
        error=FailureRecord(7, "permanent", "x", 8, 1),  # type: ignore[arg-type]
        stages={"pay": StageRecord(StageStatus.SKIPPED, True, ValueError("no"))},  # type: ignore[arg-type]
    )
    back = DEFAULT_CODEC.decode(DEFAULT_CODEC.encode(odd))
    assert (back.correlation_id, back.error.code, back.error.user_message) == ("5", "7", "8")
    assert back.error.retryable is True
    assert back.stages["pay"].reason == "no"
    assert (
        PipelineContext(seed=2**5000).seed
        == DEFAULT_CODEC.decode(DEFAULT_CODEC.encode(make_letter(seed=2**5000))).seed
    )


WIRE = Wire(DEFAULT_CODEC)
JOB = json.loads(WIRE.encode_job(Job("p", {"a": 1}, "key", outputs=("x",)))[0])
RESULT = json.loads(
    WIRE.encode_result(JobResult("key", "p", RunStatus.FAILED, {}, OddError("no"), "run-1"))
)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("pipeline", 7),
        ("inputs", [CALL]),
        ("outputs", "answer"),
        ("outputs", [["answer"]]),
        ("deadline_s", CALL),
        ("deadline_s", True),
    ],
)
def test_a_turn_of_the_wrong_types_is_refused_by_name(field: str, value: Any) -> None:
    """A worker is not given what its pipeline could stumble over."""
    assert WIRE.decode_job("key", Address("q", "p"), json.dumps(JOB).encode()).outputs == ("x",)
    with raises_code("incompatible_payload", match=field):
        WIRE.decode_job("key", Address("q", "p"), json.dumps({**JOB, field: value}).encode())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("pipeline", 7),
        ("outputs", [CALL]),
        ("failure", CALL),
        ("failure", {"code": 7}),
        ("pipeline_run_id", 7),
        ("duration_ms", "1"),
        ("worker", ["w"]),
        ("deliveries", "1"),
        ("dead_letter", 7),
        ("dead_letter_error", {}),
    ],
)
def test_an_answer_of_the_wrong_types_is_refused_by_name(field: str, value: Any) -> None:
    """A dispatcher is not given it, either; a user's own types are sent as text."""
    back = WIRE.decode_result("key", json.dumps(RESULT).encode())
    assert back.failure is not None
    assert (back.failure.code, back.failure.retryable) == ("7", True)
    with raises_code("incompatible_payload", match=field):
        WIRE.decode_result("key", json.dumps({**RESULT, field: value}).encode())


@pytest.mark.parametrize(
    "fields", [{"queues": "default"}, {"queues": [1]}, {"inputs": {"p": "ab"}}, {"version": 7}]
)
def test_a_worker_info_of_the_wrong_types_is_not_read(fields: dict[str, Any]) -> None:
    """Its worker counts as one that speaks another protocol."""
    info = {"protocol": PROTOCOL, "version": "1", "queues": ["q"], "inputs": {"p": ["a"]}}
    assert decode_worker_info(json.dumps(info).encode()).queues == ("q",)
    assert decode_worker_info(json.dumps({**info, **fields}).encode()).protocol is None
