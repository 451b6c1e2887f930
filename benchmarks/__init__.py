"""The costs of stageflow, measured on every commit by asv; README.md is the map."""
