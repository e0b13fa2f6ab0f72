"""The API over HTTP, with real processes."""
