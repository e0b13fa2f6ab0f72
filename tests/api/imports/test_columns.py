"""The parameter `columns`: files whose columns or keys have other names than the fields."""

import csv
import io
import json

import pytest

from tests.support.api_client import USERS_HEADER, user_row

# a letter outside of Latin, a quote, the delimiter and white space in names
CSV_FIELDS = {
    'Имя "полное"': "name",
    "E-Mail; privat": "email",
    "役割": "role",
    "active?": "active",
    "Anmerkung ß": None,
}
CSV_HEADER = '"Имя ""полное""";Anmerkung ß;"E-Mail; privat";役割;"active?"\r\n'
JSON_FIELDS = {"Имя": "name", 'E-"Mail"': "email", "役割": "role", "active?": "active", "notes": None}

TOKEN = {"idempotency_token": "key"}
SERVICE = {"worker_pool_size": 2, "batch_size": 2}


def csv_row(n: int, *, role: str = "reader") -> str:
    return f'User {n};"a; ""note""";user{n}@example.org;{role};true\r\n'


def json_object(n: int, *, role: str = "reader", **more: object) -> dict[str, object]:
    return {
        "notes": {"name": [1, {}]},
        "Имя": f"User {n}",
        'E-"Mail"': f"user{n}@example.org",
        "役割": role,
        "active?": True,
    } | more


def lines(*records: dict[str, object]) -> bytes:
    return b"".join(json.dumps(record, ensure_ascii=False).encode() + b"\n" for record in records)


async def post_csv(api, file: str | bytes, fields: dict[str, str | None] | None = None, **params: str):
    query = {"resource": "users", "csv_delimiter": ";", "columns": json.dumps(fields or CSV_FIELDS)} | params
    return await api.post(file, type="text/csv", params=query)


async def post_lines(api, file: bytes, fields: dict[str, str | None] | None = None, **params: str):
    query = {"resource": "users", "columns": json.dumps(fields or JSON_FIELDS)} | params
    return await api.post(file, type="application/x-ndjson", params=query)


async def stored(api) -> list[tuple[str, str, str, bool]]:
    cursor = await api.conn.execute("SELECT email, name, role, active FROM users ORDER BY email")
    return await cursor.fetchall()


def expected(count: int) -> list[tuple[str, str, str, bool]]:
    return [(f"user{n}@example.org", f"User {n}", "reader", True) for n in range(count)]


def summary(errors: list[dict]) -> list[tuple]:
    return [(error["line"], error["field"], error["code"]) for error in errors]


@pytest.mark.parametrize("form", ["query", "multipart", "behind the file"])
async def test_a_csv_with_mapped_columns(api, form):
    """Columns become fields by their names in the header; one that is mapped to null is ignored."""
    file = (CSV_HEADER + "".join(map(csv_row, range(5)))).encode()
    given = {"resource": "users", "csv_delimiter": ";"}
    columns = json.dumps(CSV_FIELDS)
    if form == "query":
        answer = await post_csv(api, file)
    elif form == "multipart":
        answer = await api.post(data=given | {"columns": columns}, files={"file": ("u.csv", file)})
    else:
        parts = [("file", ("u.csv", file)), ("columns", (None, columns.encode(), "application/json"))]
        answer = await api.post(params=given, files=parts)
    job = await api.finished(answer)
    assert job["counts"]["created"] == 5, job["errors"]
    assert await stored(api) == expected(5)
    assert (job["columns"], job["csv_delimiter"]) == (CSV_FIELDS, ";")
    assert (await api.get()).json()["imports"][0]["columns"] == CSV_FIELDS


@pytest.mark.parametrize("form", ["ndjson", "array", "object"])
async def test_json_with_mapped_members(api, form):
    """Keys become fields by their names in the file; one that is mapped to null is ignored with its value."""
    records = [json_object(n) for n in range(5)]
    if form == "ndjson":
        answer = await post_lines(api, lines(*records))
    elif form == "array":
        params = {"resource": "users", "columns": json.dumps(JSON_FIELDS)}
        answer = await api.post(json.dumps(records).encode(), type="application/json", params=params)
    else:
        answer = await api.post(json={"resource": "users", "columns": JSON_FIELDS, "records": records})
    job = await api.finished(answer)
    assert job["counts"]["created"] == 5, job["errors"]
    assert await stored(api) == expected(5)
    assert (job["columns"], job["csv_delimiter"]) == (JSON_FIELDS, None)


async def test_names_without_an_entry_are_fields(api):
    """Only what has another name needs an entry; names may be exchanged; without the parameter the view has null."""
    exchanged = {"name": "email", "email": "name"}
    file = b"name,email,role,active\nuser0@example.org,User 0,reader,true\n"
    assert (await api.finished(await post_csv(api, file, exchanged, csv_delimiter=",")))["counts"]["created"] == 1
    record = {"name": "user1@example.org", "email": "User 1", "role": "reader", "active": True}
    assert (await api.finished(await post_lines(api, lines(record), exchanged)))["counts"]["created"] == 1
    assert await stored(api) == expected(2)
    for given in ({}, {"columns": "{}"}):
        params = {"resource": "users"} | given
        job = (await api.post(USERS_HEADER + user_row(7), type="text/csv", params=params)).json()
        assert (job["columns"], job["csv_delimiter"]) == (None, ",")


async def test_unknown_names_are_those_of_the_file(api):
    """A column or key without an entry that is no field is unknown under the name that the file has."""
    fields = {name: field for name, field in CSV_FIELDS.items() if field}
    answer = await post_csv(api, CSV_HEADER + csv_row(0), fields)
    assert [(fault["field"], fault["code"]) for fault in answer.json()["errors"]] == [("Anmerkung ß", "unknown_field")]
    job = await api.finished(await post_csv(api, CSV_HEADER + csv_row(0), fields, unknown_fields="ignore"))
    assert job["counts"]["created"] == 1

    job = await api.finished(await post_lines(api, lines(json_object(1, Ort="Ulm"), json_object(2))))
    assert summary(job["errors"]) == [(1, "Ort", "unknown_field")]
    answer = await post_lines(api, lines(json_object(1, Ort="Ulm")), unknown_fields="ignore")
    assert (await api.finished(answer))["counts"]["created"] == 1


async def test_a_key_under_two_names_is_refused(api):
    """An object that has a field under its own name and under the mapped one is refused, the others are not."""
    both = json_object(0) | {"name": "other"}
    job = await api.finished(
        await post_lines(api, lines(both, json_object(1), json_object(2)), unknown_fields="ignore")
    )
    assert summary(job["errors"]) == [(1, None, "conflicting_fields")]
    assert "name" in job["errors"][0]["message"]
    assert job["counts"]["created"] == 2


async def test_faulty_lines_with_mapped_names(api):
    """A line that is no object or no JSON is refused with the same code as without `columns`."""
    file = lines(json_object(0)) + b'[1]\n{"x": \n{"notes": "\xff"}\n' + lines(json_object(4, **{"active?": "yes"}))
    job = await api.finished(await post_lines(api, file))
    assert summary(job["errors"]) == [
        (2, None, "invalid_type"),
        (3, None, "invalid_json"),
        (4, None, "invalid_encoding"),
        (5, "active", "invalid_type"),
    ]
    assert job["counts"]["created"] == 1


@pytest.mark.parametrize("annotate", ["false", "true"])
async def test_refused_rows_come_back_under_the_names_of_the_file(api, annotate):
    """The header's bytes are those that were sent; corrected and posted with the same `columns`, all are stored."""
    bad = csv_row(1, role="chief")
    file = CSV_HEADER + csv_row(0) + bad + csv_row(2)
    job = await api.finished(await post_csv(api, file))
    assert summary(job["errors"]) == [(3, "role", "invalid_enum")]
    refused = (await api.get(f"/{job['id']}/failed-records", params={"annotate": annotate})).content.decode()
    if annotate == "false":
        assert refused == CSV_HEADER + bad
    else:
        header, row = refused.split("\r\n")[:2]
        assert header + "\r\n" == "_line;_errors;" + CSV_HEADER
        line, errors, *cells = next(csv.reader(io.StringIO(row), delimiter=";"))
        assert (line, json.loads(errors)[0]["field"]) == ("3", "role")
        assert cells == ["User 1", 'a; "note"', "user1@example.org", "chief", "true"]
    again = await api.finished(await post_csv(api, refused.replace("chief", "reader")))
    assert again["counts"]["created"] == 1, again["errors"]
    assert await stored(api) == expected(3)
    # annotated again, an annotated file has its annotations once
    twice = await api.finished(await post_csv(api, refused))
    text = (await api.get(f"/{twice['id']}/failed-records", params={"annotate": "true"})).content.decode()
    assert text.split("\r\n")[0] + "\r\n" == "_line;_errors;" + CSV_HEADER


@pytest.mark.parametrize("annotate", ["false", "true"])
@pytest.mark.parametrize("format", ["ndjson", "json"])
async def test_refused_objects_come_back_under_the_names_of_the_file(api, format, annotate):
    """The keys are those that were sent; corrected and posted with the same `columns`, all are stored."""
    records = [json_object(0), json_object(1, role="chief"), json_object(2)]
    params = {"resource": "users", "columns": json.dumps(JSON_FIELDS), "format": format}
    file = lines(*records) if format == "ndjson" else json.dumps(records).encode()
    job = await api.finished(await api.post(file, params=params))
    assert [(error["record"], error["field"]) for error in job["errors"]] == [(2, "role")]
    refused = (await api.get(f"/{job['id']}/failed-records", params={"annotate": annotate})).content
    (record,) = json.loads(refused) if format == "json" else [json.loads(refused)]
    assert ("_errors" in record) == (annotate == "true")
    assert {name: record[name] for name in records[1]} == records[1]
    again = await api.finished(await api.post(refused.replace(b"chief", b"reader"), params=params))
    assert again["counts"]["created"] == 1, again["errors"]
    assert await stored(api) == expected(3)


@pytest.mark.parametrize("format", ["csv", "ndjson"])
async def test_children_inherit_the_names(api, format):
    """A commit and a retry read the file as their parent did, and show the same `columns`."""
    post, fields = (post_csv, CSV_FIELDS) if format == "csv" else (post_lines, JSON_FIELDS)
    file = CSV_HEADER + csv_row(0) + csv_row(1) if format == "csv" else lines(json_object(0), json_object(1))
    dry_run = await api.finished(await post(api, file, dry_run="true"))
    assert (dry_run["counts"]["created"], await stored(api)) == (2, [])
    commit = await api.finished(await api.client.post(dry_run["links"]["commit"]))
    assert (commit["counts"]["created"], commit["columns"]) == (2, fields)

    refused = await api.finished(await post(api, file))
    assert {error["code"] for error in refused["errors"]} == {"already_exists"}
    await api.conn.execute("DELETE FROM users")
    retry = await api.finished(await api.client.post(refused["links"]["retry"]))
    assert (retry["counts"]["created"], retry["columns"]) == (2, fields)
    assert await stored(api) == expected(2)


async def test_columns_are_part_of_the_request(api):
    """One idempotency key with other `columns` is another request; the order of the entries does not matter."""
    file = CSV_HEADER + csv_row(0)
    first = await post_csv(api, file, **TOKEN)
    assert first.status_code == 202
    reverse = dict(reversed(CSV_FIELDS.items()))
    again = await post_csv(api, file, reverse, **TOKEN)
    assert (again.status_code, again.json()["id"]) == (200, first.json()["id"])
    other = CSV_FIELDS | {'Имя "полное"': "email", "E-Mail; privat": "name"}
    assert (await post_csv(api, file, other, **TOKEN)).status_code == 422
    await api.finished(first)


# (columns, code, words of the message)
WRONG = [
    ("[]", "invalid_value", "object"),
    ('"email"', "invalid_value", "object"),
    ('{"E-mail": 1}', "invalid_value", "object"),
    ('{"E-mail": ["email"]}', "invalid_value", "object"),
    ('{"E-mail": "mail"}', "invalid_value", "maps 'E-mail' to 'mail', which is not a field of users"),
    ('{"E-mail": "slug"}', "invalid_value", "maps 'E-mail' to 'slug', which is not a field of users"),
    ('{"E-mail": "email", "Mail": "email"}', "conflicting_values", "maps 'E-mail' and 'Mail' to the same field email"),
    ('{"_line": null}', "invalid_value", "has '_line', an annotation"),
    ('{"a\\u0000": null}', "invalid_value", "U+0000"),
    (json.dumps({f"c{n}": None for n in range(1001)}), "too_long", "has more than 1000 names"),
    (json.dumps({"c" * 65_536: None}), "too_long", "has more than 65536 bytes"),
]
# as text only, of a CSV file with the columns E-mail, name, role, active
WRONG_TEXT = [
    ("", "invalid_value", "object"),
    ("null", "invalid_value", "object"),
    ("{", "invalid_value", "object"),
    ('{"E-mail": "email", "Mail": null}', "invalid_value", "has 'Mail', which is not a column of the file"),
    ('{"E-mail": "name"}', "conflicting_values", "maps 'E-mail' to name, but the file has a column name as well"),
]


@pytest.mark.parametrize(
    ("form", "columns", "code", "words"),
    [("multipart", *wrong) for wrong in WRONG + WRONG_TEXT] + [("object", *wrong) for wrong in WRONG],
)
async def test_wrong_columns(api, form, columns, code, words):
    """400 names the parameter and what is wrong with it, and nothing is stored."""
    if form == "multipart":
        file = b"E-mail,name,role,active\nada@example.org,Ada,reader,true\n"
        answer = await api.post(data={"resource": "users", "columns": columns}, files={"file": ("u.csv", file)})
    else:
        answer = await api.post(json={"resource": "users", "columns": json.loads(columns), "records": []})
    assert answer.status_code == 400, answer.text
    (fault,) = answer.json()["errors"]
    assert (fault["field"], fault["code"]) == ("columns", code)
    assert words in fault["message"]
    assert await api.has_nothing()


async def test_a_long_mapping_fits_a_form(api):
    """A thousand names of sixty characters are less than 64 KiB."""
    more = {f"{n:03}{'n' * 50}": None for n in range(996)}
    header = ",".join([*USERS_HEADER.decode().strip().split(","), *more])
    file = header + "\n" + user_row(0).decode().strip() + "," * len(more) + "\n"
    data = {"resource": "users", "columns": json.dumps(more)}
    job = await api.finished(await api.post(data=data, files={"file": ("u.csv", file.encode())}))
    assert (job["counts"]["created"], job["columns"]) == (1, more)
