"""Exports by a worker."""

from db.exports import parallel
from db.settings import Settings
from tests.support.eventually import eventually
from tests.support.exports import many_users, write

SESSIONS = "SELECT sessions FROM pg_stat_database WHERE datname = current_database()"


async def test_a_large_export_is_read_by_several_sessions(conn, database_url, tmp_path):
    """The file has all records in the order of their ids, and the worker has opened EXPORT_SESSIONS - 1 further sessions."""
    await many_users(conn, parallel.RECORDS_MIN)
    before = await value(conn, SESSIONS)
    settings = Settings(database_url=database_url, export_dir=str(tmp_path), export_sessions=3)
    job = await write(conn, settings, "users")
    ids = [line[7:43] for line in (tmp_path / job.file_name).read_text().splitlines()]
    assert len(ids) == job.file_records == parallel.RECORDS_MIN
    assert ids == sorted(set(ids))

    async def has_opened_two():
        return await value(conn, SESSIONS) >= before + 2

    # counted when a session ends
    await eventually(has_opened_two)


async def value(conn, query):
    return (await (await conn.execute(query)).fetchone())[0]
