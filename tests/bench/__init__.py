"""`make bench`: the service compared with PostgreSQL's own tools."""
