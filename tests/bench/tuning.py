"""WORKER_POOL_SIZE and BATCH_SIZE: the same import with one of them changed, compared with two workers and chunks of 1,000."""

from functools import partial
from typing import Any

from tests.bench import files, timed_import
from tests.bench.environment import Environment
from tests.bench.report import Figure, at_least

BATCH_SIZE = 1_000
WORKERS = 2
USUAL = f"{WORKERS} workers, BATCH_SIZE {BATCH_SIZE:,}"
WORKER_COUNTS = (1, 4, 10)
BATCH_SIZES = (100, 10_000)


async def run(env: Environment) -> list[Figure]:
    file = files.users(env, env.size.tried_records)

    async def measure(**settings: Any) -> float:
        async with timed_import.opened(env, "tuning", **settings) as api:
            await timed_import.emptied(api, "users")
            return file.records / await timed_import.imported(api, file)

    changed = {f"{count} worker{'s' * (count > 1)}": {"worker_pool_size": count} for count in WORKER_COUNTS}
    changed |= {f"BATCH_SIZE {size:,}": {"batch_size": size} for size in BATCH_SIZES}
    tried = {USUAL: {"worker_pool_size": WORKERS, "batch_size": BATCH_SIZE}} | changed
    contenders = {name: partial(measure, **settings) for name, settings in tried.items()}
    rates = await timed_import.rounds(env, "settings", "records/s", contenders, env.size.rounds_of_long)
    return [
        Figure(
            name=f"import of {file.records:,} users, {name}",
            unit="records/s",
            samples=rates[name],
            yardstick=USUAL,
            yardstick_samples=rates[USUAL],
            # more workers than cores may be a little slower
            target=at_least(0.9) if name == "10 workers" else None,
        )
        for name in changed
    ]
