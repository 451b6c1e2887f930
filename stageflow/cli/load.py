"""From what stands on the command line to a pipeline and its inputs."""

from __future__ import annotations

import importlib
import operator
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from stageflow.cli.errors import UsageError
from stageflow.errors import nearest
from stageflow.kernels.chat import chat
from stageflow.kernels.defaults import KNOWN_USER
from stageflow.kernels.streaming_voice import streaming_voice
from stageflow.kernels.voice import voice
from stageflow.pipeline import Pipeline
from stageflow.providers.fake import speech_of_text

KERNELS: Mapping[str, Callable[[], Pipeline]] = {
    "voice": voice,
    "streaming_voice": streaming_voice,
    "chat": chat,
}

DEFAULT_TEXT = "Hello! What can you do?"


def load_pipeline(name: str) -> Pipeline:
    """The kernel of that name, or the pipeline at ``module:attribute``.

    Modules are looked for in the current folder first.

    Raises:
        UsageError: There is no such pipeline.
    """
    if name in KERNELS:
        return KERNELS[name]()
    if not all(name.partition(":")):
        raise UsageError(
            f"there is no pipeline {name!r}; give {', '.join(KERNELS)}, or module:attribute of your"
            " own"
            f"{_did_you_mean(name, KERNELS)}"
        )
    found = made(name)
    if not isinstance(found, Pipeline):
        raise UsageError(f"{name} is of type {type(found).__name__}, not a Pipeline")
    return found


def load(name: str) -> Any:
    """What stands at ``module:attribute``; modules are looked for in the current folder first.

    Raises:
        UsageError: There is no such thing.
    """
    module_name, _, attribute = name.partition(":")
    if not (module_name and attribute):
        raise UsageError(f"{name!r} is not module:attribute")
    return _attribute(_module(module_name), attribute)


def made(name: str) -> Any:
    """The same, or if it can be called, what it returns.

    Raises:
        UsageError: There is no such thing, or calling it failed.
    """
    found = load(name)
    if not callable(found):
        return found
    try:
        return found()
    except Exception as error:
        raise UsageError(f"calling {name} failed: {_described(error)}") from error


def _module(name: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise UsageError(
                f"there is no module {error.name!r}, neither in the current folder nor installed"
            ) from error
        raise UsageError(f"importing {name!r} failed: {error}") from error
    except Exception as error:
        raise UsageError(f"importing {name!r} failed: {_described(error)}") from error


def _attribute(module: ModuleType, path: str) -> Any:
    try:
        return operator.attrgetter(path)(module)
    except AttributeError as error:
        raise UsageError(
            f"module {module.__name__!r} has no {path!r}{_did_you_mean(path, vars(module))}"
        ) from error


def run_inputs(
    pipeline: Pipeline, text: str | None, user: str | None, given: Iterable[tuple[str, Any]]
) -> dict[str, Any]:
    """The inputs of a run.

    Where the pipeline declares them, ``text`` and ``user_id`` are what was said and by whom, and
    ``audio`` is the text as the fake speech service says it; `given` comes on top.

    Raises:
        UsageError: An input is missing, or something was given that the pipeline does not take.
    """
    declared = set(pipeline.inputs)
    for option, value, keys in (("--text", text, {"text", "audio"}), ("--user", user, {"user_id"})):
        if value is not None and not declared & keys:
            raise UsageError(
                f"pipeline {pipeline.name!r} makes no use of {option}{_takes(pipeline)}"
            )
    said = text if text is not None else DEFAULT_TEXT
    inputs: dict[str, Any] = {
        "text": said,
        "audio": speech_of_text(said),
        "user_id": user if user is not None else KNOWN_USER,
    }
    inputs = {key: inputs[key] for key in pipeline.inputs if key in inputs}
    for key, value in given:
        if key not in declared:
            raise UsageError(
                f"pipeline {pipeline.name!r} has no input {key!r}{_takes(pipeline)}"
                f"{_did_you_mean(key, declared)}"
            )
        inputs[key] = value
    missing = [key for key in pipeline.inputs if key not in inputs]
    if missing:
        options = " ".join(f"--input {key}=VALUE" for key in missing)
        raise UsageError(f"pipeline {pipeline.name!r} needs more inputs; add {options}")
    return inputs


def _takes(pipeline: Pipeline) -> str:
    return f"; it takes {', '.join(map(repr, pipeline.inputs)) or 'no input'}"


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    found = nearest(name, known)
    return f"; did you mean {found!r}?" if found else ""


def _described(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
