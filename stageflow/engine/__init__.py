"""The engine: stages, pipelines, graphs, and the runs that execute them."""

from stageflow.engine.bag import ContextBag
from stageflow.engine.context import PipelineContext, RunScope, RunStatus
from stageflow.engine.dead_letter import (
    DeadLetter,
    DeadLetterSink,
    DeadLetterState,
    FailureRecord,
    StageRecord,
    Unstorable,
)
from stageflow.engine.graph import StageGraph
from stageflow.engine.interceptor import CallNext, Interceptor
from stageflow.engine.orchestrator import PipelineOrchestrator, RunHandle
from stageflow.engine.pipeline import BoundStage, Pipeline
from stageflow.engine.result import RunResult, StageResult
from stageflow.engine.stage import (
    Condition,
    Executable,
    FunctionStage,
    Stage,
    StageFunction,
    StageKind,
    StageOutput,
    StageSpec,
)
from stageflow.engine.stage_context import StageContext
from stageflow.engine.stream import Stream, StreamReader, StreamWriter
from stageflow.engine.subpipeline import run_child, subpipeline

__all__ = [
    "BoundStage",
    "CallNext",
    "Condition",
    "ContextBag",
    "DeadLetter",
    "DeadLetterSink",
    "DeadLetterState",
    "Executable",
    "FailureRecord",
    "FunctionStage",
    "Interceptor",
    "Pipeline",
    "PipelineContext",
    "PipelineOrchestrator",
    "RunHandle",
    "RunResult",
    "RunScope",
    "RunStatus",
    "Stage",
    "StageContext",
    "StageFunction",
    "StageGraph",
    "StageKind",
    "StageOutput",
    "StageRecord",
    "StageResult",
    "StageSpec",
    "Stream",
    "StreamReader",
    "StreamWriter",
    "Unstorable",
    "run_child",
    "subpipeline",
]
