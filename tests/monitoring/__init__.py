"""Metrics, logs, probes, dashboards."""
