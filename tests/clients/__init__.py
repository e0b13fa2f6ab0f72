"""Real HTTP clients against the service: `make clients` runs all of them, the suite those in `IN_SUITE`.

`clients.py` has one class or function for each; `programs/` has the programs of those that are not written in Python. It may
import tests.support, and nothing of the service.
"""
