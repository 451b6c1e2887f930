"""The pulse of the repository: its benchmark history, measured by asv and published as a site.

Nothing else in stageflow imports this package, and it needs the extra ``stageflow[bench]``.
"""
