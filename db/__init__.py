"""Everything that speaks SQL. Functions take the connection first and never commit: the caller owns the transaction."""
