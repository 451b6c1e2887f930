"""Compare stageflow with other engines that run a graph of async steps, on the same graphs.

All engines run each graph in turn in every round; a row shows each round's own ratio. Each engine
is used as its documentation shows: a step for each stage, an edge for each dependency, built once,
then run; no persistence, no tracing. With --install, the others are installed into .asv/engines,
an environment of their own, and everything runs there.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import importlib.metadata
import inspect
import json
import logging
import os
import platform
import re
import subprocess
import sys
import time
import venv
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import stageflow as sf
from benchmarks._lib.interleaved import Spread, Work, interleaved, spread
from benchmarks._lib.workloads import SHAPES, Shape, layered, output_of

ROOT = Path(__file__).parents[1]
PROGRAMS = ROOT / "docs" / "comparison-programs.md"
REQUIREMENTS = Path(__file__).with_suffix(".txt")
ENVIRONMENT = ROOT / ".asv" / "engines"
GRAPHS = ("chain of 10", "fan 1+10+1", "layered 10x10")
ROUNDS = 15
#: About how many stages run between two readings of the clock.
STAGES_A_BATCH = 200
#: A stage that fails leaves another one that would go on for so long.
SIBLING_S = 2.0

#: What a stage does.
Step = Callable[[str], Awaitable[None]]
#: One run of a graph that is built.
Once = Callable[[], Awaitable[Any]]
#: Builds a graph whose stages all do the step.
Engine = Callable[[Shape, Step], Once]


# ── the engines ─────────────────────────────────────────────────────────────────────────────


def stageflow(shape: Shape, step: Step) -> Once:
    """A `sf.StageSpec` for each stage."""

    def spec(name: str, waits_for: tuple[str, ...]) -> sf.StageSpec:
        async def execute(ctx: sf.StageContext) -> sf.StageOutput:
            await step(name)
            return sf.StageOutput.ok({output_of(name): name})

        return sf.StageSpec(
            name,
            execute,
            dependencies=waits_for,
            inputs=tuple(map(output_of, waits_for)),
            outputs=(output_of(name),),
        )

    pipeline = sf.Pipeline("bench", [spec(*item) for item in shape.dependencies.items()])
    built = sf.PipelineOrchestrator(pipeline.build())

    async def once() -> None:
        result = await built.run(sf.PipelineContext())
        if result.failure is not None:
            raise RuntimeError(result.error)

    return once


def langgraph(shape: Shape, step: Step) -> Once:
    """A node for each stage, and a key of the state for each output."""
    graphs = importlib.import_module("langgraph.graph")

    def node(name: str) -> Callable[[Any], Awaitable[Mapping[str, str]]]:
        async def run(state: Mapping[str, str]) -> Mapping[str, str]:
            await step(name)
            return {output_of(name): name}

        return run

    keys = {output_of(name): str for name in shape.names} | {"begun": str}
    # Made while it runs, since its keys are the stages.
    state = importlib.import_module("typing").TypedDict("State", keys, total=False)
    graph = graphs.StateGraph(state)
    for name, waits_for in shape.dependencies.items():
        graph.add_node(name, node(name))
        graph.add_edge(list(waits_for) if waits_for else graphs.START, name)
    for name in shape.layers[-1]:
        graph.add_edge(name, graphs.END)
    compiled = graph.compile()
    settings = {"recursion_limit": len(shape) + 1}
    return lambda: compiled.ainvoke({"begun": "yes"}, settings)


def hamilton(shape: Shape, step: Step) -> Once:
    """A function for each stage; its parameters name those that it waits for."""
    drivers = importlib.import_module("hamilton.async_driver")
    modules = importlib.import_module("hamilton.ad_hoc_utils")

    def function(name: str, waits_for: tuple[str, ...]) -> Callable[..., Awaitable[str]]:
        async def run(**inputs: str) -> str:
            await step(name)
            return name

        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        parameters = [inspect.Parameter(other, kind, annotation=str) for other in waits_for]
        run.__name__ = name
        run.__annotations__ = dict.fromkeys(waits_for, str) | {"return": str}
        run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            parameters, return_annotation=str
        )
        return run

    # No name may begin with an underscore; the driver looks functions up by module.
    module = modules.create_temporary_module(
        *(function(*item) for item in shape.dependencies.items())
    )
    driver = drivers.AsyncDriver({}, module, result_builder=None)
    wanted = list(shape.layers[-1])
    return lambda: driver.raw_execute(wanted)


def haystack(shape: Shape, step: Step) -> Once:
    """A component for each stage, connected to those that it waits for."""
    library = importlib.import_module("haystack")

    class Stage:
        def __init__(self, name: str, waits_for: tuple[str, ...]) -> None:
            self.name = name
            library.component.set_input_types(self, **dict.fromkeys(waits_for or ("begun",), str))

        def run(self, **inputs: str) -> Mapping[str, str]:
            raise NotImplementedError("only run_async is called")

        async def run_async(self, **inputs: str) -> Mapping[str, str]:
            await step(self.name)
            return {"out": self.name}

    output = library.component.output_types(out=str)
    Stage.run, Stage.run_async = output(Stage.run), output(Stage.run_async)  # type: ignore[method-assign]
    component = library.component(Stage)
    pipeline = library.Pipeline()
    for name, waits_for in shape.dependencies.items():
        pipeline.add_component(name, component(name, waits_for))
        for other in waits_for:
            pipeline.connect(f"{other}.out", f"{name}.{other}")
    inputs = {name: {"begun": "yes"} for name in shape.layers[0]}
    return lambda: pipeline.run_async(inputs, concurrency_limit=len(shape))


#: By the name of the package that each is of.
ENGINES: Mapping[str, Engine] = {
    "stageflow": stageflow,
    "langgraph": langgraph,
    "sf-hamilton": hamilton,
    "haystack-ai": haystack,
}


# ── what is asked of them ───────────────────────────────────────────────────────────────────


async def suspend(name: str) -> None:
    """A stage that lets the loop turn once, as one does that waits for an answer."""
    await asyncio.sleep(0)


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of a graph with one engine.

    Attributes:
        graph: Its name.
        stage_us: CPU time a stage, in microseconds.
        ratio: As a multiple of stageflow's, round by round.
    """

    graph: str
    stage_us: Spread
    ratio: Spread


def costs(graph: str, engines: Sequence[str], rounds: int) -> dict[str, Cost]:
    """Time a graph with every engine in turn, in CPU time; by engine."""
    shape = SHAPES[graph]
    times = max(1, STAGES_A_BATCH // len(shape))
    with asyncio.Runner() as runner:

        def work(engine: str) -> Work:
            runner.run(_check(engine, shape))
            once = ENGINES[engine](shape, suspend)

            async def batch() -> None:
                for _ in range(times):
                    await once()

            return lambda: runner.run(batch())

        rows = list(interleaved([work(engine) for engine in engines], rounds))
    stages = times * len(shape)
    return {
        engine: Cost(
            graph,
            spread([row[place] / stages * 1e6 for row in rows]),
            spread([row[place] / row[0] for row in rows]),
        )
        for place, engine in enumerate(engines)
    }


async def _check(engine: str, shape: Shape) -> None:
    """See that a run of an engine runs each stage once, after all that it depends on."""
    ran: list[str] = []

    async def note(name: str) -> None:
        await asyncio.sleep(0)
        ran.append(name)

    await ENGINES[engine](shape, note)()
    early = [
        name for at, name in enumerate(ran) if not set(shape.dependencies[name]) <= {*ran[:at]}
    ]
    if early or sorted(ran) != sorted(shape.names):
        raise RuntimeError(f"{engine} ran {ran}; too early: {early}")


#: Two branches of two stages; one is slow at first, the other in the end.
BRANCHES = Shape(
    (("a1", "b1"), ("a2", "b2"), ("end",)),
    {"a1": (), "b1": (), "a2": ("a1",), "b2": ("b1",), "end": ("a2", "b2")},
)
BRANCHES_S = {"a1": 0.3, "b1": 0.1, "a2": 0.1, "b2": 0.3, "end": 0.0}
#: What waits for nothing but its own dependencies takes so long; with a barrier after each layer
#: it is 0.6 s.
CRITICAL_PATH_S = 0.4


def waiting_ratio(engine: str) -> float:
    """How long two uneven branches take, as a multiple of their critical path."""

    async def step(name: str) -> None:
        await asyncio.sleep(BRANCHES_S[name])

    return _elapsed_s(ENGINES[engine](BRANCHES, step)) / CRITICAL_PATH_S


def failure_leaves(engine: str) -> tuple[bool, bool]:
    """Return the work that is left when one of two stages fails at once and the other goes on.

    Returns:
        Whether the run ends before the other stage would have, and whether that one was cancelled
        by then: if not, it goes on behind the caller's back.
    """
    shape = layered([2, 1])
    failing, other = shape.layers[0]
    cancelled = False

    async def step(name: str) -> None:
        nonlocal cancelled
        if name == failing:
            await asyncio.sleep(0)
            raise ValueError("planted")
        if name == other:
            try:
                await asyncio.sleep(SIBLING_S)
            except asyncio.CancelledError:
                cancelled = True
                raise

    async def ended() -> tuple[bool, bool]:
        began = time.monotonic()
        logging.disable()  # some engines print what failed, too
        try:
            await ENGINES[engine](shape, step)()
        except Exception:  # each engine has its own
            await asyncio.sleep(0)
            return time.monotonic() - began < SIBLING_S / 2, cancelled
        finally:
            logging.disable(logging.NOTSET)
        raise RuntimeError(f"{engine} did not tell of the failure")

    return asyncio.run(ended())


def _elapsed_s(once: Once) -> float:
    async def timed() -> float:
        await once()
        began = time.monotonic()
        await once()
        return time.monotonic() - began

    return asyncio.run(timed())


# ── the same pipelines, written with each ───────────────────────────────────────────────────


def programs() -> dict[str, dict[str, str]]:
    """Return the programs of docs/comparison-programs.md, by pipeline and engine."""
    found: dict[str, dict[str, str]] = {}
    listing = r"^```python\n# ([\w-]+): ([\w-]+)\n(.*?)^```$"
    text = PROGRAMS.read_text(encoding="utf-8")
    for pipeline, engine, code in re.findall(listing, text, re.DOTALL | re.MULTILINE):
        found.setdefault(pipeline, {})[engine] = code
    return found


def check_programs(engines: Sequence[str]) -> None:
    """Run the programs; raise if one prints something else than stageflow's."""
    for pipeline, written in programs().items():
        printed = {
            engine: subprocess.run(
                [sys.executable, "-c", written[engine]], check=True, capture_output=True, text=True
            ).stdout
            for engine in engines
        }
        if len(set(printed.values())) > 1:
            raise RuntimeError(f"the programs of {pipeline} differ: {printed}")


def line_counts() -> str:
    """Return a Markdown table: the lines of each program that are not empty."""
    rows = [["pipeline", *ENGINES], ["---"] * (len(ENGINES) + 1)]
    for pipeline, written in programs().items():
        codes = (written[engine].splitlines() for engine in ENGINES)
        rows.append([pipeline, *(str(sum(map(bool, code))) for code in codes)])
    return _markdown(rows)


# ── the report ──────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Report:
    """The findings about one engine.

    Attributes:
        engine: Name of its package.
        version: Which one was measured.
        costs: What each graph cost.
        waiting: See `waiting_ratio`.
        ends_at_once: Whether a failure ends the run before a stage that would go on.
        cancels: Whether that stage has been cancelled then.
    """

    engine: str
    version: str
    costs: list[Cost]
    waiting: float
    ends_at_once: bool
    cancels: bool


def measure(engines: Sequence[str], rounds: int, emit: Callable[[str], None]) -> list[Report]:
    """Ask everything of every engine; the first one is what the others are set beside."""
    found: dict[str, list[Cost]] = {engine: [] for engine in engines}
    for number, graph in enumerate(GRAPHS, start=1):
        emit(f"[{number}/{len(GRAPHS)}] {graph}, {rounds} rounds of {len(engines)} engines …")
        for engine, cost in costs(graph, engines, rounds).items():
            found[engine].append(cost)
    reports = []
    for engine in engines:
        emit(f"{engine}: what waits for what, and what a failure leaves …")
        ends, cancels = failure_leaves(engine)
        version = sf.__version__ if engine == "stageflow" else importlib.metadata.version(engine)
        reports.append(Report(engine, version, found[engine], waiting_ratio(engine), ends, cancels))
    return reports


def table(reports: Sequence[Report]) -> str:
    """The reports as a Markdown table: a row an engine."""
    head = ["engine", *(f"{graph}: µs a stage" for graph in GRAPHS)]
    head += [
        "beside stageflow",
        "uneven branches",
        "a failure ends the run",
        "and cancels the rest",
    ]
    rows = [head, ["---"] * len(head)]
    for report in reports:
        times = [f"{cost.stage_us.median:.0f}" for cost in report.costs]
        ratios = [cost.ratio.median for cost in report.costs]
        rows.append(
            [
                f"{report.engine} {report.version}",
                *times,
                f"{min(ratios):.1f} to {max(ratios):.1f} times",
                f"{report.waiting:.2f} of the critical path",
                *("yes" if held else "no" for held in (report.ends_at_once, report.cancels)),
            ]
        )
    return _markdown(rows)


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and report; returns 0, or 2 if an engine is not installed."""
    parser = argparse.ArgumentParser("python -m tools.compare_engines", description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="(default: %(default)s)")
    parser.add_argument(
        "--only", nargs="+", choices=ENGINES, default=list(ENGINES), help="engines to measure"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--install", action="store_true", help="install the other engines first")
    options = parser.parse_args(arguments)
    if options.install:
        return _installed_run(options)
    engines = list(dict.fromkeys(["stageflow", *options.only]))
    missing = [engine for engine in engines[1:] if not _installed(engine)]
    if missing:
        sys.stderr.write(f"not installed: {', '.join(missing)}; add --install\n")
        return 2
    say = _say
    say(f"{platform.python_implementation()} {platform.python_version()}")
    check_programs(engines)
    reports = measure(engines, options.rounds, say)
    if options.json:
        shown = json.dumps(list(map(asdict, reports)), indent=2)
    else:
        shown = f"{table(reports)}\n\n{line_counts()}"
    sys.stdout.write(f"{shown}\n")
    return 0


def _installed_run(options: argparse.Namespace) -> int:
    """Install the engines into an environment of their own, and compare them there."""
    _say(f"Installing the engines into {ENVIRONMENT}: some minutes, once")
    venv.create(ENVIRONMENT, with_pip=True)
    python = str(ENVIRONMENT / "bin" / "python")
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--editable", str(ROOT), "--requirement", str(REQUIREMENTS)], check=True)
    again = [python, "-m", "tools.compare_engines", "--rounds", str(options.rounds)]
    again += ["--only", *options.only, *(["--json"] if options.json else [])]
    quiet = {"HAYSTACK_TELEMETRY_ENABLED": "False", "HAMILTON_TELEMETRY_ENABLED": "false"}
    return subprocess.run(again, cwd=ROOT, env=os.environ | quiet, check=False).returncode


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def _installed(engine: str) -> bool:
    try:
        importlib.metadata.version(engine)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
