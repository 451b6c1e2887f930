"""Central Pulse: one page that shows how the project and a running system are.

`stageflow.pulse.central.page` puts it together; each other module makes the data of one panel.
"""
