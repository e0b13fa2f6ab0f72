"""The processes that drain the queue."""
