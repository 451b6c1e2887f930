"""The tests of stageflow."""
