"""XLSX files, as they become rows of CSV: the values of cells, the numbers of rows, and files that are refused."""

import io
import struct
import zipfile
from contextlib import suppress
from datetime import date, datetime, time, timedelta

import openpyxl
import pytest
import xlsxwriter
from hypothesis import given
from hypothesis import strategies as st

from api.imports.sheets.errors import Refused
from tests.support.splitting import records, split
from tests.support.xlsx import OPTIONS, cell, frames, package, read, replaced, saved, written

DATES = '<cellXfs><xf numFmtId="0"/><xf numFmtId="14"/><xf numFmtId="164"/></cellXfs>'
CUSTOM = '<numFmts><numFmt numFmtId="164" formatCode={}/></numFmts>'


@pytest.mark.parametrize(
    ("xml", "expected"),
    [
        ('<c r="A2"><v>12</v></c>', "12"),
        ('<c r="A2"><v>1234567.0</v></c>', "1234567"),
        ('<c r="A2"><v>0.30000000000000004</v></c>', "0.3"),
        ('<c r="A2"><v>12345678901234567890</v></c>', "12345678901234567890"),
        ('<c r="A2"><v>1.5E+300</v></c>', "1.5e+300"),
        ('<c r="A2"><v>nan</v></c>', "\0#NUMBER (not a number)"),
        ('<c r="A2" t="b"><v>1</v></c>', "true"),
        ('<c r="A2" t="b"><v>0</v></c>', "false"),
        ('<c r="A2" t="e"><v>#N/A</v></c>', "\0#N/A"),
        ('<c r="A2" t="e"><f>1/0</f><v>#DIV/0!</v></c>', "\0#DIV/0!"),
        ('<c r="A2"><f>1+1</f><v>2</v></c>', "2"),
        ('<c r="A2" t="str"><f>"a"</f><v>a</v></c>', "a"),
        ('<c r="A2" t="str"><f>""</f><v></v></c>', ""),
        (
            '<c r="A2"><f>1+1</f><v></v></c>',
            "\0#FORMULA (not calculated: open and save the file in a spreadsheet program)",
        ),
        ('<c r="A2" t="inlineStr"><is><t>007</t></is></c>', "007"),
        ('<c r="A2" t="inlineStr"><is><r><t>rich </t></r><r><t>text</t></r></is></c>', "rich text"),
        ('<c r="A2" t="inlineStr"><is><t>a_x000D_b</t></is></c>', '"a\rb"'),
        ('<c r="A2" t="inlineStr"><is><t>_x0000__xD800_</t></is></c>', "_x0000__xD800_"),
        ('<c r="A2" t="inlineStr"><is><t>a,"b"&#10;c</t></is></c>', '"a,""b""\nc"'),
        ('<c r="A2" t="d"><v>2024-01-31T12:00:00</v></c>', "2024-01-31T12:00:00"),
        ('<c t="inlineStr"><is><t>no reference</t></is></c>', "no reference"),
    ],
)
def test_cells(xml, expected):
    """Each type of cell has its text; a cell with an error begins with U+0000, which every field refuses."""
    assert cell(xml) == expected


@pytest.mark.parametrize(
    ("serial", "expected"),
    [
        ("45322", "2024-01-31"),
        ("45322.5", "2024-01-31T12:00:00"),
        ("45322.510428240741", "2024-01-31T12:15:01"),
        ("0.5", "12:00:00"),
        ("1", "1900-01-01"),
        ("59", "1900-02-28"),
        ("60", "\0#DATE (not a date of the years 1900 to 9999)"),
        ("61", "1900-03-01"),
        ("2958465", "9999-12-31"),
        ("2958466", "\0#DATE (not a date of the years 1900 to 9999)"),
        ("-1", "\0#DATE (not a date of the years 1900 to 9999)"),
    ],
)
def test_dates(serial, expected):
    """A number with a date's format is a date, also around the leap day that 1900 did not have."""
    assert cell(f'<c r="A2" s="1"><v>{serial}</v></c>', styles=DATES) == expected


def test_dates_of_1904():
    """A file may count its days from 1904."""
    xml = '<c r="A2" s="1"><v>43860</v></c>'
    assert cell(xml, styles=DATES, properties='<workbookPr date1904="1"/>') == "2024-01-31"


@pytest.mark.parametrize(
    ("code", "is_date"),
    [
        ('"yyyy-mm-dd"', True),
        ('"[$-409]d. mmm yy;@"', True),
        ('"hh:mm"', True),
        ('"0.00"', False),
        ('"General"', False),
        ("'0.0&quot; days&quot;'", False),
        ('"[Red]#,##0;0"', False),
        ('"0\\m"', False),
        ('"[h]:mm"', False),
        ('"0%"', False),
        ('"0.00E+00"', False),
    ],
)
def test_number_formats(code, is_date):
    """Only the letters of a date outside of literal text, colours and elapsed times make a number a date."""
    xml = '<c r="A2" s="2"><v>45322</v></c>'
    assert cell(xml, styles=CUSTOM.format(code) + DATES) == ("2024-01-31" if is_date else "45322")


def test_shared_texts():
    """Shared texts may be rich; phonetic guides are not part of them."""
    shared = "<si><t>x</t></si><si><r><t>a</t></r><r><t xml:space='preserve'> b</t></r><rPh><t>guide</t></rPh></si>"
    rows = '<row r="1"><c r="A1" t="s"><v>0</v></c></row><row r="2"><c r="A2" t="s"><v>1</v></c></row>'
    assert read(package(rows, shared=shared)) == [(1, "x"), (2, "a b")]


def test_rows_keep_their_numbers():
    """The header may be on any row; blank rows, also those with formats or empty texts, are left out but counted."""
    book = openpyxl.Workbook()
    sheet = book.worksheets[0]
    sheet["A3"], sheet["B3"] = "id", "name"
    sheet["A5"], sheet["B5"] = 1, "two\nlines"
    sheet["B6"].number_format = "0.00"
    sheet["A8"], sheet["B8"] = 2, None
    sheet["A1000"].number_format = "0.00"
    assert read(saved(book)) == [(3, "id,name"), (5, '1,"two\nlines"'), (8, "2,")]


def test_a_cell_behind_the_header():
    """A row has one cell too many when there is a value in a column without a name, however far away."""
    rows = '<row><c t="str"><v>a</v></c><c t="str"><v>b</v></c></row><row><c><v>1</v></c><c r="XFD2"><v>9</v></c></row>'
    assert read(package(rows)) == [(1, "a,b"), (2, "1,,9")]


def test_files_of_libraries():
    """Values as openpyxl writes them: with the types of the columns, dates with their zone in columns of times only."""
    moment = datetime(2024, 1, 31, 12, 0, 0, 5000)
    row = (7, "007", True, moment, date(2024, 1, 31), moment, time(8, 30), timedelta(hours=30), 0.25, None, "é€𝄞")
    header = ("n", "text", "flag", "created_at", "updated_at", "note", "at", "took", "share", "empty", "last")
    file = written(header, row)
    assert read(file, times=["created_at", "updated_at"])[1] == (
        2,
        "7,007,true,2024-01-31T12:00:00.005000Z,2024-01-31T00:00:00Z,2024-01-31T12:00:00.005000,08:30:00,1.25,0.25,,é€𝄞",
    )


def test_inline_texts_and_1904_of_xlsxwriter():
    """XlsxWriter in constant memory writes inline texts; here with days from 1904 and a percentage."""
    file = io.BytesIO()
    book = xlsxwriter.Workbook(file, {"constant_memory": True, "date_1904": True})
    sheet = book.add_worksheet()
    sheet.write_row(0, 0, ["a", "b", "c"])
    sheet.write_datetime(1, 0, datetime(2024, 1, 31), book.add_format({"num_format": "dd/mm/yy"}))
    sheet.write_number(1, 1, 0.125, book.add_format({"num_format": "0.0%"}))
    sheet.write_string(1, 2, "=1+1")
    book.close()
    assert read(file.getvalue()) == [(1, "a,b,c"), (2, "2024-01-31,0.125,=1+1")]


def test_strict_form_and_prefixes():
    """The strict form has other namespaces, and a file may use prefixes for them."""
    main, office = (
        "http://purl.oclc.org/ooxml/spreadsheetml/main",
        "http://purl.oclc.org/ooxml/officeDocument/relationships",
    )
    workbook = (
        f'<x:workbook xmlns:x="{main}" xmlns:y="{office}">'
        '<x:sheets><x:sheet name="S" y:id="rId1"/></x:sheets></x:workbook>'
    )
    sheet = (
        f'<x:worksheet xmlns:x="{main}"><x:sheetData><x:row r="1"><x:c r="A1" t="str"><x:v>a</x:v></x:c></x:row>'
        "</x:sheetData><x:extLst><x:c><x:v>not a cell</x:v></x:c></x:extLst></x:worksheet>"
    )
    assert read(package("", workbook=workbook, sheet1=sheet)) == [(1, "a")]


def test_the_sheet():
    """The first sheet that is not hidden, or the one with the name."""
    book = openpyxl.Workbook()
    book.worksheets[0].title = "hidden"
    book.worksheets[0].sheet_state = "hidden"
    for name in ("first", "Zweites, ß"):
        book.create_sheet(name).append([name])
    file = saved(book)
    assert read(file) == [(1, "first")]
    assert read(file, sheet="Zweites, ß") == [(1, '"Zweites, ß"')]
    with pytest.raises(
        Refused, match=r"^is not a sheet of the file, which has 'hidden', 'first', 'Zweites, ß'$"
    ) as refused:
        read(file, sheet="First")
    assert refused.value.kind == "sheet"


WHOLE = package(
    '<row r="1"><c r="A1" t="s"><v>0</v></c></row><row r="2"><c r="A2" s="1"><v>1</v></c></row>',
    shared="<si><t>x</t></si>",
    styles=DATES,
)
with zipfile.ZipFile(io.BytesIO(WHOLE)) as archive:
    PARTS = {name.rpartition("/")[2].removesuffix(".xml"): archive.read(name).decode() for name in archive.namelist()}
ONE = package('<row><c t="str"><v>a</v></c></row>')
LOCAL_NAME = ONE.index(b"xl/worksheets/sheet1.xml")


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        (b"", "not an XLSX file, or is incomplete"),
        (b"email,name\n", "not an XLSX file, or is incomplete"),
        (ONE[:-30], "not an XLSX file, or is incomplete"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "encrypted with a password, or an .xls file"),
        (ONE[:LOCAL_NAME] + b"\0" * 30 + ONE[LOCAL_NAME + 30 :], "sheet1.xml is damaged or encrypted"),
        (replaced(ONE, "_rels/.rels", "<Relationships/>"), "it has no workbook"),
        (package("<row>", sheet1="<worksheet><sheetData><row></worksheet>"), r"not valid XML \(mismatched tag\)"),
        (package("", sheet1="<worksheet><sheetData>"), r"not valid XML \(no element found\)"),
        (package("", sheet1='<!DOCTYPE a [<!ENTITY b "c">]><worksheet>&b;</worksheet>'), "document type declaration"),
        (package('<row r="1048577"/>'), "row after row 0 of the sheet has the number '1048577'"),
        (package('<row r="2"/><row r="2"/>'), "row after row 2 of the sheet has the number '2'"),
        (package('<row><c r="XFE1"><v>1</v></c></row>'), "row 1 of the sheet has a cell 'XFE1'"),
        (package('<row><c t="s"><v>5</v></c></row>'), "refers to a text that is missing"),
        (package("", names=()), "no sheet with cells"),
    ],
)
def test_files_that_are_refused(file, reason):
    """A file that cannot be read is refused with a reason."""
    with pytest.raises(Refused, match=reason):
        read(file)


DAMAGED = written(("a", "b"), (1, "x"), (datetime(2024, 1, 1), True))


@given(
    at=st.lists(st.integers(0, len(DAMAGED) - 1), min_size=1, max_size=4),
    byte=st.integers(0, 255),
    removed=st.integers(0, 20),
)
def test_damaged_files(at, byte, removed):
    """Whatever bytes of a file are changed or missing, it is read or refused, and nothing else is raised."""
    file = bytearray(DAMAGED)
    for position in at:
        file[position] = byte
    del file[at[0] : at[0] + removed]
    with suppress(Refused):
        read(bytes(file))


@given(part=st.sampled_from(["sheet1", "workbook", "sharedStrings", "styles"]), data=st.data())
def test_damaged_parts(part, data):
    """The same for the XML of each part."""
    content = PARTS[part]
    start = data.draw(st.integers(0, len(content)))
    end = data.draw(st.integers(start, min(start + 20, len(content))))
    inserted = data.draw(st.text(alphabet='<>&"/ =09xrstv', max_size=8))
    with suppress(Refused):
        read(
            replaced(
                WHOLE, f"xl/{'worksheets/' * (part == 'sheet1')}{part}.xml", content[:start] + inserted + content[end:]
            )
        )


def test_a_zip_bomb():
    """The directory of the archive is checked before anything is unpacked."""
    file = package("<row/>" + " " * 20_000_000)
    with pytest.raises(Refused, match="250 times its size") as refused:
        read(file)
    assert refused.value.kind == "too_large"
    assert read(file, unpack_ratio_max=5000) == []
    with pytest.raises(Refused, match="unpack to 1000000 bytes"):
        read(file, unpacked_max_bytes=1_000_000)


def test_a_directory_that_lies():
    """No more of a part is read than the directory says, so a bomb cannot hide behind a small size."""
    file = bytearray(package("<row/>" + " " * 20_000_000))
    entry = file.index(b"PK\x01\x02", file.index(b"PK\x01\x02") + 1)
    while file[entry + 46 :][:24] != b"xl/worksheets/sheet1.xml":
        entry = file.index(b"PK\x01\x02", entry + 1)
    struct.pack_into("<I", file, entry + 24, 1000)
    with pytest.raises(Refused, match="damaged"):
        read(bytes(file))


def test_rows_become_chunks():
    """The splitter takes the frames in blocks of any size; each record has the number of its row as its line."""
    file = written(("a", "b"), (1, "x"), (), (2, "two\nlines"), (None, None), (3, "y" * 100))
    frames_of_file = b"".join(frames(io.BytesIO(file), OPTIONS | {"record_max_bytes": 50}))
    for sizes in ((), [1] * len(frames_of_file), [7, 30]):
        splitter, chunks = split("xlsx", frames_of_file, sizes=sizes, batch_size=2)
        assert (splitter.format, splitter.columns, splitter.header) == ("csv", ["a", "b"], b"a,b\n")
        assert records("csv", chunks) == [(2, b"1,x"), (4, b'2,"two\nlines"'), (6, b"3," + b"y" * 49)]
        assert [chunk.records for chunk in chunks] == [2, 1]
