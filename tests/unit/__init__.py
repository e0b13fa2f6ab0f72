"""Pure functions, without a database."""
