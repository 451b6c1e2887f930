"""Run jobs on many machines: dispatchers send them over a broker to workers (extra ``cluster``)."""

from stageflow.cluster.breakers import SharedBreakers
from stageflow.cluster.broker import Address, BrokerUnavailableError, ClusterError, Envelope
from stageflow.cluster.dispatcher import Dispatcher, remote_pipeline
from stageflow.cluster.job import Job, JobResult
from stageflow.cluster.redis_broker import RedisBroker
from stageflow.cluster.worker import Worker

__all__ = [
    "Address",
    "BrokerUnavailableError",
    "ClusterError",
    "Dispatcher",
    "Envelope",
    "Job",
    "JobResult",
    "RedisBroker",
    "SharedBreakers",
    "Worker",
    "remote_pipeline",
]
