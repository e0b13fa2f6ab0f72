"""The modules of the mending page in a browser: rules, the files of repairs, and the check of a record's text."""

import msgspec
import pytest

from tests.support.console import opened
from tests.support.mending import call_module

pytestmark = pytest.mark.needs("chromium")
SERVICE = {"worker_pool_size": 2}
# a rule, the value of a cell with the error `bad`, the value that the rule makes of it
RULES = [
    ({"kind": "replace", "from": "boss", "to": "admin"}, "boss", "admin"),
    ({"kind": "replace", "from": "boss", "to": "admin"}, "bosses", "bosses"),
    ({"kind": "replace", "from": "", "to": "admin"}, None, "admin"),
    ({"kind": "replace", "from": "o", "to": "0", "part": True}, "foo", "f00"),
    ({"kind": "replace", "from": "x", "to": None}, "x", None),
    ({"kind": "fill", "to": "reader"}, None, "reader"),
    ({"kind": "fill", "to": "reader"}, "", "reader"),
    ({"kind": "fill", "to": "reader"}, "author", "author"),
    ({"kind": "trim"}, "\u00a0 Ada\t", "Ada"),
    ({"kind": "trim"}, "  ", None),
    ({"kind": "lower"}, "ADA@Example.org", "ada@example.org"),
    ({"kind": "boolean", "asText": True}, " Yes", "true"),
    ({"kind": "boolean", "asText": True}, "0", "false"),
    ({"kind": "boolean", "asText": False}, "n", False),
    ({"kind": "boolean", "asText": False}, 1, True),
    ({"kind": "boolean", "asText": False}, "constructor", "constructor"),
    ({"kind": "nearest", "allowed": ["admin", "author", "reader"]}, "amdin", "admin"),
    ({"kind": "nearest", "allowed": ["admin", "author", "reader"]}, "READERS", "reader"),
    ({"kind": "nearest", "allowed": ["admin", "author", "reader"]}, "a", "a"),
    ({"kind": "nearest", "allowed": ["admin", "author", "reader"]}, "gardener", "gardener"),
    ({"kind": "text"}, 5, "5"),
    ({"kind": "text"}, ["a"], ["a"]),
    ({"kind": "clear"}, "x", None),
]


async def test_rules(api, browser):
    """A rule changes only cells of its column that have its error. Other records remain the same object."""
    async with opened(browser, api.service.url, "/ui/none") as page:
        apply = """({ apply }, [rule, value, errors]) => {
            const record = { columns: ["name", "role"], cells: ["  Ada", value], raw: null, errors }
            const mended = apply(rule, record)
            return [mended.cells?.[1], mended.cells?.[0], mended.isOut ?? false, mended === record]
        }"""
        bad = [{"column": "role", "code": "bad"}]
        for rule, value, wanted in RULES:
            there = {"column": "role", "code": "bad", **rule}
            same = type(wanted) is type(value) and wanted == value
            assert await call_module(page, "mend/rules.js", apply, [there, value, bad]) == [
                wanted,
                "  Ada",
                False,
                same,
            ], rule
            # another error, another column, none
            for errors in ([{"column": "role", "code": "worse"}], [{"column": "name", "code": "bad"}], []):
                assert await call_module(page, "mend/rules.js", apply, [there, value, errors]) == [
                    value,
                    "  Ada",
                    False,
                    True,
                ]
        trim = {"kind": "trim", "column": "name"}
        assert await call_module(page, "mend/rules.js", apply, [{**trim, "code": None}, "x", []]) == [
            "x",
            "Ada",
            False,
            False,
        ]
        any_error = [{**trim, "code": ""}, "x", [{"column": "name", "code": "bad"}]]
        assert await call_module(page, "mend/rules.js", apply, any_error) == ["x", "Ada", False, False]
        drop = {"kind": "drop", "column": None, "code": "constraint_violation"}
        general = [{"column": None, "code": "constraint_violation"}]
        assert await call_module(page, "mend/rules.js", apply, [drop, "x", general]) == ["x", "  Ada", True, False]
        assert await call_module(page, "mend/rules.js", apply, [drop, "x", bad]) == ["x", "  Ada", False, True]


# refused, unprocessed, what the repairs and the retry accepted, states of the loaded records, of edited ones that are not loaded,
# the numbers: refused, taken, edited, left out, untouched
NUMBERS = [
    (3, 0, [], [None, "edited", "out"], [], [3, 0, 1, 1, 1]),
    (5, 0, [1, 1], [None], ["edited", "edited"], [5, 2, 2, 0, 1]),
    # the edit of a taken record
    (2, 0, [1], ["edited"], ["edited"], [2, 1, 1, 0, 0]),
    (2, 0, [2], [], ["edited", "out"], [2, 2, 0, 0, 0]),
    # a repair was deleted after the family was read: its record is refused again
    (2, 0, [1], ["edited", "edited"], [], [2, 0, 2, 0, 0]),
    (2, 0, [9], ["edited"], ["edited"], [2, 1, 1, 0, 0]),
    # records that nothing has refused when the import was read
    (1, 0, [], ["edited", None], ["out"], [2, 0, 1, 0, 1]),
    # the retry has stored unprocessed records too
    (2, 100, ["retry", 100], [None], [], [102, 100, 0, 0, 2]),
]


async def test_numbers(api, browser):
    """No number is negative, in whatever order the page has learned of its records and of the imports that have taken them."""
    async with opened(browser, api.service.url, "/ui/none") as page:
        for refused, unprocessed, accepted, loaded, unseen, wanted in NUMBERS:
            numbers = await call_module(
                page,
                "mend/numbers.js",
                """({ numbers }, [refused, unprocessed, accepted, loaded, unseen]) => {
                    const relation = accepted[0] === "retry" ? accepted.shift() : "repair"
                    const { edited, out, taken, untouched, refused: all } = numbers({
                        job: { id: "first", counts: { failed: refused, unprocessed } },
                        repairs: accepted.map((created) => (
                            { relation, parent_id: "first", counts: { created, updated: 0, unchanged: 0, skipped: 0 } }
                        )),
                        known: new Map(loaded.map((state, n) => [n, { state }])),
                        unseen: () => unseen.map((state) => ({ state })),
                        edits: { stateOf: ({ state }) => state },
                    })
                    return [all, taken, edited, out, untouched]
                }""",
                [refused, unprocessed, accepted, loaded, unseen],
            )
            assert numbers == wanted, (refused, unprocessed, accepted, loaded, unseen)


async def test_the_order_of_causes(api, browser):
    """Causes with the same number of records stay in the order of the import's summary when all records are loaded."""
    async with opened(browser, api.service.url, "/ui/none") as page:
        orders = await call_module(
            page,
            "mend/causes.js",
            """({ counted }) => {
                const fields = ["email", "role", "email", "role", "name"]
                const known = new Map(fields.map((field, n) => [n, { errors: [{ code: "c", field }] }]))
                const error_summary = ["role", "email", "name"].map((field) => ({ code: "c", field, count: 1 }))
                const order = (isWhole) => counted({ isWhole, known, job: { error_summary } }).map(({ field }) => field)
                return [order(false), order(true)]
            }""",
        )
    assert orders == [["role", "email", "name"]] * 2


# the format, records by (line, cells or raw), the file that a repair sends
FILES = [
    (
        {"format": "csv", "csv_delimiter": ";"},
        [(7, ["a;b", "", None]), (9, ['say "x"', "two\nlines", " c "]), (11, "x;y;z")],
        '_line;a;"b;";c\n7;"a;b";"";\n9;"say ""x""";"two\nlines"; c \n11;x;y;z\n',
    ),
    (
        {"format": "ndjson"},
        [(1, ["x", None, {"n": [1, None]}]), (2, '{"_line": 9, "a": 1.0}'), (3, [False, 0, ""])],
        '{"_line":1,"a":"x","c":{"n":[1,null]}}\n{"_line":2,"a":1.0}\n{"_line":3,"a":false,"b;":0,"c":""}\n',
    ),
    (
        {"format": "json"},
        [(1, ["x", None, None]), (4, ["y", None, None])],
        '[\n{"_line":1,"a":"x"},\n{"_line":4,"a":"y"}\n]\n',
    ),
]


async def test_files_of_repairs(api, browser):
    """A repair has the import's format, `_line` first, cells quoted where they must be; numbers keep their digits."""
    async with opened(browser, api.service.url, "/ui/none") as page:
        write = """async ({ RepairFile, parse }, [job, records]) => {
            const file = new RepairFile({ resource: "users", file: { name: "a.b.csv.gz" }, ...job })
            for (const [line, content] of parse(records)) {
                const isRaw = typeof content === "string"
                file.add([{ line, columns: ["a", "b;", "c"], cells: isRaw ? null : content, raw: isRaw ? content : null }])
            }
            const text = await file.blob.text()
            return [text, file.name, file.records]
        }"""
        for job, records, wanted in FILES:
            text = msgspec.json.encode(records).decode()
            name = f"a.b.{job['format']}"
            assert await call_module(page, "mend/repair.js", write, [job, text]) == [wanted, name, len(records)]
        digits = "(repair) => JSON.stringify(repair.parse('[1.0, 12345678901234567890, 1e400, \"1.0\"]'))"
        assert await call_module(page, "mend/repair.js", digits) == '[1.0,12345678901234567890,1e400,"1.0"]'


# the text of a record, its format, the expected message
TEXTS = [
    ('a,"b,\n""c""",', "csv", None),
    ("a,b", "csv", "This has 2 cells, but the header has 3: a, b, c."),
    ('a,"b,c', "csv", "A quote is not closed, or stands in the middle of a cell."),
    ('a,x"b"y,c', "csv", "A quote is not closed, or stands in the middle of a cell."),
    ("a,b\n,c", "csv", "A quote is not closed, or stands in the middle of a cell."),
    ('{"a": 1}', "ndjson", None),
    ("[1]", "ndjson", "This is not a JSON object."),
    ('{"a": }', "json", "This is not valid JSON."),
]


async def test_a_record_that_would_change_others_is_not_sent(api, browser):
    """A text that is not one record is not sent: an open quote, for example, would merge it with the rows behind it."""
    async with opened(browser, api.service.url, "/ui/none") as page:
        script = "({ fault }, [text, format]) => fault(text, { format, csv_delimiter: ',' }, ['a', 'b', 'c'])"
        for text, format, wanted in TEXTS:
            assert await call_module(page, "mend/repair.js", script, [text, format]) == wanted
