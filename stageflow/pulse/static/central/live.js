// A server of live telemetry answers for this file, and says how often to ask: centralLive(5).
