"""Test kit for those who build on stageflow."""
