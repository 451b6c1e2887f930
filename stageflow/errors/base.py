"""The root of all errors, and helpers for their texts."""

from __future__ import annotations

import copy
import copyreg
import difflib
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from typing import Any, ClassVar, NamedTuple


class ErrorCategory(StrEnum):
    """Kind of an error, which decides who can fix it."""

    TRANSIENT = "transient"  # a retry may succeed
    PERMANENT = "permanent"  # the same call fails again
    LOGIC = "logic"  # the code of a stage or of a pipeline is wrong
    SYSTEMIC = "systemic"  # memory, disk, a deadline
    POLICY = "policy"  # refused on purpose


GENERIC_USER_MESSAGE = "Something went wrong on our side. Please try again."
TOO_LONG = "That is more than I can take at once. Please make it shorter."
TOO_SLOW = "That took too long. Please try again."
BUDGET = "I have to stop here. Please ask for less at once."
BUSY = "We are very busy right now. Please try again in a moment."
IN_TROUBLE = "A service we need is having trouble. Please try again in a moment."
UNREACHABLE = "A service we need cannot be reached right now. Please try again."


class Traits(NamedTuple):
    """Category, retryability and user message of the errors with one code."""

    category: ErrorCategory = ErrorCategory.PERMANENT
    retryable: bool = False
    user_message: str = GENERIC_USER_MESSAGE


#: Types whose values can be pickled.
_PLAIN = (str, int, float, bool, bytes, type(None))

LOGIC = Traits(ErrorCategory.LOGIC)
SYSTEMIC = Traits(ErrorCategory.SYSTEMIC)
POLICY = Traits(ErrorCategory.POLICY)
RETRYABLE = Traits(ErrorCategory.TRANSIENT, True)
SLOW = RETRYABLE._replace(user_message=TOO_SLOW)


class Portable:
    """Mixin of exceptions that can be pickled and copied, whatever their constructors take.

    A copy has the same fields, notes and cause. A pickle has a text for each value that cannot be
    pickled, and leaves out such a cause.
    """

    def __reduce__(self: Any) -> tuple[Any, ...]:
        state = {name: _picklable(value) for name, value in vars(self).items()}
        if self.__cause__ is not None and _picklable(self.__cause__) is self.__cause__:
            state["__cause__"] = self.__cause__
        arguments = type(self), *map(_picklable, self.args)
        return copyreg.__newobj__, arguments, state  # type: ignore[attr-defined]

    def __copy__(self: Any) -> Any:
        twin = type(self).__new__(type(self), *self.args)
        vars(twin).update(vars(self))
        if hasattr(self, "__notes__"):
            twin.__notes__ = list(self.__notes__)
        twin.__cause__, twin.__suppress_context__ = self.__cause__, self.__suppress_context__
        return twin

    def __deepcopy__(self, memo: object) -> Any:
        return copy.copy(self)  # fields may hold values that cannot be copied


class StageflowError(Portable, Exception):
    """Root of all errors of stageflow.

    A subclass takes its `code` and its `Traits` as arguments of the class, or sets the attributes.

    Attributes:
        code: Stable, machine-readable name of the error.
        category: Who can fix it; see `ErrorCategory`.
        retryable: Whether the same call may succeed when it is repeated.
        user_message: Text that is safe to show to the person in the conversation.
        retry_after_s: Seconds to wait before the next attempt, if known.
        stage: Name of the stage concerned, if any.
        pipeline_run_id: Id of the run concerned, if any.
    """

    code: str = "stageflow_error"
    category: ErrorCategory = ErrorCategory.PERMANENT
    retryable: bool = False
    user_message: str = GENERIC_USER_MESSAGE
    retry_after_s: float | None = None

    #: Further codes that errors of this class can have.
    codes: ClassVar[Mapping[str, Traits]] = {}

    def __init_subclass__(
        cls, *, code: str | None = None, traits: Traits | None = None, **more: Any
    ) -> None:
        super().__init_subclass__(**more)
        cls.code = code or cls.code
        if traits is not None:
            cls.category, cls.retryable, cls.user_message = traits

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        stage: str | None = None,
        pipeline_run_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.stage = stage
        self.pipeline_run_id = pipeline_run_id
        if code is not None:
            self.code = code
            self.category, self.retryable, self.user_message = self.codes[code]

    def __str__(self) -> str:
        return self.message

    def located(self, stage: str, pipeline_run_id: str) -> StageflowError:
        """Fill in stage and run unless they are known, and return the error.

        Returns a copy for an error of another run: several runs may raise one object.
        """
        if self.pipeline_run_id not in (None, pipeline_run_id):
            here = copy.copy(self)
            here.stage, here.pipeline_run_id = stage, pipeline_run_id
            here.__cause__ = self
            return here
        self.stage = self.stage or stage
        self.pipeline_run_id = pipeline_run_id
        return self


def _picklable(value: Any) -> Any:
    if type(value) in _PLAIN:
        return value
    import pickle  # noqa: PLC0415 - takes a tenth of the time to import this package

    try:
        # A portable error replaces its own fields, so only its class matters.
        probe = type(value) if issubclass(type(value), Portable) else value
        pickle.loads(pickle.dumps(probe))  # noqa: S301 - just written here
    except Exception:  # any method of a user's class may raise
        return str.__str__(value) if issubclass(type(value), str) else shown(value)
    return value


def shown(value: object, by: Callable[[object], str] = repr) -> str:
    """Return a value's repr, or its ``str``; if that raises, its type and why."""
    try:
        return by(value)
    except Exception as error:  # nested deeper than the stack, or a __repr__ that raises
        return f"<{type(value).__name__} whose {by.__name__} raises {type(error).__name__}>"


def described(failure: StageflowError) -> dict[str, Any]:
    """Return an error as the data of an event."""
    return {
        "error_code": failure.code,
        "error_message": shown(failure, str),
        "error_category": str(failure.category),
        "retryable": failure.retryable,
        "user_message": failure.user_message,
    }


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the most similar name among `known`, if any is similar."""
    matches = difflib.get_close_matches(name, list(known), n=1)
    return matches[0] if matches else None


def misspelt(missing: Iterable[str], given: Iterable[str]) -> str:
    """Return the end of a sentence that lists which of `given` are misspellings of `missing`."""
    names = list(given)
    pairs = ((nearest(key, names), key) for key in missing)
    return "".join(f"; {found!r} was given: rename it to {key!r}" for found, key in pairs if found)


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Return the end of a sentence that suggests the most similar of `known`, if any."""
    if not isinstance(name, str):
        return "; keys are strings"
    found = nearest(name, known)
    return f"; did you mean {found!r}?" if found else ""
