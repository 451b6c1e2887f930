"""Counts the instructions of operations, which repeat where times do not.

The count is valgrind's: its tool callgrind runs a program on a processor of its own and counts what
that executes. One process under valgrind counts everything, since its start takes longer than most
of what it counts. Instrumentation begins when all is imported and warmed up.

What would make a count scatter is fixed: the hash seed, the addresses, the environment, the answer
to signals, and when garbage is collected. Waiting, cache misses and the kernel's work are not
counted, so counts stand beside times, not in their place.
"""

from __future__ import annotations

import asyncio
import compileall
import ctypes
import dataclasses
import gc
import json
import mmap
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import stageflow
from benchmarks._lib.operations import Call, Operation, named

#: Client requests of valgrind's tool callgrind: "CT", and a number (callgrind.h).
_CALLGRIND = ord("C") << 24 | ord("T") << 16
_ZERO_STATS, _DUMP_STATS_AT = _CALLGRIND + 1, _CALLGRIND + 3
_START_INSTRUMENTATION = _CALLGRIND + 4

#: ``uint64_t ask(uint64_t *arguments)`` for x86-64. Its rotations come to nothing on a processor,
#: and valgrind takes them for a request (valgrind.h, "The magic instruction sequence").
_ASK_VALGRIND = bytes.fromhex(
    "4889f8"  # mov rax, rdi: the arguments
    "31d2"  # xor edx, edx: what is answered outside of valgrind
    "48c1c703 48c1c70d 48c1c73d 48c1c733"  # rol rdi by 3, 13, 61 and 51
    "4887db"  # xchg rbx, rbx
    "4889d0 c3"  # mov rax, rdx; ret
)

_PROGRAM = (
    "import sys; sys.path[:0] = sys.argv[1:3]; from benchmarks._lib.callgrind import serve; serve()"
)
_PACKAGES = (str(Path(stageflow.__file__).parents[1]), str(Path(__file__).parents[2]))
_TRIGGER = re.compile(r"^desc: Trigger: Client Request: (.*)$", re.MULTILINE)
_TOTALS = re.compile(r"^totals: (\d+)$", re.MULTILINE)
#: Time for a start, and for each operation: tens of times what a quiet machine takes.
START_S, OPERATION_S = 240.0, 8.0
#: Executed before counting begins: caches are filled, free lists and dictionaries have grown.
WARM_UPS = 2


class CallgrindError(RuntimeError):
    """Counting failed as a whole; the text says what valgrind or the interpreter said."""


class TooBusyError(CallgrindError):
    """Counting did not end in time; the gate knows it by its name."""


@dataclasses.dataclass(frozen=True, slots=True)
class Count:
    """The result of counting one operation.

    Attributes:
        instructions: Instructions of one operation; None if it was not counted.
        missing: What this commit of stageflow lacks for it.
        error: What it raised.
    """

    instructions: float | None = None
    missing: tuple[str, ...] = ()
    error: str | None = None

    def value(self) -> float:
        """The instructions, or NaN, by which asv knows a benchmark that was skipped.

        Raises:
            RuntimeError: The operation raised.
        """
        if self.error is not None:
            raise RuntimeError(self.error)
        return float("nan") if self.instructions is None else self.instructions


def unavailable() -> str | None:
    """Why nothing can be counted on this machine; None if it can."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return f"instructions are counted on Linux, x86-64; this is {platform.platform()}"
    if shutil.which("valgrind") is None:
        return "valgrind is not installed (Debian: apt-get install valgrind)"
    return None


def limit_s(operations: int) -> float:
    """How long so many operations may be counted."""
    return START_S + OPERATION_S * operations


def count(names: Sequence[str]) -> dict[str, Count]:
    """Count the operations of that name, in one process under valgrind.

    Args:
        names: Names in `benchmarks._lib.operations`.

    Returns:
        A count for each name; none is counted where valgrind is missing.

    Raises:
        CallgrindError: The process under valgrind failed as a whole.
        TooBusyError: It did not end within `limit_s`.
    """
    why_not = unavailable()
    if why_not is not None:
        return {name: Count(missing=(why_not,)) for name in names}
    # Compiling takes twice what importing does, and whether it was done before is up to chance.
    compileall.compile_dir(Path(stageflow.__file__).parent, quiet=2)
    with tempfile.TemporaryDirectory(prefix="callgrind-") as folder:
        answers = _serve_under_valgrind(Path(folder), names)
        totals = _totals(Path(folder))
    return {name: _as_count(name, answers[name], totals) for name in names}


def _as_count(name: str, answer: dict[str, Any], totals: dict[str, int]) -> Count:
    if "operations" not in answer:
        return Count(missing=tuple(answer.get("missing", ())), error=answer.get("error"))
    if name not in totals:
        raise CallgrindError(f"{name} was executed under valgrind, and callgrind wrote no count")
    return Count(instructions=totals[name] / answer["operations"])


def _serve_under_valgrind(folder: Path, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    command = [
        *_without_random_addresses(),
        *("valgrind", "--tool=callgrind", "--instr-atstart=no", "--fair-sched=yes", "--quiet"),
        f"--callgrind-out-file={folder}/out",
        *(sys.executable, "-s", "-c", _PROGRAM, *_PACKAGES),
    ]
    limit = limit_s(len(names))
    try:
        done = subprocess.run(  # noqa: S603 - our own program
            command,
            input=json.dumps(list(names)),
            capture_output=True,
            text=True,
            check=False,
            timeout=limit,
            cwd=folder,
            env={
                "PATH": os.environ.get("PATH", os.defpath),
                "HOME": str(folder),
                "LC_ALL": "C.UTF-8",
                "PYTHONHASHSEED": "0",
                "PYTHONDONTWRITEBYTECODE": "1",
            },
        )
    except subprocess.TimeoutExpired:
        raise TooBusyError(
            f"{len(names)} operations were not counted within {limit:.0f} s: run nothing beside it"
        ) from None
    if done.returncode:
        raise CallgrindError(f"valgrind ended with code {done.returncode}:\n{done.stderr[-2000:]}")
    answers: dict[str, dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return answers


def _without_random_addresses() -> list[str]:
    """Return a command prefix that fixes a program's addresses, where this machine allows that."""
    command = ["setarch", platform.machine(), "--addr-no-randomize"]
    try:
        refused = subprocess.run([*command, "true"], capture_output=True, check=False).returncode  # noqa: S603
    except FileNotFoundError:
        return []
    return [] if refused else command


def _totals(folder: Path) -> dict[str, int]:
    """The counts that callgrind has written into `folder`, by the name under which each was."""
    found = {}
    for path in folder.glob("out*"):
        text = path.read_text(encoding="utf-8", errors="replace")
        trigger, totals = _TRIGGER.search(text), _TOTALS.search(text)
        if trigger is not None and totals is not None:
            found[trigger[1]] = int(totals[1])
    return found


# ── inside of valgrind ──────────────────────────────────────────────────────────────────────


def serve() -> None:
    """Execute what standard input names, while callgrind counts; say on standard output what was.

    Ends the process without tidying up: what happens at an interpreter's end is not of interest.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.stdout.write(json.dumps(_answers(json.load(sys.stdin))) + "\n")
    sys.stdout.flush()
    os._exit(0)


def _answers(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Warm up all operations, and then count each.

    Instrumentation begins once: whenever it does, valgrind translates the interpreter anew, which
    takes longer than most operations.
    """
    ask, loops = _requests(), {name: SteadyLoop() for name in names}
    answers = {name: _warmed_up(named(name), loop) for name, loop in loops.items()}
    # Objects of other operations are no part of a collection before a count.
    gc.collect()
    gc.freeze()
    ask(_START_INSTRUMENTATION)
    for name in names:
        if "operations" in answers[name]:
            try:
                operation = named(name)
                loops[name].run_until_complete(_counted(operation, operation.make(), ask))
            except Exception as error:
                answers[name] = _error(error)
        loops[name].close()
    return answers


def _warmed_up(operation: Operation, loop: asyncio.AbstractEventLoop) -> dict[str, Any]:
    lacking = operation.missing()
    if lacking:
        return {"missing": lacking}
    try:
        for _ in range(WARM_UPS):
            loop.run_until_complete(operation.do(operation.make()))
    except Exception as error:
        return _error(error)
    return {"operations": operation.per_block}


def _error(error: Exception) -> dict[str, Any]:
    return {"error": f"{type(error).__name__}: {error}"}


async def _counted(operation: Operation, call: Call, ask: Callable[..., None]) -> None:
    label = ctypes.create_string_buffer(operation.name.encode())
    gc.collect()
    gc.disable()
    try:
        ask(_ZERO_STATS)
        await operation.do(call)
        ask(_DUMP_STATS_AT, ctypes.addressof(label))
    finally:
        gc.enable()


class SteadyLoop(asyncio.SelectorEventLoop):
    """A loop whose clock moves by a microsecond whenever somebody looks at it.

    Under valgrind everything takes fifty times as long, and never equally long; an engine that
    gives way after some milliseconds would do so here and there.
    """

    def __init__(self) -> None:
        super().__init__()
        self._now_s = 0.0

    def time(self) -> float:
        """Seconds since the loop was made, by how often it was asked."""
        self._now_s += 1e-6
        return self._now_s


def _requests() -> Callable[..., None]:
    """A function that hands a client request to valgrind: a few bytes of code, no compiler."""
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(_ASK_VALGRIND)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    function = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_void_p)(address)

    def ask(request: int, argument: int = 0) -> None:
        arguments = (ctypes.c_uint64 * 6)(request, argument)
        function(ctypes.addressof(arguments))

    ask.page = page  # type: ignore[attr-defined]  # the code lives as long as what calls it
    return ask
