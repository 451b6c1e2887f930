"""Turns on many machines: dispatchers send them over a broker to workers (extra ``cluster``)."""

from stageflow.cluster.breakers import SharedBreakers
from stageflow.cluster.dispatcher import Dispatcher
from stageflow.cluster.redis_broker import RedisBroker
from stageflow.cluster.remote import remote_pipeline
from stageflow.cluster.turn import Turn, TurnResult
from stageflow.cluster.worker import Worker

__all__ = [
    "Dispatcher",
    "RedisBroker",
    "SharedBreakers",
    "Turn",
    "TurnResult",
    "Worker",
    "remote_pipeline",
]
