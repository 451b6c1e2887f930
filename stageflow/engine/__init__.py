"""The engine: stages, pipelines, graphs, and the runs that execute them."""

# ruff: noqa: F403, F405 - the list below says which names are public

from stageflow.engine.bag import *
from stageflow.engine.context import *
from stageflow.engine.dead_letter import *
from stageflow.engine.graph import *
from stageflow.engine.interceptor import *
from stageflow.engine.orchestrator import *
from stageflow.engine.pipeline import *
from stageflow.engine.result import *
from stageflow.engine.stage import *
from stageflow.engine.stage_context import *
from stageflow.engine.stream import *

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
