"""Random tests of the engine, judged by what the documents promise and by nothing else.

It shares no code with the models, strategies and the stress test of this repository, so that a
mistake in those does not hide a bug from this one.
"""
