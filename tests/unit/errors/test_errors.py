"""The tree of errors: one root, distinct codes, and messages that say what, where and the fix."""

from __future__ import annotations

import copy
import importlib
import inspect
import json
import math
import pickle
import pkgutil
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pytest

import stageflow
from stageflow import ContextBag, Pipeline, StageContext, StageOutput, StageSpec
from stageflow import errors as err
from stageflow.errors import ErrorCategory, Portable, StageflowError, nearest
from stageflow.resilience import classify
from tests.utils.errors import raises_code

T = TypeVar("T")

_CAUSE = ValueError("boom")


def _problem(stage: str, text: str) -> err.Problem:
    return err.Problem(pipeline="chat", stage=stage, code="invalid_name", text=text)


#: For each class that the engine raises: an example, and what its text must name.
EXAMPLES: list[tuple[StageflowError, tuple[str, ...]]] = [
    (
        err.StreamError.undeclared("wrods", ["words"]),
        ("'wrods'", "streams=['wrods', …]", "did you mean 'words'"),
    ),
    (err.StreamError.closed("words", "llm"), ("'words'", "'llm'", "wait for all of its tasks")),
    (
        err.StreamError.not_kept("words", "stage 'llm' failed"),
        ("'words'", "stage 'llm' failed", "into its outputs"),
    ),
    (
        err.StreamFailedError("words", "llm", err.StageFailedError("overloaded")),
        ("'words'", "'llm'", "overloaded"),
    ),
    (
        err.PipelineDefinitionError("chat", [_problem("llm", "depends on itself; remove it")]),
        ("'chat'", "1 problem:", "'llm'", "depends on itself; remove"),
    ),
    (
        err.UnknownStageError("chat", "lmm", ["llm", "stt"]),
        ("'chat'", "'lmm'", "llm, stt", "did you mean 'llm'"),
    ),
    (
        err.ComposeConflictError("left", "right", ["a", "b"]),
        ("'left'", "'right'", "'a', 'b'", "rename one"),
    ),
    (
        err.DataConflictError("text", "stt", "llm"),
        ("'text'", "'stt'", "'llm'", "key of its own"),
    ),
    (
        err.MissingKeyError("txet", ["text", "audio"]),
        ("'txet'", "'audio', 'text'", "did you mean 'text'"),
    ),
    (err.MissingKeyError(5, []), ("5", "nothing", "keys are strings")),
    (
        err.UnknownProviderError("lmm", ["llm"]),
        ("'lmm'", "'llm'", "did you mean", "providers.register('lmm'"),
    ),
    (err.UnknownProviderError("llm", ["lmm"], of_port=True), ("'lmm' was given: rename it",)),
    (
        err.ProviderError.invalid("llm", object(), "LLM", ["stream()"]),
        ("object", "'llm'", "LLM", "stream()"),
    ),
    (
        err.InvalidConfigError("FakeLLM", "seed", "x", "give an integer"),
        ("FakeLLM", "seed", "'x'", "give an integer"),
    ),
    (err.CircuitOpenError("llm", 12.0), ("circuit breaker open", "'llm'", "12 s")),
    (err.CircuitOpenError("llm", math.inf), ("'llm'", "forced open", "no call until it is reset")),
    (err.InvalidReplyError("llm: the reply is bytes, no text"), ("llm", "no text")),
    (err.NoAnswerError("it refused: no", "refusal"), ("no answer", "it refused: no")),
    (err.ToolError("there is no order A7"), ("there is no order A7",)),
    (err.NoProgressError("llm", 2.0), ("timeout", "llm", "no progress", "2 s")),
    (err.InvalidAudioError("empty sound; give samples", code="empty_audio"), ("empty sound",)),
    (
        err.StageRaisedError(ConnectionError("refused"), "connection_failed"),
        ("ConnectionError", "refused"),
    ),
    (err.StageRaisedError(TimeoutError(), "operation_timeout"), ("TimeoutError", "timeout")),
    (err.StageRaisedError(_CAUSE), ("ValueError: boom",)),
    (err.StageTimeoutError(1.5), ("timeout", "1.5 s")),
    (err.DeadlineExceededError(2.0), ("timeout", "deadline", "2 s")),
    (err.StageDefectError.stray_cancellation(), ("CancelledError", "nobody cancelled", "catch it")),
    (err.AbsentInputError("text", "skipped"), ("'text'", "skipped", "ctx.get('text')")),
    (
        err.ChildRunError("child", "run-9", err.StageTimeoutError(1.0)),
        ("'child'", "run-9", "timeout"),
    ),
    (err.StageFailedError("no luck"), ("no luck",)),
    (err.InvalidContextError("deadline_s is -1; give a positive number"), ("deadline_s", "give")),
    (
        err.DeadLetterStoreError("write", "letters.db", OSError("no room")),
        ("write", "letters.db", "OSError: no room", "disk"),
    ),
    (err.DeadLetterStoreError("write", "letters.db", "closed"), ("letters.db (closed)",)),
    (
        err.DeadLetterError.invalid_store(
            "letters.db", "is not an SQLite database; give another file"
        ),
        ("letters.db", "not an SQLite", "give another"),
    ),
    (err.UnknownDeadLetterError("a1", "letters.db"), ("'a1'", "letters.db", "list")),
    (err.DuplicateDeadLetterError("a1", "letters.db"), ("'a1'", "letters.db", "seeds")),
    (err.DeadLetterClaimedError("a1", "noon"), ("'a1'", "another process", "until noon")),
    (err.DeadLetterReplayedError("a1", "run-2"), ("'a1'", "already", "run-2", "once")),
    (err.DeadLetterLeaseLostError("a1"), ("'a1'", "ran out", "lease_s")),
    (
        err.DeadLetterError.unstorable("a1", [("socket", "socket.socket")]),
        ("'a1'", "socket (of type socket.socket)", "plain values", "codec"),
    ),
    (
        err.DeadLetterError.mismatch("a1", "chat", "it has no stage 'llm'"),
        ("'a1'", "'chat'", "no stage 'llm'", "version"),
    ),
    (err.CorruptDeadLetterError("no 'id'"), ("no 'id'", "another version")),
    (err.RecordedError("gone", "policy", "it is gone", "Sorry.", stage="llm"), ("it is gone",)),
    (err.LocalServiceError("PocketSphinx", "has ended", "no room"), ("PocketSphinx", "no room")),
]

#: Bases: they group others, and are never raised themselves.
BASES = {
    err.DeadLetterError,
    err.BagError,
    err.ProviderError,
    err.StageError,
    err.StreamError,
}


def subclasses(cls: type[Exception]) -> Iterator[type[Exception]]:
    """Every class of the tree below `cls` that the package itself defines."""
    for sub in cls.__subclasses__():
        # A benchmark imports the package a second time; its classes may be there for a while.
        first = vars(sys.modules.get(sub.__module__, err)).get(sub.__name__, sub) is sub
        if sub.__module__.partition(".")[0] == "stageflow" and first:
            yield sub
        yield from subclasses(sub)


def test_every_error_class_of_the_engine_hangs_below_one_root() -> None:
    """So `except StageflowError` catches everything that the engine's errors module has."""
    classes = [v for v in vars(err).values() if isinstance(v, type) and issubclass(v, Exception)]
    assert len(classes) > 20
    assert [c for c in classes if not issubclass(c, StageflowError)] == []


def fields(error: Any) -> Any:
    """Return an error's class, arguments, attributes and cause, with those of errors in these."""
    if isinstance(error, BaseException):
        values = {name: fields(value) for name, value in vars(error).items()}
        return type(error), error.args, values, fields(error.__cause__)
    return error


def _pickled(error: T) -> T:
    copied: T = pickle.loads(pickle.dumps(error))
    return copied


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, _pickled], ids=lambda f: f.__name__)
@pytest.mark.parametrize("error", [e for e, _ in EXAMPLES], ids=lambda e: type(e).__name__)
def test_a_copy_of_an_error_is_equal_in_every_field(
    error: StageflowError, copied: Callable[[StageflowError], StageflowError]
) -> None:
    """An error that crosses a process keeps what a caller acts on."""
    error.add_note("seen twice")
    assert fields(copied(error)) == fields(error)


def test_errors_of_every_class_can_be_copied() -> None:
    """No class of the package, whatever its constructor takes, undoes what the root does."""
    for module in pkgutil.walk_packages(stageflow.__path__, "stageflow."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    classes = set(subclasses(Exception))
    assert len(classes) > 60
    for cls in classes:
        error: Any = cls.__new__(cls, "text")
        error.__dict__.update(message="text", facts=("a", 1), until=2.5)
        error.add_note("seen twice")
        assert fields(_pickled(error)) == fields(error)
        # A constructor with other parameters than `args` makes the copies of a class fail.
        own = vars(cls).get("__init__")
        if issubclass(cls, Portable):
            error.__cause__ = KeyError("gone")
            error.lock = threading.Lock()
            for copied in (copy.copy, copy.deepcopy):
                twin = copied(error)
                twin.add_note("of the copy alone")
                assert error.__notes__ == twin.__notes__[:-1] == ["seen twice"]
                assert (twin.lock, twin.__cause__) == (error.lock, error.__cause__)
        else:
            assert own is None, f"{cls.__name__} derives from Portable if it has a constructor"


class _Opaque(Exception):  # noqa: N818 - a library's
    """A foreign exception that is pickled and cannot be read back."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(one)


class _Classless(Exception):  # noqa: N818 - a library's
    """A foreign exception that answers no question about itself."""

    def __getattribute__(self, name: str) -> object:
        raise RuntimeError(name)


class _Local(str):
    """A text whose class cannot be found by its name."""

    __qualname__ = "function.<locals>.Local"


@pytest.mark.parametrize(
    "error",
    [
        err.StageRaisedError(_Opaque("one", "two")),
        err.StageRaisedError(_Classless()),
        err.StageFailedError(_Local("no answer")),
        err.InvalidConfigError("Pipeline", "condition", threading.Lock(), "give a function"),
        err.StageDefectError("read it", keys=[threading.Lock()]),
        err.ChildRunError("child", "run-9", err.StageRaisedError(_Opaque("one", "two"))),
        err.BagError(lambda: None, "no string"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_pickle_replaces_what_cannot_be_pickled_by_its_text(error: StageflowError) -> None:
    """The error arrives nevertheless, with its own text and everything else."""
    copied = _pickled(error)
    assert (type(copied), str(copied), copied.code) == (type(error), str(error), error.code)
    assert vars(copied).keys() == vars(error).keys()
    if isinstance(error, err.InvalidConfigError):
        assert copied.found == repr(error.found)  # type: ignore[attr-defined]
    if isinstance(error, err.ChildRunError):
        assert copied.__cause__ is copied.cause  # type: ignore[attr-defined]


def test_each_error_class_of_the_engine_has_an_example_here() -> None:
    """No error class goes without a test of its message."""
    shown = {type(error) for error, _ in EXAMPLES} | BASES
    own = {c for c in subclasses(StageflowError) if c.__module__.startswith(err.__name__)}
    missing = own - shown
    assert missing == set()


@pytest.mark.parametrize(
    ("error", "fragments"), EXAMPLES, ids=[type(error).__name__ for error, _ in EXAMPLES]
)
def test_a_message_says_what_is_wrong_where_and_how_to_fix_it(
    error: StageflowError, fragments: tuple[str, ...]
) -> None:
    """Each message holds the names concerned and the way out."""
    assert [f for f in fragments if f not in str(error)] == []


async def _reopens(ctx: StageContext) -> StageOutput:
    await ctx.open("words").put(1)
    ctx.open("words")
    return StageOutput.ok()


#: Stages that break a rule, each with what the error says.
DEFECTS: list[tuple[Callable[[StageContext], Any], tuple[str, ...]]] = [
    (lambda ctx: {"a": 1}, ("{'a': 1}", "dict", "write 'return StageOutput.ok(key=value)'")),
    (
        lambda ctx: StageOutput.ok(extra=1),
        ("'extra'", "add them to its outputs", "did not return ['answer']", "declares"),
    ),
    (lambda ctx: StageOutput.ok(anwser=1), ("did you mean 'answer'",)),
    (lambda ctx: StageOutput.ok(), ("did not return ['answer']",)),
    (lambda ctx: ctx["txet"], ("'txet'", "inputs=['txet'", "['text']", "did you mean 'text'")),
    (lambda ctx: ctx[5], ("read 5", "keys are strings")),  # type: ignore[index]
    (lambda ctx: ctx.open("wrods"), ("'wrods'", "streams=['wrods', …]", "did you mean 'words'")),
    (_reopens, ("'words'", "1 items", "open it once")),
    (lambda ctx: StageOutput.ok(answer=1), ("did not open the streams ['words']", "ctx.open(")),
]


@pytest.mark.parametrize(("call", "fragments"), DEFECTS)
async def test_the_failure_of_a_stage_that_breaks_a_rule_says_which(
    call: Callable[[StageContext], Any], fragments: tuple[str, ...]
) -> None:
    """Each message holds the keys concerned and the way out."""

    async def act(ctx: StageContext) -> Any:
        found = call(ctx)
        return await found if inspect.isawaitable(found) else found

    streams = ("words",) if "words" in "".join(fragments) else ()
    spec = StageSpec("a", act, inputs=("text",), outputs=("answer",), streams=streams)
    result = await Pipeline("p", [spec]).run(text="?")
    assert [f for f in fragments if f not in str(result.failure)] == []


def test_a_bag_says_which_key_is_not_a_string() -> None:
    """The message holds the writer, the key and its type."""
    with raises_code("invalid_key", match="'llm' used the key 5 of type int; keys are strings"):
        ContextBag().put(5, "x", "llm")  # type: ignore[arg-type]


@pytest.mark.parametrize("error", [e for e, _ in EXAMPLES], ids=lambda e: type(e).__name__)
def test_every_error_carries_what_a_caller_acts_on(error: StageflowError) -> None:
    """Code, category, whether a retry may help, and a text that gives nothing away."""
    assert error.code.isidentifier()
    assert error.code == error.code.lower()
    assert isinstance(error.category, ErrorCategory)
    assert isinstance(error.retryable, bool)
    assert error.user_message.endswith(".")
    assert "Error" not in error.user_message
    assert "'" not in error.user_message


def test_located_fills_in_only_what_is_unknown() -> None:
    """The place where an error first happened stays, however far up it travels."""
    error = err.StageTimeoutError(1.0)
    assert error.located("llm", "run-1") is error
    assert (error.stage, error.pipeline_run_id) == ("llm", "run-1")
    error.located("outer", "run-2")
    assert (error.stage, error.pipeline_run_id) == ("llm", "run-1")
    error.located("other", "run-1")
    assert (error.stage, error.pipeline_run_id) == ("llm", "run-1")


@pytest.mark.parametrize(
    "error",
    [
        err.StageTimeoutError(1.0),
        err.ChildRunError("child", "run-9", err.StageRaisedError(ValueError("boom"))),
        err.MissingKeyError("a", ["b"]),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_that_another_run_has_had_is_copied(error: StageflowError) -> None:
    """Each run's failure says where that run failed, and the copy leads to the first one."""
    error.located("llm", "run-1")
    known = {name: value for name, value in vars(error).items() if name != "pipeline_run_id"}
    other = error.located("tts", "run-2")
    assert (type(other), str(other), other.args) == (type(error), str(error), error.args)
    assert (other.stage, other.pipeline_run_id) == ("tts", "run-2")
    assert vars(other) == {**known, "stage": "tts", "pipeline_run_id": "run-2"}
    assert other.__cause__ is error
    assert (error.stage, error.pipeline_run_id) == ("llm", "run-1")


@pytest.mark.parametrize(
    ("raised", "becomes", "category", "retryable"),
    [
        (TimeoutError("slow"), "operation_timeout", ErrorCategory.TRANSIENT, True),
        (ConnectionResetError("gone"), "connection_failed", ErrorCategory.TRANSIENT, True),
        (MemoryError(), "out_of_resources", ErrorCategory.SYSTEMIC, False),
        (RecursionError(), "out_of_resources", ErrorCategory.SYSTEMIC, False),
        (ValueError("boom"), "stage_raised", ErrorCategory.LOGIC, False),
        (KeyboardInterrupt(), "stage_raised", ErrorCategory.LOGIC, False),
    ],
)
def test_what_a_stage_raises_is_classified_by_its_type(
    raised: BaseException,
    becomes: str,
    category: ErrorCategory,
    retryable: bool,
) -> None:
    """Each foreign exception gets one class of ours, and stays reachable as the cause."""
    error = classify(raised)
    assert error.code == becomes
    assert (error.category, error.retryable) == (category, retryable)
    assert error.__cause__ is raised
    assert type(raised).__name__ in str(error)


def test_an_error_of_ours_is_classified_as_itself() -> None:
    """Classifying twice changes nothing."""
    error = err.StageTimeoutError(1.0)
    assert classify(error) is error


def test_a_failed_output_is_transient_exactly_when_a_retry_may_help() -> None:
    """Category and retryable of a returned failure agree."""
    again, never = (err.StageFailedError("x", retryable=r) for r in (True, False))
    assert (again.category, again.retryable) == (ErrorCategory.TRANSIENT, True)
    assert (never.category, never.retryable) == (ErrorCategory.PERMANENT, False)


def test_a_child_run_error_takes_over_what_its_cause_says() -> None:
    """Callers act on the code and category of the failure inside the child."""
    cause = err.StageRaisedError(ConnectionError("refused"), "connection_failed").located(
        "llm", "run-9"
    )
    error = err.ChildRunError("child", "run-9", cause)
    assert error.__cause__ is cause
    assert (error.category, error.retryable) == (cause.category, cause.retryable)
    assert error.user_message == cause.user_message
    assert "stage 'llm'" in str(error)


def test_a_missing_key_is_a_key_error_with_a_readable_text() -> None:
    """It is caught as a KeyError, yet its text is not the quoted form of one."""
    error = err.MissingKeyError("text", [])
    assert isinstance(error, KeyError)
    assert str(error) == "key 'text' has not been written (written: nothing)"


def test_several_problems_are_counted_and_listed_line_by_line() -> None:
    """A report of two problems has a heading and two lines."""
    problems = [_problem("a", "depends on itself"), _problem("b", "timeout_s is -1")]
    lines = str(err.PipelineDefinitionError("chat", problems)).splitlines()
    assert lines[0] == "pipeline 'chat' has 2 problems:"
    assert [line.split("'")[1] for line in lines[1:]] == ["a", "b"]


@pytest.mark.parametrize(
    ("name", "known", "found"),
    [
        ("memroy", ["memory", "llm"], "memory"),
        ("zzz", ["memory", "llm"], None),
        ("memory", [], None),
    ],
)
def test_the_nearest_name_is_a_likely_misspelling_or_nothing(
    name: str, known: list[str], found: str | None
) -> None:
    """A suggestion is made only where it is likely to be right."""
    assert nearest(name, known) == found


def test_categories_can_be_written_as_json() -> None:
    """A category is its own text."""
    assert json.dumps(ErrorCategory.TRANSIENT) == '"transient"'


def test_a_class_of_your_own_takes_code_and_traits_as_arguments_or_attributes() -> None:
    """The rest is inherited."""

    class RefusedError(StageflowError, code="refused", traits=err.Traits(ErrorCategory.POLICY)):
        pass

    class LaterError(RefusedError):
        code = "later"
        retryable = True

    assert (RefusedError("x").code, RefusedError("x").category) == ("refused", ErrorCategory.POLICY)
    later = LaterError("x")
    assert (later.code, later.category, later.retryable) == ("later", ErrorCategory.POLICY, True)
