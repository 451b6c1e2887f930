"""A small asyncio engine that runs voice and chat turns as a DAG of stages."""

from typing import TYPE_CHECKING

from stageflow._utils.lazy import lazy_names
from stageflow.decorator import stage
from stageflow.engine.bag import ContextBag
from stageflow.engine.context import PipelineContext, RunStatus
from stageflow.engine.graph import StageGraph
from stageflow.engine.interceptor import Interceptor
from stageflow.engine.orchestrator import PipelineOrchestrator
from stageflow.engine.pipeline import Pipeline, run_child, subpipeline
from stageflow.engine.result import RunResult
from stageflow.engine.stage import Stage, StageKind, StageOutput, StageSpec
from stageflow.engine.stage_context import StageContext
from stageflow.engine.stream import Stream
from stageflow.errors import (
    ChildRunError,
    ComposeConflictError,
    DataConflictError,
    ErrorCategory,
    PipelineDefinitionError,
    StageError,
    StageflowError,
    StageTimeoutError,
)
from stageflow.events.dispatcher import EventDispatcher
from stageflow.events.log import Event, EventSink, StageStatus
from stageflow.providers.ports import LLM, STT, TTS, Audio, Database, Message
from stageflow.providers.registry import ProviderRegistry

if TYPE_CHECKING:
    from stageflow.interceptors.breaker import BreakerInterceptor
    from stageflow.interceptors.retry import RetryInterceptor
    from stageflow.interceptors.timeout import TimeoutInterceptor
    from stageflow.interceptors.tracing import TracingInterceptor
    from stageflow.resilience import BreakerPolicy, RetryPolicy

__all__ = [
    "LLM",
    "STT",
    "TTS",
    "Audio",
    "BreakerInterceptor",
    "BreakerPolicy",
    "ChildRunError",
    "ComposeConflictError",
    "ContextBag",
    "DataConflictError",
    "Database",
    "ErrorCategory",
    "Event",
    "EventDispatcher",
    "EventSink",
    "Interceptor",
    "Message",
    "Pipeline",
    "PipelineContext",
    "PipelineDefinitionError",
    "PipelineOrchestrator",
    "ProviderRegistry",
    "RetryInterceptor",
    "RetryPolicy",
    "RunResult",
    "RunStatus",
    "Stage",
    "StageContext",
    "StageError",
    "StageGraph",
    "StageKind",
    "StageOutput",
    "StageSpec",
    "StageStatus",
    "StageTimeoutError",
    "StageflowError",
    "Stream",
    "TimeoutInterceptor",
    "TracingInterceptor",
    "run_child",
    "stage",
    "subpipeline",
]

__version__ = "0.1.0"

__getattr__, __dir__ = lazy_names(
    __name__,
    """
    interceptors: BreakerInterceptor RetryInterceptor TimeoutInterceptor TracingInterceptor
    resilience: BreakerPolicy RetryPolicy
    """,
)
