"""Defects to plant into a copy of the package: work that was not there, or an overlap lost."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

from stageflow.pulse import PulseError

#: What is planted again and again: it does nothing, and takes a processor a little.
_FILLER = "_ = None"


@dataclass(frozen=True, slots=True)
class Slowdown:
    """Work added to every call of a function.

    Attributes:
        layer: What is slowed down, in words.
        file: The module, below the package.
        function: The function in it, with its class.
        series: The series that has to show it.
        statement: The statement that is planted.
    """

    layer: str
    file: str
    function: str
    series: str
    statement: str = _FILLER

    def into(self, package: Path, statements: int) -> None:
        """Plant `statements` idle statements at the function's beginning.

        Raises:
            PulseError: The package has no such function.
        """
        path = package / self.file
        text = path.read_text(encoding="utf-8")
        body = _function(ast.parse(text), self.function.split("."), f"{self.file}: {self.function}")
        lines = text.splitlines(keepends=True)
        indent = " " * body.col_offset
        lines.insert(body.lineno - 1, f"{indent}{self.statement}\n" * statements)
        path.write_text("".join(lines), encoding="utf-8")


@dataclass(frozen=True, slots=True)
class LostOverlap:
    """Two stages that ran side by side and now run one after the other.

    Attributes:
        layer: What is lost, in words.
        file: The module, below the package.
        old, new: The text that is replaced, and by what.
        series: The series of which at least one has to show it.
    """

    layer: str
    file: str
    old: str
    new: str
    series: tuple[str, ...]

    def into(self, package: Path) -> None:
        """Plant it.

        Raises:
            PulseError: The text is not there once, exactly.
        """
        path = package / self.file
        text = path.read_text(encoding="utf-8")
        if text.count(self.old) != 1:
            raise _unfit(f"{self.file}: {self.old!r} occurs {text.count(self.old)} times")
        path.write_text(text.replace(self.old, self.new), encoding="utf-8")


def _function(tree: ast.AST, names: list[str], where: str) -> ast.stmt:
    """The first statement of a function behind its docstring."""
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    node = tree
    for name in names:
        inside = (n for n in ast.iter_child_nodes(node) if isinstance(n, kinds) and n.name == name)
        found = next(inside, None)
        if found is None:
            raise _unfit(f"{where} is not there any more")
        node = found
    assert isinstance(node, kinds)
    documented = ast.get_docstring(node) is not None
    if len(node.body) <= documented:
        raise _unfit(f"{where} has no statement of its own")
    return node.body[documented]


def _unfit(what: str) -> PulseError:
    return PulseError(f"a planted defect does not fit the code: {what}; fix {Path(__file__).name}")


def _operation(name: str) -> str:
    return f"counted.Operation.track_instructions({name!r})"


SLOWDOWNS = (
    Slowdown("bag write", "engine/bag.py", "ContextBag.write", _operation("bag.write")),
    Slowdown(
        "event append", "engine/stage_context.py", "StageContext.emit", _operation("event.emit")
    ),
    Slowdown("scheduling", "engine/run.py", "Run._suspend", _operation("run.suspending")),
    Slowdown(
        "interceptor",
        "interceptors/retry.py",
        "RetryInterceptor.around",
        _operation("interceptor.retry"),
    ),
    Slowdown(
        "kernel stage",
        "kernels/conversation.py",
        "conversation",
        _operation("stage.chat.llm"),
    ),
)

#: What timing in pairs has to find without the help of counts.
TIMED_SLOWDOWN = Slowdown(
    "bag write, by time alone", "engine/bag.py", "ContextBag.write", "timed('bag.write')"
)

#: A wait in one call of 25.
RARE_WAIT = Slowdown(
    "tail of a voice turn",
    "kernels/voice.py",
    "stt",
    "simulation.VirtualLatency.track_voice_turn",
    "import asyncio as a, itertools as i; await a.sleep({seconds} * (next("
    "globals().setdefault('_n', i.count())) % 25 == 0))",
)

#: A benchmark that no longer does what its name says.
HALF_THE_WORK = LostOverlap(
    "a benchmark that writes half of what it says",
    "_lib/operations.py",
    '"one write: what a stage pays an output", _bag_write, 1_000, 1, bag',
    '"one write: what a stage pays an output", _bag_write, 500, 2, bag',
    (),
)

LOST_OVERLAP = LostOverlap(
    "kernel that lost its parallelism",
    "kernels/voice.py",
    'memory = replace(any_turn.memory, dependencies=("stt",))',
    'memory = replace(any_turn.memory, dependencies=("profile",))',
    tuple(f"exact.Latency.{method}('voice')" for method in ("track_ms", "track_calls_in_a_row")),
)
