"""Delivers the ends of jobs to the endpoints of WEBHOOKS, in a process of its own, by the specification Standard Webhooks."""
