"""`make bench`: the service beside PostgreSQL's own tools."""
