"""The HTTP face: parse, authorise, call db, answer."""
