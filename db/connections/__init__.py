"""Connections to PostgreSQL: the pool, the settings of a session, PgBouncer, half-open detection, reports of outages.

May import `db.settings` and `db.errors` only.
"""
