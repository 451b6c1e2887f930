"""``stageflow worker`` and ``stageflow dispatch``: jobs on many machines."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

from stageflow._utils.arguments import flag, option, positive
from stageflow._utils.tasks import cancel_all
from stageflow._utils.text import printable, printable_lines
from stageflow.cli import common
from stageflow.cli import providers as wiring
from stageflow.cli.common import complain, say
from stageflow.cli.providers import DEFAULT_TEXT, load_pipeline
from stageflow.cli.run import say_outputs
from stageflow.cli.stores import add_dead_letters, add_telemetry, letter_store, recorded
from stageflow.dlq.store import DeadLetterStore
from stageflow.engine import Interceptor, PipelineOrchestrator, StageGraph
from stageflow.events.dispatcher import EventDispatcher
from stageflow.interceptors.breaker import BreakerInterceptor
from stageflow.providers.registry import ProviderRegistry
from stageflow.telemetry.dead_letters import ObservedDeadLetterStore
from stageflow.telemetry.jsonl import plain

if TYPE_CHECKING:
    from stageflow.cluster import JobResult, RedisBroker

BROKER_VARIABLE = "STAGEFLOW_BROKER"
#: A worker waits for an unreachable broker for a day.
_WORKER_PATIENCE_S = 86_400.0


def configure_worker(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``stageflow worker``."""
    common.add_pipeline(parser, "pipelines", nargs="+")
    _add_broker(parser)
    text = "read this queue, such as gpu; may be repeated (default: default)"
    option(parser, "--queue NAME", text, action="append", dest="queues")
    text = "run N jobs at once (default: 16)"
    option(parser, "--concurrency N", text, type=int, default=16)
    common.add_own_providers(parser)
    common.add_scale(parser)
    add_dead_letters(parser, "a failed job")
    text = "put circuit breakers around providers, shared by all workers of the broker"
    flag(parser, "--breakers", text)
    text = "other workers reclaim a job after S seconds without a renewal (default: 10)"
    option(parser, "--lease-s S", text, type=positive, default=10.0)
    text = "after SIGTERM, let jobs continue for S seconds (default: 20)"
    option(parser, "--drain-s S", text, type=positive, default=20.0)
    add_telemetry(parser)
    parser.set_defaults(run=_worker)


def configure_dispatch(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``stageflow dispatch``."""
    common.add_pipeline(parser)
    _add_broker(parser)
    option(parser, "--text", f"the user's text (default: {DEFAULT_TEXT})")
    wiring.add_inputs(parser)
    option(parser, "--queue NAME", "the queue to send to (default: default)", default="default")
    option(parser, "--key", "idempotency key: a job that is sent again does not run again")
    option(parser, "--deadline-s S", "fail the job after S seconds", type=positive)
    common.add_json(parser)
    parser.set_defaults(run=_dispatch)


def _add_broker(parser: argparse.ArgumentParser) -> None:
    text = f"redis://host:port/0, or see the guide (default: the variable {BROKER_VARIABLE})"
    option(parser, "--broker URL", text, default=os.environ.get(BROKER_VARIABLE))
    text = "prefix of all keys, one per cluster (default: stageflow)"
    option(parser, "--namespace NAME", text, default="stageflow")


def _broker(arguments: argparse.Namespace, patience_s: float) -> RedisBroker:
    if arguments.broker is None:
        raise common.UsageError(f"no broker is given: add --broker URL or set {BROKER_VARIABLE}")
    with common.needing("cluster"):
        from stageflow.cluster import RedisBroker  # noqa: PLC0415 - an extra
    return RedisBroker(arguments.broker, namespace=arguments.namespace, patience_s=patience_s)


class LogFormatter(logging.Formatter):
    """Formats records on one line each, tracebacks apart, without control characters."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: D102, N802
        return printable(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: D102, N802
        return printable_lines(super().formatException(ei))


def _worker(arguments: argparse.Namespace) -> None:
    broker = _broker(arguments, _WORKER_PATIENCE_S)
    handler = logging.StreamHandler()
    handler.setFormatter(LogFormatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    graphs = [load_pipeline(name).build() for name in arguments.pipelines]
    providers = wiring.chosen_providers(arguments)
    with recorded(arguments.telemetry) as dispatcher:
        asyncio.run(_serve(broker, graphs, providers, dispatcher, arguments))


async def _serve(
    broker: RedisBroker,
    graphs: list[StageGraph],
    providers: ProviderRegistry,
    dispatcher: EventDispatcher,
    arguments: argparse.Namespace,
) -> None:
    from stageflow.cluster import SharedBreakers, Worker  # noqa: PLC0415 - an extra

    stop, loop = asyncio.Event(), asyncio.get_running_loop()

    def end(number: signal.Signals) -> None:
        stop.set()
        loop.remove_signal_handler(number)
        signal.signal(number, signal.SIG_DFL)  # sent again, it ends the process at once

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end, number)
    async with AsyncExitStack() as opened:
        await opened.enter_async_context(broker)
        interceptors: list[Interceptor] = []
        if arguments.breakers:
            shared = SharedBreakers(arguments.broker, namespace=arguments.namespace)
            interceptors = [BreakerInterceptor(await opened.enter_async_context(shared))]
        letters: DeadLetterStore | None = None
        if arguments.dlq is not None:
            store = await opened.enter_async_context(letter_store(arguments.dlq))
            letters = ObservedDeadLetterStore(store, dispatcher)
        serving = partial(PipelineOrchestrator, interceptors=interceptors, dispatcher=dispatcher)
        names = ("concurrency", "lease_s", "drain_s")
        worker = Worker(
            [serving(graph) for graph in graphs],
            broker,
            queues=arguments.queues or ["default"],
            providers=providers,
            dead_letters=letters,
            **{name: getattr(arguments, name) for name in names},
        )
        # Beside the worker: a broker that is away does not keep it from ending.
        warning = asyncio.create_task(broker.warn_unless_durable())
        opened.push_async_callback(cancel_all, [warning])
        served = ", ".join(graph.name for graph in graphs)
        complain(f"worker {worker.name} serves {served} at {broker.where}; stop it with Ctrl-C")
        await worker.serve(stop)
        complain(f"worker {worker.name} has ended")


def _dispatch(arguments: argparse.Namespace) -> int:
    pipeline = load_pipeline(arguments.pipeline)
    broker = _broker(arguments, 10.0)
    inputs = wiring.run_inputs(pipeline, arguments.text, arguments.user, arguments.input)
    result = asyncio.run(_sent(broker, pipeline.name, inputs, arguments))
    failure = result.failure
    if arguments.json:
        names = ("key", "pipeline", "pipeline_run_id", "duration_ms", "worker", "deliveries")
        more = {
            "status": str(result.status),
            "outputs": plain(dict(result.outputs)),
            "error": None if failure is None else str(failure),
            "error_code": None if failure is None else failure.code,
            "user_message": result.user_message,
            "dead_letter": result.dead_letter,
        }
        common.say_json({name: getattr(result, name) for name in names} | more)
    else:
        if result.refusal is None:
            say_outputs(result.outputs)
        else:
            say(printable_lines(result.refusal))
        took = f"{result.duration_ms:.0f} ms on {result.worker}" if result.worker else "not run"
        complain(f"job {result.key}: {result.status}, {took}")
    if failure is not None:
        complain(f"error: {failure}")
    return 0 if failure is None else 1


async def _sent(
    broker: RedisBroker, pipeline: str, inputs: dict[str, Any], arguments: argparse.Namespace
) -> JobResult:
    from stageflow.cluster import Dispatcher  # noqa: PLC0415 - an extra

    options = {name: getattr(arguments, name) for name in ("key", "queue", "deadline_s")}
    async with broker, Dispatcher(broker) as dispatcher:
        return await dispatcher.run(pipeline, inputs, **options)
