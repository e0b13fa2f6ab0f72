"""The HTTP API. Handlers check a request, call `db`, and return its result; SQL is in `db` only."""
