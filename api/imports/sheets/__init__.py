"""Reads an XLSX file and writes one of its sheets as rows of CSV, in a process of its own: `python -m api.imports.sheets`.

The process reads hostile files, so it has limits on memory and CPU time, gets no environment, and can be killed at any time. It
uses the standard library only and keeps one row in memory, and the texts that cells share. `conversion` is the API's side of it;
no other module here may import it. python-calamine is not used because it returns an empty text for a cell with an error, keeps
a whole sheet in memory, with all cells between the outermost ones, and rounds integers.
"""
