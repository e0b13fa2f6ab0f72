r"""Articles and comments, whose parents are there, against `\copy` of the same CSV into the same table.

The parents were loaded by `\copy`, vacuumed and analysed, for both alike: the look-ups of the foreign keys are part of the work.
"""

from collections.abc import Callable
from functools import partial

from tests.bench import files, timed_import
from tests.bench.environment import Environment
from tests.bench.files import File
from tests.bench.report import Figure, at_least
from tests.support.api_client import Api


async def run(env: Environment) -> list[Figure]:
    records = env.size.related_records
    users, articles, comments = (
        files.users(env, env.size.records),
        files.articles(env, records),
        files.comments(env, records),
    )
    async with timed_import.opened(env, "related") as api:
        timed_import.copied(api, users)
        await timed_import.settled(api, "users")
        figures = await _measure(env, api, articles)
        await timed_import.emptied(api, "articles")
        timed_import.copied(api, articles)
        await timed_import.settled(api, "articles")
        return figures + await _measure(env, api, comments)


async def _measure(env: Environment, api: Api, file: File) -> list[Figure]:
    async def copy() -> float:
        await timed_import.emptied(api, file.resource)
        return file.records / timed_import.copied(api, file)

    async def import_(as_posted: Callable[[File], File]) -> float:
        await timed_import.emptied(api, file.resource)
        return file.records / await timed_import.imported(api, as_posted(file))

    contenders = {
        r"\copy": copy,
        "CSV": partial(import_, lambda file: file),
        "NDJSON": partial(import_, files.as_ndjson),
    }
    rates = await timed_import.rounds(env, file.resource, "records/s", contenders, env.size.rounds)
    return [
        Figure(
            name=f"import of {file.records:,} {file.resource} as {format}",
            unit="records/s",
            samples=rates[format],
            yardstick=r"psql \copy of the same CSV" if format == "CSV" else r"psql \copy of the same records as CSV",
            yardstick_samples=rates[r"\copy"],
            target=at_least(1.2),
        )
        for format in ("CSV", "NDJSON")
    ]
