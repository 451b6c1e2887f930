"""What stageflow costs, measured on every commit by asv; README.md is the map."""
