"""The tree of errors: one root, distinct codes, and messages that say what, where and the mend."""

from __future__ import annotations

import importlib
import json
import math
import pkgutil
from collections import Counter
from collections.abc import Iterator

import pytest

import stageflow
from stageflow import errors as err
from stageflow.classification import classify
from stageflow.errors import ErrorCategory, StageflowError, nearest

_CAUSE = ValueError("boom")

#: For each class that the engine raises: an example, and what its text must name.
EXAMPLES: list[tuple[StageflowError, tuple[str, ...]]] = [
    (err.InvalidNameError("chat", "a b"), ("'chat'", "'a b'", "rename")),
    (err.InvalidSpecError("chat", 5), ("'chat'", "5", "StageSpec(")),
    (err.DuplicateStageError("chat", "llm", 2), ("'chat'", "'llm'", "2", "own name")),
    (err.SelfDependencyError("chat", "llm"), ("'chat'", "'llm'", "remove")),
    (
        err.UnknownDependencyError("chat", "llm", "memroy", ["memory"]),
        ("'chat'", "'llm'", "'memroy'", "did you mean 'memory'"),
    ),
    (
        err.UnknownDependencyError("chat", "llm", "xyz", ["memory"]),
        ("'chat'", "'llm'", "'xyz'", "add such a stage, or compose"),
    ),
    (err.CycleError("chat", ("a", "b", "a")), ("'chat'", "'a'", "a → b → a", "remove one")),
    (
        err.DuplicateOutputError("chat", "b", "text", "stage 'a'"),
        ("'chat'", "'b'", "'text'", "stage 'a'", "rename"),
    ),
    (
        err.MissingProducerError("chat", "b", "text", "a", ()),
        ("'chat'", "'b'", "'text'", "add 'a' to its dependencies"),
    ),
    (
        err.MissingProducerError("chat", "b", "txet", None, ["text"]),
        ("'chat'", "'b'", "'txet'", "declare it", "did you mean 'text'"),
    ),
    (
        err.OutputIsStreamError("chat", "b", "text"),
        ("'chat'", "'b'", "'text'", "keep it in one"),
    ),
    (
        err.UndeclaredStreamError("wrods", ["words"]),
        ("'wrods'", "streams=['wrods', …]", "did you mean 'words'"),
    ),
    (err.StreamReopenedError("words", 3), ("'words'", "3 items", "open it once")),
    (err.StreamClosedError("words", "llm"), ("'words'", "'llm'", "wait for all of its tasks")),
    (
        err.StreamNotKeptError("words", "stage 'llm' failed"),
        ("'words'", "stage 'llm' failed", "into its outputs"),
    ),
    (
        err.StreamFailedError("words", "llm", err.StageFailedError("overloaded")),
        ("'words'", "'llm'", "overloaded"),
    ),
    (err.StreamCancelledError("words", "llm"), ("'words'", "'llm'", "was cancelled")),
    (err.InvalidRunnerError("chat", "a", print), ("'chat'", "'a'", "print", "async def")),
    (err.InvalidTimeoutError("chat", "a", -1), ("'chat'", "'a'", "-1", "positive")),
    (
        err.InvalidDeclarationError("chat", "a", "inputs", 5, "names are strings"),
        ("'chat'", "'a'", "inputs", "5", "names are strings"),
    ),
    (
        err.PipelineDefinitionError("chat", [err.SelfDependencyError("chat", "llm")]),
        ("'chat'", "1 problem:", "'llm'", "remove"),
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
    (err.InvalidKeyError(5, "llm"), ("'llm'", "5", "int", "keys are strings")),
    (
        err.MissingKeyError("txet", ["text", "audio"]),
        ("'txet'", "'audio', 'text'", "did you mean 'text'"),
    ),
    (err.MissingKeyError(5, []), ("5", "nothing", "keys are strings")),
    (err.ContextInUseError("chat", "run-1"), ("run-1", "'chat'", "context of its own")),
    (
        err.MissingRunInputError("chat", ["text"], ["txet"]),
        ("'chat'", "'text'", "PipelineContext(inputs=", "did you mean 'txet'"),
    ),
    (
        err.UnknownProviderError("lmm", ["llm"]),
        ("'lmm'", "'llm'", "did you mean", "providers.register('lmm'"),
    ),
    (
        err.InvalidProviderError("llm", object(), "LLM", ["stream()"]),
        ("object", "'llm'", "LLM", "stream()"),
    ),
    (
        err.InvalidConfigError("FakeLLM", "seed", "x", "give an integer"),
        ("FakeLLM", "seed", "'x'", "give an integer"),
    ),
    (err.CircuitOpenError("llm", 12.0), ("circuit breaker open", "'llm'", "12 s")),
    (err.CircuitOpenError("llm", math.inf), ("'llm'", "forced open", "no call until it is reset")),
    (err.InvalidReplyError("llm: the reply is bytes, no text"), ("llm", "no text")),
    (err.NoProgressError("llm", 2.0), ("timeout", "llm", "no progress", "2 s")),
    (err.UnintelligibleAudioError("empty sound; give samples"), ("empty sound",)),
    (err.ConnectionFailedError(ConnectionError("refused")), ("ConnectionError", "refused")),
    (err.OperationTimeoutError(TimeoutError()), ("TimeoutError", "timeout")),
    (err.OutOfResourcesError(MemoryError()), ("MemoryError",)),
    (err.ServiceUnavailableError(_CAUSE), ("ValueError: boom",)),
    (err.RateLimitedError(_CAUSE, 3.0), ("ValueError: boom",)),
    (err.CredentialsRejectedError(_CAUSE), ("ValueError: boom",)),
    (err.RequestRejectedError(_CAUSE), ("ValueError: boom",)),
    (err.DatabaseBusyError(_CAUSE), ("ValueError: boom",)),
    (err.StorageFailedError(_CAUSE), ("ValueError: boom",)),
    (err.StageRaisedError(_CAUSE), ("ValueError: boom",)),
    (err.StageTimeoutError(1.5), ("timeout", "1.5 s")),
    (err.DeadlineExceededError(2.0), ("timeout", "deadline", "2 s")),
    (err.StrayCancellationError(), ("CancelledError", "nobody cancelled", "catch it")),
    (err.InvalidOutputError({"a": 1}), ("{'a': 1}", "dict", "StageOutput.ok(")),
    (
        err.OutputMismatchError(["extra"], ["lost"]),
        ("'extra'", "add them to its outputs", "'lost'", "declares"),
    ),
    (
        err.UnawaitedOutputError("answer", object()),
        ("'answer'", "write answer=await"),
    ),
    (err.OutputMismatchError([], ["lost"]), ("did not return ['lost']",)),
    (
        err.UndeclaredInputError("txet", ["text"]),
        ("'txet'", "inputs=['txet'", "['text']", "did you mean 'text'"),
    ),
    (err.UndeclaredInputError(5, []), ("5", "keys are strings")),
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
        err.InvalidDeadLetterStoreError("letters.db", "is no SQLite database; give another file"),
        ("letters.db", "no SQLite", "give another"),
    ),
    (err.UnknownDeadLetterError("a1", "letters.db"), ("'a1'", "letters.db", "list")),
    (err.DuplicateDeadLetterError("a1", "letters.db"), ("'a1'", "letters.db", "seeds")),
    (err.DeadLetterClaimedError("a1", "noon"), ("'a1'", "somebody else", "until noon")),
    (err.DeadLetterReplayedError("a1", "run-2"), ("'a1'", "already", "run-2", "once")),
    (err.DeadLetterLeaseLostError("a1"), ("'a1'", "ran out", "lease_s")),
    (
        err.UnstorableValueError("a1", [("socket", "socket.socket")]),
        ("'a1'", "socket (of type socket.socket)", "plain values", "codec"),
    ),
    (
        err.DeadLetterMismatchError("a1", "chat", "it has no stage 'llm'"),
        ("'a1'", "'chat'", "no stage 'llm'", "version"),
    ),
    (err.CorruptDeadLetterError("no 'id'"), ("no 'id'", "another version")),
]

#: Bases: they group others, and are never raised themselves.
BASES = {
    err.DeadLetterError,
    err.DefinitionError,
    err.BagError,
    err.ProviderError,
    err.StageError,
    err.StreamError,
}


def subclasses(cls: type[StageflowError]) -> Iterator[type[StageflowError]]:
    """Every class of the tree below `cls` that the package itself defines."""
    for sub in cls.__subclasses__():
        if sub.__module__.partition(".")[0] == "stageflow":
            yield sub
        yield from subclasses(sub)


def test_every_error_class_of_the_engine_hangs_below_one_root() -> None:
    """Whoever catches StageflowError catches everything that the engine's errors module has."""
    classes = [v for v in vars(err).values() if isinstance(v, type) and issubclass(v, Exception)]
    assert len(classes) > 20
    assert [c for c in classes if not issubclass(c, StageflowError)] == []


def test_no_two_error_classes_share_a_code() -> None:
    """A code names one class, over every module of the package."""
    for module in pkgutil.walk_packages(stageflow.__path__, "stageflow."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    classes: set[type[StageflowError]] = {StageflowError}
    classes.update(subclasses(StageflowError))
    codes = Counter(cls.code for cls in classes)
    assert [code for code, count in codes.items() if count > 1] == []
    assert len(codes) > 20


def test_each_error_class_of_the_engine_has_an_example_here() -> None:
    """No error class goes without a test of its message."""
    shown = {type(error) for error, _ in EXAMPLES} | BASES
    own = {c for c in subclasses(StageflowError) if c.__module__.startswith(err.__name__)}
    missing = own - shown
    assert missing == set()


@pytest.mark.parametrize(
    ("error", "fragments"), EXAMPLES, ids=[type(error).__name__ for error, _ in EXAMPLES]
)
def test_a_message_says_what_is_wrong_where_and_how_to_mend_it(
    error: StageflowError, fragments: tuple[str, ...]
) -> None:
    """Each message holds the names concerned and the way out."""
    assert [f for f in fragments if f not in str(error)] == []


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
        (TimeoutError("slow"), err.OperationTimeoutError, ErrorCategory.TRANSIENT, True),
        (ConnectionResetError("gone"), err.ConnectionFailedError, ErrorCategory.TRANSIENT, True),
        (MemoryError(), err.OutOfResourcesError, ErrorCategory.SYSTEMIC, False),
        (RecursionError(), err.OutOfResourcesError, ErrorCategory.SYSTEMIC, False),
        (ValueError("boom"), err.StageRaisedError, ErrorCategory.LOGIC, False),
        (KeyboardInterrupt(), err.StageRaisedError, ErrorCategory.LOGIC, False),
    ],
)
def test_what_a_stage_raises_is_classified_by_its_type(
    raised: BaseException,
    becomes: type[StageflowError],
    category: ErrorCategory,
    retryable: bool,
) -> None:
    """Each foreign exception gets one class of ours, and stays reachable as the cause."""
    error = classify(raised)
    assert type(error) is becomes
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
    """What a caller acts on is that of the failure inside the child."""
    cause = err.ConnectionFailedError(ConnectionError("refused")).located("llm", "run-9")
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
    problems = [err.SelfDependencyError("chat", "a"), err.InvalidTimeoutError("chat", "b", -1)]
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
