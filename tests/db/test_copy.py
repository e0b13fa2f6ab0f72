"""COPY of rows in the binary format."""

from db import copy


async def test_arrays_of_integers(conn):
    """int4[] is formatted here and not by psycopg: no element, the smallest, the largest, and NULL instead of an array."""
    arrays = [[], [0], [-(2**31), -1, 2**31 - 1], [*range(1000)], None]
    async with conn.transaction():
        await conn.execute("CREATE TEMPORARY TABLE copied (number int4, numbers int4[]) ON COMMIT DROP")
        await copy.rows(conn, "copied", ["number", "numbers"], ["int4", "int4[]"], enumerate(arrays))
        cursor = await conn.execute("SELECT numbers FROM copied ORDER BY number")
        assert [numbers for (numbers,) in await cursor.fetchall()] == arrays
