"""Reads an XLSX file and writes one of its sheets as rows of CSV, in a process of its own: `python -m api.imports.sheets`.

The process reads hostile files, so it has limits on memory and CPU time, gets no environment, and can be killed at any time. It
uses the standard library only and keeps one row in memory, and the texts that cells share. `conversion` is the API's side of it;
no other module here may import it.

Two libraries were compared with `tests/unit/test_sheets.py` and are not used, because they store wrong values without an error.
python-calamine returns an empty text for a cell with an error, rounds integers, and keeps a whole sheet in memory. openpyxl
returns no value for a formula that was not calculated, as for an empty cell, dates for the negative numbers and for day 60 of
1900, which are none, and keeps `_x000D_` in inline texts; it needs 1.7 times the CPU time.
"""
