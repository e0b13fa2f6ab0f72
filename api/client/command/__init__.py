"""The command `bulk`: one module for each group of subcommands, and modules that they share."""
