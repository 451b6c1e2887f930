"""``stageflow worker`` and ``stageflow dispatch``: turns on many machines."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from stageflow.cli.errors import UsageError, needing
from stageflow.cli.load import DEFAULT_TEXT, load_pipeline, run_inputs
from stageflow.cli.options import (
    Commands,
    add_inputs,
    add_pipeline,
    add_scale,
    complain,
    described,
    positive,
    say,
)
from stageflow.cli.providers import own_providers
from stageflow.cli.stores import letter_store
from stageflow.cli.telemetry import add_telemetry, recorded
from stageflow.dispatch import EventDispatcher
from stageflow.dlq.store import DeadLetterStore
from stageflow.interceptors.base import Interceptor
from stageflow.interceptors.breaker import BreakerInterceptor
from stageflow.kernels.defaults import default_providers
from stageflow.orchestrator import PipelineOrchestrator
from stageflow.providers.registry import ProviderRegistry
from stageflow.telemetry.encoding import plain
from stageflow.telemetry.letters import ObservedLetterStore

if TYPE_CHECKING:
    from stageflow.cluster import RedisBroker, TurnResult

BROKER_VARIABLE = "STAGEFLOW_BROKER"

#: A worker waits for its broker for as long as anybody might take to bring it back.
_WORKER_PATIENCE_S = 86_400.0

_WORKER_EXAMPLES = """\
  stageflow worker voice chat --broker redis://localhost:6379/0
  stageflow worker shop.turns:order --broker redis://broker/0 --providers shop.services:real
  stageflow worker shop.turns:draw --queue gpu --concurrency 2 --dlq postgresql://db/letters
  STAGEFLOW_BROKER=redis://broker/0 stageflow worker voice --breakers --telemetry runs.db
"""
_DISPATCH_EXAMPLES = """\
  stageflow dispatch voice --broker redis://localhost:6379/0 --text "What is the time?"
  stageflow dispatch shop.turns:order --input items='["tea"]' --key order-17 --deadline-s 30
  stageflow dispatch shop.turns:draw --queue gpu --json
"""


def add_commands(commands: Commands) -> None:
    """Add the commands ``worker`` and ``dispatch``."""
    worker = described(
        commands, "worker", "run turns that a dispatcher sends over a broker", _WORKER_EXAMPLES
    )
    worker.add_argument(
        "pipelines",
        nargs="+",
        metavar="PIPELINE",
        help="voice, chat, or module:attribute of a Pipeline (or of a function that returns one)",
    )
    _add_broker(worker)
    worker.add_argument(
        "--queue",
        action="append",
        dest="queues",
        metavar="NAME",
        help="a queue to read, such as gpu; may be repeated (default: default)",
    )
    worker.add_argument(
        "--concurrency", type=int, default=16, metavar="N", help="turns at once (default: 16)"
    )
    worker.add_argument(
        "--providers",
        metavar="NAME",
        help="module:attribute of a ProviderRegistry, or of a function that returns one"
        " (default: fakes)",
    )
    add_scale(worker)
    worker.add_argument(
        "--dlq",
        metavar="STORE",
        help="keep turns that fail for good: a SQLite file, or postgresql://user@host/database",
    )
    worker.add_argument(
        "--breakers",
        action="store_true",
        help="put circuit breakers around providers, shared with all workers of the broker",
    )
    worker.add_argument(
        "--lease-s",
        type=positive,
        default=10.0,
        metavar="S",
        help="others take its turns over after so many silent seconds (default: 10)",
    )
    worker.add_argument(
        "--drain-s",
        type=positive,
        default=20.0,
        metavar="S",
        help="how long turns may go on after SIGTERM, in seconds (default: 20)",
    )
    add_telemetry(worker)
    worker.set_defaults(run=_worker)
    _add_dispatch(commands)


def _add_dispatch(commands: Commands) -> None:
    dispatch = described(
        commands, "dispatch", "have a worker run a turn, and print its outcome", _DISPATCH_EXAMPLES
    )
    add_pipeline(dispatch)
    _add_broker(dispatch)
    dispatch.add_argument("--text", help=f"what the user says (default: {DEFAULT_TEXT})")
    add_inputs(dispatch)
    dispatch.add_argument("--queue", default="default", metavar="NAME", help="default: default")
    dispatch.add_argument(
        "--key", help="idempotency key: sent again under it, the turn does not run again"
    )
    dispatch.add_argument(
        "--deadline-s", type=positive, metavar="S", help="fail the turn after so many seconds"
    )
    dispatch.add_argument("--json", action="store_true", help="print the result as JSON instead")
    dispatch.set_defaults(run=_dispatch)


def _add_broker(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--broker",
        default=os.environ.get(BROKER_VARIABLE),
        metavar="URL",
        help=f"redis://host:port/0 or unix:///path (default: ${BROKER_VARIABLE})",
    )
    parser.add_argument(
        "--namespace",
        default="stageflow",
        metavar="NAME",
        help="which of the clusters on that server (default: stageflow)",
    )


def _broker(arguments: argparse.Namespace, patience_s: float) -> RedisBroker:
    if arguments.broker is None:
        raise UsageError(f"which broker? give --broker URL or set {BROKER_VARIABLE}")
    with needing("cluster"):
        from stageflow.cluster import RedisBroker  # noqa: PLC0415 - an extra
    return RedisBroker(arguments.broker, namespace=arguments.namespace, patience_s=patience_s)


# ── the worker ──────────────────────────────────────────────────────────────────────────────


def _worker(arguments: argparse.Namespace) -> int:
    broker = _broker(arguments, _WORKER_PATIENCE_S)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    pipelines = [load_pipeline(name) for name in arguments.pipelines]
    if arguments.providers is None:
        providers = default_providers(scale=arguments.scale)
    else:
        providers = own_providers(arguments.providers)
    with recorded(arguments.telemetry) as dispatcher:
        asyncio.run(_serve(broker, pipelines, providers, dispatcher, arguments))
    return 0


async def _serve(
    broker: RedisBroker,
    pipelines: list[Any],
    providers: ProviderRegistry,
    dispatcher: EventDispatcher,
    arguments: argparse.Namespace,
) -> None:
    from stageflow.cluster import SharedBreakers, Worker  # noqa: PLC0415 - an extra

    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with AsyncExitStack() as open_things:
        await open_things.enter_async_context(broker)
        interceptors: list[Interceptor] = []
        if arguments.breakers:
            shared = SharedBreakers(arguments.broker, namespace=arguments.namespace)
            interceptors = [BreakerInterceptor(await open_things.enter_async_context(shared))]
        letters: DeadLetterStore | None = None
        if arguments.dlq is not None:
            store = await open_things.enter_async_context(letter_store(arguments.dlq))
            letters = ObservedLetterStore(store, dispatcher)
        worker = Worker(
            [
                PipelineOrchestrator(
                    pipeline.build(), interceptors=interceptors, dispatcher=dispatcher
                )
                for pipeline in pipelines
            ],
            broker,
            queues=arguments.queues or ["default"],
            concurrency=arguments.concurrency,
            providers=providers,
            dead_letters=letters,
            lease_s=arguments.lease_s,
            drain_s=arguments.drain_s,
        )
        await broker.warn_unless_durable()
        names = ", ".join(pipeline.name for pipeline in pipelines)
        complain(f"worker {worker.name} serves {names} at {broker.where}; SIGTERM ends it")
        await worker.serve(stop)
        complain(f"worker {worker.name} has ended")


# ── the dispatcher ──────────────────────────────────────────────────────────────────────────


def _dispatch(arguments: argparse.Namespace) -> int:
    pipeline = load_pipeline(arguments.pipeline)
    broker = _broker(arguments, 10.0)
    inputs = run_inputs(pipeline, arguments.text, arguments.user, arguments.input)
    result = asyncio.run(_sent(broker, pipeline.name, inputs, arguments))
    if arguments.json:
        say(json.dumps(_as_json(result), indent=2, ensure_ascii=False))
    elif "answer" in result.outputs:
        say(str(result.outputs["answer"]))
    else:
        for key, value in result.outputs.items():
            say(f"{key}: {value}")
    if not arguments.json:
        took = f"{result.duration_ms:.0f} ms on {result.worker}" if result.worker else "not run"
        complain(f"turn {result.key}: {result.status}, {took}")
    if result.failure is not None:
        complain(f"error: {result.failure}")
    return 0 if result.failure is None else 1


async def _sent(
    broker: RedisBroker, pipeline: str, inputs: dict[str, Any], arguments: argparse.Namespace
) -> TurnResult:
    from stageflow.cluster import Dispatcher  # noqa: PLC0415 - an extra

    async with broker, Dispatcher(broker) as dispatcher:
        return await dispatcher.run(
            pipeline,
            inputs,
            key=arguments.key,
            queue=arguments.queue,
            deadline_s=arguments.deadline_s,
        )


def _as_json(result: TurnResult) -> dict[str, Any]:
    failure = result.failure
    return {
        "key": result.key,
        "pipeline": result.pipeline,
        "pipeline_run_id": result.pipeline_run_id,
        "status": str(result.status),
        "duration_ms": result.duration_ms,
        "worker": result.worker,
        "deliveries": result.deliveries,
        "outputs": plain(dict(result.outputs)),
        "error": None if failure is None else str(failure),
        "error_code": None if failure is None else failure.code,
        "dead_letter": result.dead_letter,
    }
