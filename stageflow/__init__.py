"""A small asyncio engine that runs voice and chat turns as a DAG of stages."""

from stageflow.bag import ContextBag
from stageflow.context import PipelineContext, RunStatus, StageContext
from stageflow.dispatch import EventDispatcher
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
from stageflow.events import Event, EventSink, StageStatus
from stageflow.graph import StageGraph
from stageflow.interceptors.base import Interceptor
from stageflow.interceptors.logging import LoggingInterceptor
from stageflow.interceptors.metrics import MetricsInterceptor
from stageflow.interceptors.timeout import TimeoutInterceptor
from stageflow.interceptors.tracing import TracingInterceptor
from stageflow.orchestrator import PipelineOrchestrator
from stageflow.pipeline import Pipeline
from stageflow.providers.ports import LLM, STT, TTS, Audio, Database, Message
from stageflow.providers.registry import ProviderRegistry
from stageflow.result import RunResult
from stageflow.stage import Stage, StageKind, StageOutput, StageSpec, stage
from stageflow.stream import Stream
from stageflow.subpipeline import run_child, subpipeline

__all__ = [
    "LLM",
    "STT",
    "TTS",
    "Audio",
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
    "LoggingInterceptor",
    "Message",
    "MetricsInterceptor",
    "Pipeline",
    "PipelineContext",
    "PipelineDefinitionError",
    "PipelineOrchestrator",
    "ProviderRegistry",
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
