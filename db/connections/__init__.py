"""Connections to PostgreSQL: the pool, PgBouncer, half-open detection, reports of outages.

It may import db.settings and db.errors.
"""
