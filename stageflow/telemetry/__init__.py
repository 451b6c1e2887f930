"""Where events, spans and measurements go: adapters for telemetry systems, each an extra."""
