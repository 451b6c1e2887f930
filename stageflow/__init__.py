"""A small asyncio engine that runs voice and chat turns as a DAG of stages."""

__version__ = "0.1.0"
