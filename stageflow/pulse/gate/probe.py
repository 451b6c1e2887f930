"""Measure the benchmarks of an asv folder on request: a program that `Worker` starts by its path.

It measures the first package on ``PYTHONPATH``, and imports nothing of stageflow, which may be that
package. ``timed('NAME')`` and ``instructions('NAME')`` are of a time_* benchmark, ``value('NAME')``
of any other, by asv's names. Only the modules of those that are measured are imported, since some
make their data when they are imported.
"""

from __future__ import annotations

import ast
import ctypes
import gc
import inspect
import io
import itertools
import json
import math
import mmap
import os
import pickle
import platform
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from asv_runner._aux import update_sys_path  # type: ignore[import-untyped]
from asv_runner.benchmarks.timeraw import TimerawBenchmark  # type: ignore[import-untyped]
from asv_runner.discovery import (  # type: ignore[import-untyped]
    disc_benchmarks,
    get_benchmark_from_name,
    list_benchmarks,
)

#: Client requests of valgrind's tool callgrind: "CT", and a number (callgrind.h).
_ZERO, _DUMP_AT, _START, _STOP = (0x43540000 + number for number in (1, 3, 4, 5))
#: ``uint64_t ask(uint64_t *arguments)`` for x86-64. Its rotations come to nothing on a processor,
#: and valgrind takes them for a request (valgrind.h, "The magic instruction sequence").
_ASK = bytes.fromhex("4889f8 31d2 48c1c703 48c1c70d 48c1c73d 48c1c733 4887db 4889d0 c3")
_VALGRIND = "valgrind --tool=callgrind --instr-atstart=no --fair-sched=yes --quiet"
#: Bodies that take longer under valgrind before it counts are not counted; a body without setup is
#: counted so often at once.
_LONGEST_S, _CALLS = 10.0, 10
#: A block may take so many times its time longer, to have the calls that a P99 needs.
_LATE = 4
#: A benchmark hangs that takes longer than this, its setup included.
_HANGS_S = 120.0
#: Imports take fifty times as long under valgrind, and as much again on a busy machine.
_START_S = 300.0
#: Prints the wall and CPU time of code in a fresh interpreter, in nanoseconds.
_RAW = """\
import sys, time
names, clocks = {}, lambda: (time.perf_counter_ns(), time.process_time_ns())
exec(sys.argv[2], names)
began = clocks()
exec(sys.argv[1], names)
print(*(end - start for start, end in zip(began, clocks())))
"""
_CACHES: dict[str, bytes] = {}


def prepared(folder: str, name: str, limit_s: float) -> Any:
    """Return a benchmark after its setup, which raises `NotImplementedError` to skip it."""
    benchmark = get_benchmark_from_name(folder, name.partition("(")[0])
    _check_origin(Path(folder).resolve())
    if inspect.iscoroutinefunction(benchmark.func):
        raise NotImplementedError("a coroutine function, which is never awaited")
    if name != benchmark.name:
        benchmark.set_param_idx(_names(benchmark).index(name))
    if (key := benchmark.setup_cache_key) is not None:
        if key not in _CACHES:
            _CACHES[key] = pickle.dumps(benchmark.do_setup_cache())
        benchmark.set_cache(pickle.loads(_CACHES[key]))  # noqa: S301 - our own
    signal.setitimer(signal.ITIMER_REAL, max(limit_s, benchmark.timeout or 0))
    if benchmark.do_setup():
        raise NotImplementedError("its setup skips it")
    return benchmark


def once(benchmark: Any, number: int = 1) -> tuple[int, int]:
    """Return the wall and CPU time of `number` calls, in nanoseconds."""
    call = partial(benchmark.func, *benchmark._build_params())
    if isinstance(benchmark, TimerawBenchmark):
        code = call()
        code = code if isinstance(code, tuple) else (code, "")
        done = subprocess.run(  # noqa: S603 - the project's benchmark
            [sys.executable, "-P", "-c", _RAW, *code], check=True, stdout=subprocess.PIPE
        )
        wall_ns, cpu_ns = map(int, done.stdout.split()[-2:])
        return wall_ns, cpu_ns
    benchmark.redo_setup()
    wall_ns, cpu_ns = time.perf_counter_ns(), time.process_time_ns()
    for _ in range(number):
        call()
    cpu_ns, wall_ns = time.process_time_ns() - cpu_ns, time.perf_counter_ns() - wall_ns
    return wall_ns, cpu_ns


def timed(folder: str, name: str, seconds: float) -> dict[str, Any]:
    """Repeat a body for about `seconds` of wall time."""
    benchmark, number = prepared(folder, name, _HANGS_S + seconds), 1
    once(benchmark)  # caches are filled
    gc.collect()
    gc.disable()
    wall_ns: list[float] = []
    cpu_ns, until = 0, time.perf_counter() + seconds
    while (over := time.perf_counter() - until) < 0 or (
        len(wall_ns) < (_CALLS if over < _LATE * seconds else 2)  # a P50 needs 20 of 12 blocks
    ):
        wall, cpu = once(benchmark, number)
        if wall < 200_000 and not benchmark._setups:
            number, wall_ns, cpu_ns = number * 2, [], 0  # too short for the clocks
        else:
            wall_ns.append(wall / number)
            cpu_ns += cpu
    gc.enable()
    benchmark.do_teardown()
    return {"wall_ns": wall_ns, "cpu_ns": cpu_ns, "count": len(wall_ns) * number}


def single(folder: str, name: str) -> dict[str, Any]:
    """Return the value of a benchmark, measured in this process, which then ends."""
    found = prepared(folder, name, _HANGS_S).do_run()
    found = statistics.median(found["samples"]) if isinstance(found, dict) else found
    if math.isinf(number := math.fsum([found])):
        raise ValueError(f"{number} is not a finite number")
    return {"value": number}


def value(folder: str, name: str) -> dict[str, Any]:
    """Measure in fresh processes, twice, or more often if the two values differ."""
    values: list[float] = []
    while len(values) < 2 or (len(set(values)) > 1 and len(values) < 5):
        answer = dict(json.loads(_run_self(folder, "single", name)))
        if "value" not in answer:
            return answer
        values.append(answer["value"])
    return {"value": statistics.median(values), "samples": values}


def counted(folder: str, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Count the instructions of bodies, in one process under valgrind."""
    here = (platform.system(), platform.machine())
    if here != ("Linux", "x86_64") or not shutil.which("valgrind"):
        return {name: {"missing": ["valgrind on Linux, x86-64"]} for name in names}
    for name in names:
        with suppress(Exception):  # once more below, where it is an answer
            # Leaves bytecode: compiling takes longer than all else under valgrind.
            get_benchmark_from_name(folder, name.partition("(")[0])
    command = ["setarch", platform.machine(), "--addr-no-randomize"]
    if not shutil.which("setarch") or subprocess.run([*command, "true"], check=False).returncode:  # noqa: S603
        command = []
    with tempfile.TemporaryDirectory(prefix="count-") as out:
        command += [*_VALGRIND.split(), f"--callgrind-out-file={out}/out"]
        kept = {key: os.environ[key] for key in ("PATH", "PYTHONPATH") if key in os.environ}
        fixed = {"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1", "LC_ALL": "C.UTF-8"}
        options = {"env": kept | fixed | {"HOME": out}, "timeout": _START_S + 60.0 * len(names)}
        answers = json.loads(_run_self(folder, "count", "", *names, command=command, **options))
        texts = [path.read_text(errors="replace") for path in Path(out).glob("out*")]
    for text in texts:
        label = re.search(r"^desc: Trigger: Client Request: (\d+)$", text, re.MULTILINE)
        if label and (total := re.search(r"^totals: (\d+)$", text, re.MULTILINE)):
            answers[["", *names][int(label[1])]]["total"] = int(total[1])
    empty = answers.pop("")["total"]
    for answer in answers.values():
        if "total" in answer:
            # What is counted of an empty body is the requests to valgrind, and the loop.
            answer["value"] = max(answer["total"] - empty, 1) / answer["calls"]
    return dict(answers)


def count(folder: str, *names: str) -> dict[str, Any]:
    """Execute bodies while callgrind counts; this process runs under valgrind."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(_ASK)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    function = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_void_p)(address)

    def ask(request: int, argument: int = 0) -> None:
        arguments = (ctypes.c_uint64 * 6)(request, argument)
        function(ctypes.addressof(arguments))

    def execute(number: int, name: str) -> dict[str, Any]:
        benchmark: Any = None
        call: Callable[[], object] = lambda: None  # noqa: E731
        if name:
            benchmark = prepared(folder, name, _START_S)
            took_s = max(once(benchmark)[0] for _ in range(2)) / 1e9  # caches are filled
            if took_s > _LONGEST_S:
                raise NotImplementedError(f"it takes {took_s:.0f} s before it is counted")
            benchmark.redo_setup()
            call = partial(benchmark.func, *benchmark._build_params())
        label = ctypes.create_string_buffer(str(number).encode())
        rounds = range(1 if benchmark and benchmark._setups else _CALLS)
        gc.collect()
        gc.disable()
        ask(_START)
        ask(_ZERO)
        for _ in rounds:
            call()
        ask(_DUMP_AT, ctypes.addressof(label))
        ask(_STOP)
        gc.enable()
        return {"calls": len(rounds)}

    return {name: _tried(execute, number, name) for number, name in enumerate(names)}


def _run_self(folder: str, *arguments: str, command: Sequence[str] = (), **options: Any) -> str:
    command = [*command, sys.executable, "-P", __file__, folder, *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, **options)  # noqa: S603
    return str(done.stdout.splitlines()[-1])


def _tried(work: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    try:
        found = work(*arguments)
        return found if found.get("value", 0) == found.get("value", 0) else {"missing": ["a value"]}
    except NotImplementedError as error:
        return {"missing": [str(error) or "it is skipped"]}
    except subprocess.TimeoutExpired as error:
        return {"late": f"not counted within {error.timeout:.0f} s: run nothing beside it"}
    except subprocess.CalledProcessError as error:
        return {"error": f"its process ended with code {error.returncode}"}
    except (Exception, SystemExit) as error:
        return {"error": f"{type(error).__name__}: {error}"}
    finally:
        signal.alarm(0)


def _hangs(*_: object) -> None:
    raise TimeoutError("it takes too long")


def main() -> None:
    """Answer one request of the command line, or those of the standard input until it ends."""
    folder, *arguments = sys.argv[1:]
    update_sys_path(folder)
    # What benchmarks print must not come between the answers, and they must not read the questions.
    questions, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    signal.signal(signal.SIGALRM, _hangs)

    def tell(found: dict[str, Any]) -> None:
        answers.write(f"{json.dumps(found)}\n")
        answers.flush()

    if arguments == ["list"]:
        tell(listed(folder))
        return
    if arguments and arguments[0] in ("count", "single"):
        work, names = (count if arguments[0] == "count" else single), arguments[1:]
        tell(_tried(work, folder, *names))
        os._exit(0)  # what an interpreter does at its end is not of interest
    if arguments:
        timed(folder, arguments[1], float(arguments[2]))
        return
    tell({})
    for line in questions:
        asked = json.loads(line)
        if "operation" in asked:
            tell(_tried(timed, folder, asked["operation"], asked["seconds"]))
        else:
            tell(_measured(folder, asked["measure"]))


def _names(benchmark: Any) -> list[str]:
    choices = [", ".join(choice) for choice in itertools.product(*benchmark.params)]
    return [f"{benchmark.name}({choice})" if choice else benchmark.name for choice in choices]


def listed(folder: str) -> dict[str, Any]:
    """Return asv's descriptions of all benchmarks, and what this program can measure of them."""
    operations: list[str] = []
    apart: dict[str, str] = {}
    for found in disc_benchmarks(folder):
        for name in _names(found):
            if found.type == "time":
                operations.append(name)
                if not isinstance(found, TimerawBenchmark):
                    apart[f"instructions({name!r})"] = "instructions"
            elif not name.startswith(("exact.", "counted.")):  # asv measures what does not scatter
                apart[f"value({name!r})"] = str(found.unit)
    _check_origin(Path(folder).resolve())
    list_benchmarks(folder, described := io.StringIO())
    return {
        "benchmarks": json.loads(described.getvalue()),
        "operations": operations,
        "apart": apart,
    }


def _measured(folder: str, series: Sequence[str]) -> dict[str, Any]:
    named = ((one, *one[:-1].split("(", 1)) for one in series)
    wanted = [(one, way == "instructions", ast.literal_eval(name)) for one, way, name in named]
    to_count = [i for _, is_count, i in wanted if is_count]
    counts = _counts(folder, to_count)
    return {one: counts[i] if is_count else _tried(value, folder, i) for one, is_count, i in wanted}


def _counts(folder: str, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    found = _tried(counted, folder, names) if names else {}
    middle = len(names) // 2
    if "error" in found and middle:  # one has ended the process of all
        return _counts(folder, names[:middle]) | _counts(folder, names[middle:])
    return {name: found.get(name, found) for name in names}


def _check_origin(folder: Path) -> None:
    """End the program if it has imported a package of the clone, not of the commit's tree."""
    tree = Path(os.environ["PYTHONPATH"].split(os.pathsep)[0]).resolve()
    clone = next((path for path in folder.parents if (path / ".git").exists()), tree)
    for file in (str(getattr(module, "__file__", "")) for module in [*sys.modules.values()]):
        theirs = file.startswith(f"{clone}/") and not file.startswith(f"{folder}/")
        if theirs and "/site-packages/" not in file and not tree.is_relative_to(clone):
            sys.exit(f"{file} was imported, which is not of the commit in {tree}")


if __name__ == "__main__":
    main()
