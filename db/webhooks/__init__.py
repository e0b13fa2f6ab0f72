"""Webhooks: the endpoints to which the ends of jobs are sent, and the queue of the deliveries.

`endpoints` is part of the settings, `deliveries` has the statements. db/README.md describes the states.
"""
