"""The third level of tests: shell scripts with curl, and the commands of the documents. See tests/README.md."""
