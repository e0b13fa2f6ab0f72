"""The command `bulk`: one module for each group of subcommands, beside what they share."""
