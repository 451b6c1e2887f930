"""Compare the simulation with other tools that search orders of asyncio programs."""
