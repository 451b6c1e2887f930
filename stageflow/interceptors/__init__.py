"""Middleware around stages; one module an interceptor."""

from stageflow.interceptors.base import CallNext, Interceptor
from stageflow.interceptors.breaker import BreakerInterceptor
from stageflow.interceptors.logging import LoggingInterceptor
from stageflow.interceptors.metrics import InMemoryMetrics, Metrics, MetricsInterceptor
from stageflow.interceptors.retry import RetryInterceptor, RetryPolicy
from stageflow.interceptors.timeout import TimeoutInterceptor
from stageflow.interceptors.tracing import InMemoryTracer, Tracer, TracingInterceptor

__all__ = [
    "BreakerInterceptor",
    "CallNext",
    "InMemoryMetrics",
    "InMemoryTracer",
    "Interceptor",
    "LoggingInterceptor",
    "Metrics",
    "MetricsInterceptor",
    "RetryInterceptor",
    "RetryPolicy",
    "TimeoutInterceptor",
    "Tracer",
    "TracingInterceptor",
]
