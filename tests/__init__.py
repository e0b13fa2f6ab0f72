"""Tests by what they need: unit (nothing), db (PostgreSQL), api, workers and monitoring (the service's processes), system."""
