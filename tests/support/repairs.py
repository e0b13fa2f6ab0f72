"""Imports of users with refused records and repairs of them, for tests."""

import httpx

from tests.support.api_client import USERS_HEADER, post_users

RECORDS = 12


def row(n: int, role: str = "boss", email: str | None = None) -> bytes:
    return f"{email or f'u{n}@example.org'},User {n},{role},true\n".encode()


def rows(count: int = RECORDS) -> bytes:
    """Users of which each second has a role that does not exist: those on the lines 2, 4, 6, …"""
    return USERS_HEADER + b"".join(row(n, "reader" if n % 2 else "boss") for n in range(count))


REFUSED_LINES = [*range(2, 2 + RECORDS, 2)]


async def imported(api, content: bytes, type: str = "text/csv", **params) -> dict:
    return await api.finished(await post_users(api, content, type=type, params=params))


async def refused(api, job: dict, **params) -> bytes:
    answer = await api.client.get(job["links"]["failed_records"], params={"annotate": "true", **params})
    assert answer.status_code == 200, answer.text
    return answer.content


async def posted(api, parent: dict, content: bytes, type: str = "text/csv", **params) -> httpx.Response:
    return await api.post(content, type=type, params={"repairs": parent["id"], **params})


async def repaired(api, parent: dict, content: bytes, type: str = "text/csv", **params) -> dict:
    return await api.finished(await posted(api, parent, content, type, **params))


async def again(api, job: dict) -> dict:
    """The job as it is now."""
    return (await api.client.get(job["links"]["self"])).json()


async def lines(api, job: dict) -> list[int]:
    return sorted({error["line"] for error in await api.errors(job["id"])})


async def stored(api) -> list[str]:
    found = await (await api.conn.execute("SELECT email FROM users ORDER BY email")).fetchall()
    return [email for (email,) in found]


def annotated(*lines: int, role: str = "admin", email: str = "m{}@example.org") -> bytes:
    """A repair of these lines."""
    return b"_line," + USERS_HEADER + b"".join(b"%d," % n + row(n, role, email.format(n)) for n in lines)
