"""All SQL of the project. Functions take the connection first and never commit: the caller owns the transaction."""
