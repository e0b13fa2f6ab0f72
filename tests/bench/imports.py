r"""Users by HTTP until the import is completed (clean, dirty, and there already), against `\copy` of the clean file."""

from tests.bench import files, timed_import
from tests.bench.environment import Environment
from tests.bench.files import FAULT_RATE
from tests.bench.report import Figure, Target, at_least


async def run(env: Environment) -> list[Figure]:
    records = env.size.records
    clean = files.users(env, records)
    dirty = files.users(env, records, fault_rate=FAULT_RATE)
    async with timed_import.opened(env, "imports") as api:

        async def copy() -> float:
            await timed_import.emptied(api, "users")
            return records / timed_import.copied(api, clean)

        async def import_clean() -> float:
            await timed_import.emptied(api, "users")
            return records / await timed_import.imported(api, clean)

        async def import_dirty() -> float:
            await timed_import.emptied(api, "users")
            return records / await timed_import.imported(api, dirty)

        async def import_again() -> float:
            await timed_import.emptied(api, "users")
            timed_import.copied(api, clean)
            await timed_import.settled(api, "users")
            return records / await timed_import.imported(api, clean, mode="upsert", stored="unchanged")

        contenders = {r"\copy": copy, "clean": import_clean, "dirty": import_dirty, "upsert": import_again}
        rates = await timed_import.rounds(env, "users", "records/s", contenders, env.size.rounds)

    def figure(name: str, contender: str, target: Target) -> Figure:
        return Figure(
            name=name,
            unit="records/s",
            samples=rates[contender],
            yardstick=r"psql \copy of the clean file",
            yardstick_samples=rates[r"\copy"],
            target=target,
        )

    return [
        figure(f"import of {records:,} users, {clean.megabytes:.0f} MB of CSV", "clean", at_least(1.2)),
        figure(f"the same with {FAULT_RATE:.1%} bad records", "dirty", at_least(0.8)),
        figure("upsert of the clean file when all of it is there", "upsert", at_least(0.6)),
    ]
