"""SQL on a real PostgreSQL."""
