"""Middleware around stages: retry, breaker, timeout, tracing. What only observes is a sink."""

from stageflow.engine.interceptor import CallNext, Interceptor
from stageflow.interceptors.breaker import BreakerInterceptor
from stageflow.interceptors.retry import RetryInterceptor
from stageflow.interceptors.timeout import TimeoutInterceptor
from stageflow.interceptors.tracing import InMemoryTracer, Span, Tracer, TracingInterceptor
from stageflow.interceptors.usage import UsageInterceptor, usage_of
from stageflow.resilience.retry import RetryPolicy

__all__ = [
    "BreakerInterceptor",
    "CallNext",
    "InMemoryTracer",
    "Interceptor",
    "RetryInterceptor",
    "RetryPolicy",
    "Span",
    "TimeoutInterceptor",
    "Tracer",
    "TracingInterceptor",
    "UsageInterceptor",
    "usage_of",
]
