"""Bad input of every sort: always an error of this package, never one from inside, never half done.

5,000 malformed inputs in a usual run, 100,000 with the nightly profile, shared among the areas.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import io
import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stageflow import Pipeline, PipelineContext, PipelineOrchestrator, StageSpec
from stageflow.cli import app, main
from stageflow.codec import DEFAULT_CODEC
from stageflow.dlq import SQLiteDeadLetterStore
from stageflow.errors import PipelineDefinitionError, StageflowError
from stageflow.pulse.history.results import defect
from stageflow.testing import FaultPlan, Scenario, Token, TokenError, do_nothing
from tests.utils.dead_letters import make_letter

pytestmark = [pytest.mark.slow, pytest.mark.untraced]

#: How many inputs all areas try together.
USUAL, NIGHTLY = 5_000, 100_000
AREAS = 9
SHARE = -(-(NIGHTLY if settings().max_examples >= 1_000 else USUAL) // AREAS)

fuzzed = settings(max_examples=SHARE)

NASTY: list[Any] = [
    None, True, -1, 0, 10**400, float("nan"), float("inf"), -0.0, "", " ", "\0", "\ud800", "a.b",
    "ü" * 300, b"bytes", [], {}, (), [None], [[]], {"": None}, {1: 2}, object(), print, Exception(),
    type, do_nothing, range(3), {"a"}, 1j, ..., NotImplemented,
]  # fmt: skip


def cyclic() -> list[Any]:
    """A list that holds itself."""
    loop: list[Any] = []
    loop.append(loop)
    return loop


def deep() -> list[Any]:
    """A list that is nested deeper than the interpreter's stack."""
    outer: list[Any] = []
    for _ in range(100_000):
        outer = [outer]
    return outer


class Unshowable:
    """Has no text."""

    def __repr__(self) -> str:
        raise ValueError("no text")


@functools.cache
def junk() -> st.SearchStrategy[Any]:
    """Anything at all."""
    return (
        st.sampled_from([*NASTY, cyclic(), deep(), Unshowable()])
        | st.text()
        | st.floats()
        | st.integers()
    )


class Counted:
    """Counts the inputs of one area."""

    def __init__(self) -> None:
        self.tried = 0

    def __enter__(self) -> None:
        self.tried += 1

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        """Let errors of the package pass as what was promised, and others through."""
        return kind is not None and issubclass(kind, StageflowError | TokenError)


@pytest.fixture
def counted() -> Iterator[Counted]:
    """The area's count, which has to reach its share."""
    counts = Counted()
    yield counts
    assert counts.tried >= SHARE


@fuzzed
@given(
    field=st.sampled_from([field.name for field in dataclasses.fields(StageSpec)]),
    value=junk(),
    beside=st.booleans(),
)
def malformed_spec(counted: Counted, field: str, value: Any, beside: bool) -> None:
    spec = dataclasses.replace(StageSpec("a", do_nothing), **{field: value})
    others = [StageSpec("b", do_nothing, ("a",))] if beside else []
    with counted:
        PipelineOrchestrator(Pipeline("p", [spec, *others]).build())


@fuzzed
@given(field=st.sampled_from(["name", "stages", "inputs"]), value=junk())
def malformed_pipeline(counted: Counted, field: str, value: Any) -> None:
    given_fields = {"name": "p", "stages": [StageSpec("a", do_nothing)], "inputs": []}
    given_fields[field] = value
    with counted:
        Pipeline(
            given_fields["name"],  # type: ignore[arg-type]
            given_fields["stages"],  # type: ignore[arg-type]
            inputs=given_fields["inputs"],  # type: ignore[arg-type]
        ).build()


@fuzzed
@given(field=st.sampled_from(["inputs", "providers", "deadline_s"]), value=junk())
def malformed_context(counted: Counted, field: str, value: Any) -> None:
    async def run() -> None:
        with counted:
            await Pipeline("p", [StageSpec("a", do_nothing)]).run(PipelineContext(**{field: value}))

    asyncio.run(run())


@fuzzed
@given(what=st.text(max_size=5) | st.sampled_from(["started", "failed", "", "a.b"]))
def malformed_event(counted: Counted, what: str) -> None:
    async def emit(ctx: Any) -> Any:
        ctx.emit(what)

    result = asyncio.run(Pipeline("p", [StageSpec("a", emit)]).run())
    with counted:
        result.unwrap()
    # Whatever a stage emits, the events of its run stay sound.
    ends = [event.what for event in result.events if event.stage == "a"]
    assert ends[0] == "started"
    assert ends[-1] == "failed"


def spoilt(whole: str, draw: Callable[[st.SearchStrategy[Any]], Any]) -> Any:
    """A JSON document with one thing wrong: cut off, a key lost, a value of another type."""
    how = draw(st.sampled_from(["cut", "insert", "drop", "change"]))
    if how == "cut":
        return whole[: draw(st.integers(0, len(whole) - 1))]
    if how == "insert":
        at = draw(st.integers(0, len(whole)))
        return whole[:at] + draw(st.text(min_size=1, max_size=3)) + whole[at:]
    data: Any = json.loads(whole)
    place: Any = data
    while True:
        keys: list[Any] = sorted(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            return "[" * 20_000
        key = draw(st.sampled_from(keys))
        inner = place[key]
        if not isinstance(inner, dict | list) or not inner or draw(st.booleans()):
            break
        place = inner
    if how == "drop":
        del place[key]
    else:
        plain: st.SearchStrategy[Any] = st.sampled_from(
            [None, -1, "", "x", [], {}, [[]], {"$": 1}, 1e308, True, "\0"]
        )
        place[key] = draw(plain)
    return json.dumps(data)


LETTER = DEFAULT_CODEC.encode(make_letter())


@fuzzed
@given(data=st.data())
def malformed_letter(counted: Counted, data: st.DataObject) -> None:
    text = spoilt(LETTER, data.draw)
    with counted:
        DEFAULT_CODEC.decode(text)


@fuzzed
@given(data=st.data())
def malformed_row(counted: Counted, folder: Path, data: st.DataObject) -> None:
    """The file of a store, one row or some bytes of which are spoilt."""
    path, sound = folder / "letters.db", folder / "sound.db"
    if not sound.exists():
        asyncio.run(_write_one(sound))
    for left in folder.glob("letters.db*"):  # a log of SQLite, too, would be read
        left.unlink()
    path.write_bytes(sound.read_bytes())
    if data.draw(st.booleans()):
        content = bytearray(path.read_bytes())
        for at in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=40)):
            content[at] = data.draw(st.integers(0, 255))
        path.write_bytes(content[: data.draw(st.integers(1, len(content)))])
    else:
        column = data.draw(st.sampled_from(["body", "attempts", "lease_until", "replay_run_id"]))
        value = data.draw(
            st.sampled_from([b"\xff", "x", -1, 2**40, 1e300, spoilt(LETTER, data.draw)])
        )
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute(f"UPDATE dead_letters SET {column} = ?", (value,))
    asyncio.run(_read_all(path, counted))


async def _write_one(path: Path) -> None:
    async with SQLiteDeadLetterStore(path) as store:
        await store.put(make_letter())


async def _read_all(path: Path, counted: Counted) -> None:
    with counted:
        async with SQLiteDeadLetterStore(path) as store:
            for letter in await store.letters():
                await store.claim(letter.id, lease_s=1.0)


PARSER = functools.cache(app.make_parser)

WORDS = [
    "run", "graph", "dlq", "pulse", "list", "show", "replay", "export", "voice", "chat", "--text",
    "--json", "--inject", "llm=timeout", "llm=nonsense", "--store", "/nowhere/x.db", "os:path",
    "no.such:thing", "os", ":", "--svg", "/nowhere/x.svg", "--seed", "x", "-1", "--", "", "\0", "ü",
]  # fmt: skip


@fuzzed
@given(argv=st.lists(st.sampled_from(WORDS), max_size=5).filter(lambda argv: argv[:1] != ["pulse"]))
def malformed_command(counted: Counted, argv: list[str]) -> None:
    out, err = io.StringIO(), io.StringIO()
    counted.tried += 1
    if argv[:1] == ["run"]:
        argv = [*argv, "--scale", "0"]  # the fakes answer at once
    # The parser of all commands takes longer to make than most of these take to fail.
    parser = mock.patch.object(app, "make_parser", return_value=PARSER())
    with parser, redirect_stdout(out), redirect_stderr(err):
        try:
            code: Any = main(argv)
        except SystemExit as left:
            code = left.code
    assert code in (0, 1, 2, None), f"{argv} ended with {code}"
    assert "Traceback" not in err.getvalue(), err.getvalue()
    assert code == 0 or err.getvalue() or out.getvalue(), f"{argv} failed without a word"


@settings(max_examples=-(-SHARE // 3))
@given(plain=st.fixed_dictionaries({"faults": junk() | st.lists(junk(), max_size=2)}), rest=junk())
def malformed_plan(counted: Counted, plain: dict[str, Any], rest: Any) -> None:
    """Three inputs."""
    with counted, FaultPlan.from_dict(plain).injected():
        pass
    with counted, FaultPlan.from_dict({"faults": [{"provider": rest, "type": rest}]}).injected():
        pass
    with counted, FaultPlan.from_dict(rest).injected():
        pass


TOKEN = str(Token(Scenario(3), main="tests.property.stress:check_run", args=(1,)))


@fuzzed
@given(data=st.data())
def malformed_token(counted: Counted, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(TOKEN)))
    new = data.draw(st.text(max_size=3))
    with counted:
        Token.parse(TOKEN[:at] + new + TOKEN[at + data.draw(st.integers(0, 3)) :])


@pytest.mark.parametrize(
    "area",
    [
        malformed_spec,
        malformed_pipeline,
        malformed_context,
        malformed_event,
        malformed_letter,
        malformed_command,
        malformed_plan,
        malformed_token,
    ],
    ids=lambda area: str(area.__name__),
)
def test_it_ends_in_an_error_of_this_package(area: Any, counted: Counted) -> None:
    """Or in nothing, where the input happens to be sound; never in an error from inside."""
    area(counted)


def test_a_spoilt_file_ends_in_an_error_of_this_package(counted: Counted, tmp_path: Path) -> None:
    """For any damage to the file of the dead letters."""
    malformed_row(counted, tmp_path)


@given(content=st.binary())
def test_a_result_file_of_anything_is_judged(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    """Bytes that are not the result of a benchmark have a defect, in words."""
    folder = tmp_path_factory.mktemp("results") / "m"
    folder.mkdir()
    path = folder / "0123abcd-env.json"
    path.write_bytes(content)
    assert defect(path)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (deep(), "<list whose repr raises RecursionError>"),
        (Unshowable(), "<Unshowable whose repr raises ValueError>"),
    ],
    ids=["deep", "unshowable"],
)
@pytest.mark.parametrize(
    "field", ["name", "runner", "dependencies", "inputs", "outputs", "timeout_s", "condition"]
)
def test_a_declaration_that_cannot_be_shown_is_refused_all_the_same(
    field: str, value: Any, text: str
) -> None:
    """In place of its text stand its type, and why there is none."""
    spec = dataclasses.replace(StageSpec("a", do_nothing), **{field: value})
    with pytest.raises(PipelineDefinitionError, match=text):
        Pipeline("p", [spec])
