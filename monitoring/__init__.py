"""Metrics and logs, and the configuration of Prometheus and Grafana.

Used by the API and the workers. It may import db, but neither api nor workers.
"""
