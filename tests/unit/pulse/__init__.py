"""History, gate, dashboard and alerts."""
