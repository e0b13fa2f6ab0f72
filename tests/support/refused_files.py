"""Files of each format in which every third record is refused, for tests."""

from typing import NamedTuple

import pytest

from tests.support.api_client import USERS_HEADER

RECORDS = 20


class File(NamedTuple):
    """A file in which every third record has the role `boss`, which does not exist."""

    type: str
    head: bytes
    separator: bytes
    tail: bytes
    records: list[bytes]
    params: dict[str, str]

    @property
    def content(self) -> bytes:
        return self.of(self.records)

    @property
    def refused(self) -> list[bytes]:
        return [record for record in self.records if b"boss" in record]

    def of(self, records: list[bytes]) -> bytes:
        return self.head + self.separator.join(records) + self.tail


def rows(template: bytes) -> list[bytes]:
    return [
        template.replace(b"ROLE", b"boss" if n % 3 == 1 else b"reader").replace(b"#", b"%d" % n) for n in range(RECORDS)
    ]


SEMICOLONS = {"csv_delimiter": ";"}
FILES = {
    "csv": File("text/csv", USERS_HEADER, b"", b"", rows(b"u#@example.org,User #,ROLE,true\n"), {}),
    "csv, CRLF": File(
        "text/csv", b"role,email,name,active\r\n", b"", b"", rows(b'ROLE,u#@example.org,"User ""#""",true\r\n'), {}
    ),
    "csv, newlines in quotes": File(
        "text/csv", USERS_HEADER, b"", b"", rows('u#@example.org,"Ä\n\r\n#, ""x""\n",ROLE,true\n'.encode()), {}
    ),
    "csv, semicolons": File(
        "text/csv", b'"email";name;active;role\n', b"", b"", rows(b"u#@example.org;User, #;true;ROLE\n"), SEMICOLONS
    ),
    "ndjson": File(
        "application/x-ndjson",
        b"",
        b"",
        b"",
        rows(b'  {"email" : "u#@example.org","name":"\\u00dc #", "role":"ROLE", "active":true}  \r\n'),
        {},
    ),
    "json": File(
        "application/json",
        b"[",
        b",\n",
        b"]",
        rows(b'{\n  "email": "u#@example.org", "name": "U,\\n #",\n  "role": "ROLE", "active": true}'),
        {},
    ),
}
EACH_FILE = pytest.mark.parametrize("file", FILES.values(), ids=list(FILES))


async def imported(api, file: File, content: bytes | None = None, **params) -> dict:
    return await api.finished(
        await api.post(content or file.content, type=file.type, params=parameters(file, **params))
    )


def parameters(file: File, **params) -> dict[str, str]:
    return {"resource": "users"} | file.params | params


async def records_of(api, job: dict, which: str, **params) -> bytes:
    answer = await api.client.get(job["links"][f"{which}_records"], params=params)
    assert answer.status_code == 200, answer.text
    return answer.content
