r"""The same file into tables of different sizes, and `\copy` of it into the same: what a record costs as the table grows."""

from tests.bench import files, timed_import
from tests.bench.environment import Environment
from tests.bench.report import Figure
from tests.support.api_client import Api


async def run(env: Environment) -> list[Figure]:
    file = files.users(env, env.size.tried_records)
    figures: list[Figure] = []
    async with timed_import.opened(env, "tables") as api:
        for rows in env.size.table_rows:
            await _fill(api, rows)

            async def copy() -> float:
                await _prepare(api)
                return 1e6 * timed_import.copied(api, file) / file.records

            async def import_() -> float:
                await _prepare(api)
                return 1e6 * await timed_import.imported(api, file) / file.records

            title = f"table of {rows:,} rows"
            contenders = {r"\copy": copy, "import": import_}
            costs = await timed_import.rounds(env, title, "µs a record", contenders, env.size.rounds_of_long)
            figures.append(
                Figure(
                    name=f"cost of a record, {title}",
                    unit="µs",
                    samples=costs["import"],
                    yardstick=r"psql \copy into the same table",
                    yardstick_samples=costs[r"\copy"],
                )
            )
    return figures


async def _fill(api: Api, rows: int) -> None:
    """Users whose keys lie between those of the file and differ from all of them."""
    await timed_import.emptied(api, "users")
    await api.conn.execute(
        """
        INSERT INTO users (email, name, role, active)
        SELECT format('user%%s.filler@example.org', n), 'Filler', 'reader', true
        FROM generate_series(1, %(rows)s) AS n
        """,
        {"rows": rows},
    )


async def _prepare(api: Api) -> None:
    """Removes the rows of the previous contender and rebuilds the indexes, whose page splits would favour the next one."""
    await api.conn.execute("DELETE FROM users WHERE name <> 'Filler'")
    await api.conn.execute("DELETE FROM import_jobs")
    await api.conn.execute("REINDEX TABLE users")
    await timed_import.settled(api, "users")
