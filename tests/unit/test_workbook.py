"""XLSX files that are written: values, several sheets, and memory that does not grow."""

import csv
import io
from contextlib import closing
from datetime import datetime
from itertools import pairwise

import openpyxl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from db.exports.workbook import TEXT_MAX, WorkbookWriter
from tests.support.xlsx import read

COLUMNS = [("text", "text"), ("time", "timestamptz"), ("flag", "bool"), ("tags", "text[]")]


def written(*records, rows_max=100) -> bytes:
    writer = WorkbookWriter("things", COLUMNS, rows_max=rows_max)
    return writer.add(records) + writer.finish()


def opened(file: bytes) -> openpyxl.Workbook:
    return openpyxl.load_workbook(io.BytesIO(file))


# openpyxl opens the file without a warning
@pytest.mark.filterwarnings("error")
def test_values():
    """openpyxl reads texts, also those that look like formulas, dates, booleans, lists as JSON, and empty cells."""
    sheet = opened(
        written(
            ("=1+1", "2024-01-31T12:00:00.5+00:00", True, ["a", '"']),
            (' <b> & \n"x"', None, False, None),
            ("", *[None] * 3),
        )
    )["things"]
    rows = [[(cell.value, cell.data_type) for cell in row] for row in sheet.iter_rows()]
    assert [value for value, _ in rows[0]] == ["text", "time", "flag", "tags"]
    assert rows[1] == [
        ("=1+1", "s"),
        (datetime(2024, 1, 31, 12, 0, 0, 500_000), "d"),
        (True, "b"),
        ('["a","\\""]', "s"),
    ]
    assert rows[2] == [(' <b> & \n"x"', "s"), (None, "n"), (False, "b"), (None, "n")]
    assert sheet["B2"].is_date
    assert sheet.freeze_panes == "A2"


def test_an_import_reads_it_back():
    """Characters that XML does not have, texts that look like their escapes, times before 1900."""
    text = "\x01\r\n\t_x0041_ \ufffe \U0001f600é"
    rows = read(written((text, "1899-01-01T00:00:00+00:00", None, []), ("b", "1900-03-01T00:00:00+00:00", None, None)))
    assert rows[1:] == [(2, f'"{text}",1899-01-01T00:00:00+00:00,,[]'), (3, "b,1900-03-01,,")]


@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1), flag=st.booleans())
@example(text="_x005F_x0041_ _xD800_", flag=True)
def test_every_text_is_read_back(text, flag):
    """Any text that PostgreSQL can store."""
    ((_, row),) = read(written((text, None, flag, None)))[1:]
    assert next(csv.reader(io.StringIO(row, newline=""))) == [text, "", str(flag).lower(), ""]


def test_long_texts_are_cut():
    """A cell has at most 32,767 characters of UTF-16; a longer text ends with a mark, and no character is halved."""
    longest, too_long = "x" * TEXT_MAX, "😀" * TEXT_MAX
    sheet = opened(written((longest, None, None, None), (too_long, None, None, None)))["things"]
    assert sheet["A2"].value == longest
    cut = sheet["A3"].value
    assert cut.removesuffix("… (cut)") == "😀" * (len(cut) - 7)
    assert TEXT_MAX - 2 <= len(cut.encode("utf-16-le")) // 2 <= TEXT_MAX


def test_several_sheets():
    """When the rows of a sheet are used up, the next one begins, with a header; none is empty."""
    records = [(str(number), None, None, None) for number in range(5)]
    book = opened(written(*records, rows_max=3))
    assert {sheet.title: [row[0].value for row in sheet.iter_rows()] for sheet in book.worksheets} == {
        "things": ["text", "0", "1"],
        "things 2": ["text", "2", "3"],
        "things 3": ["text", "4"],
    }
    assert len(opened(written(*records[:4], rows_max=3)).worksheets) == 2
    assert [[cell.value for cell in row] for row in opened(written())["things"].iter_rows()] == [
        [n for n, _ in COLUMNS]
    ]


def test_bytes_are_taken_as_they_come():
    """The writer gives out what it has compressed, and keeps less than a block."""
    writer = WorkbookWriter("things", COLUMNS)
    sizes = [
        len(writer.add([(f"{batch * 7919 % 10_007} {row * 104_729}", None, True, None) for row in range(1000)]))
        for batch in range(20)
    ]
    assert all(sum(two) > 0 for two in pairwise(sizes))
    assert len(writer.finish()) < 100_000


@pytest.mark.filterwarnings("error")
def test_a_file_that_is_not_finished():
    """It can be closed in the middle, as when the client of a stream disconnects, and again after its end."""
    with closing(WorkbookWriter("things", COLUMNS)) as writer:
        writer.add([("a", None, None, None)])
    with closing(WorkbookWriter("things", COLUMNS)) as writer:
        writer.finish()


def test_the_same_records_are_the_same_bytes():
    """The file has no time of its making."""
    assert written(("a", None, True, None)) == written(("a", None, True, None))
